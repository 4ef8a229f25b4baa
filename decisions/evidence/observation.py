"""The evidence of one trigger about one target: adding outcomes of requests, and the sliding window."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import Field

from contracts.facts import Inference
from contracts.facts.watch import PairCounts, Window
from contracts.policy import Trigger
from contracts.vocabulary import Contract
from decisions.evidence.block_tests import (
    Closed,
    History,
    OpenBlocks,
    ShareDetector,
    add_to_blocks,
    close_blocks,
    is_at_rest,
    learn,
    observe_detector,
    own_limit,
)
from decisions.evidence.candidates import CandidateState, add_beside, close_candidate
from decisions.evidence.triggers import Outcome, ended_at, limit_of

Role = Literal["active", "canary", "shadow"]
SLOTS_PER_WINDOW = 12
CALM_REQUESTS = 10
"""So many outcomes show that an alert's condition is gone, however long they took."""
CALLERS_KEPT = 16
"""Callers whose bad requests are counted one by one; above it those with fewest are forgotten."""
REPEATS_KEPT = 256
"""Failed bodies of a target that are remembered for a minute."""


class Slot(Contract):
    """A short span of one trigger's outcomes; its sliding window consists of slots."""

    start_s: int
    trials: int = 0
    hits: int = 0
    drilled: int = 0


class TriggerState(Contract):
    """One trigger's evidence about one target.

    Attributes:
        detector: Of the active target: the e-detector of its blocks; None for a candidate.
        history: Of the active target: its share of bad requests in its first hour, where a trigger declares a factor.
        blocks: Of the active target: the blocks that still take requests.
        candidate: Of a canary or shadow: its blocks, and their comparison with the active version's.
        first_bad_at: Arrival of the first bad request since the evidence last favoured the target.
        drill: The last drill that touched a bad request.
        callers: Bad requests since then by caller, of those with most.
        mirrored: Results of requests sent to both versions; they are evidence in their blocks.
        hidden: Of a canary: requests excluded because the caller's parameters force the metric.
    """

    detector: ShareDetector | None = None
    history: History = History()
    blocks: OpenBlocks = OpenBlocks()
    candidate: CandidateState | None = None
    slots: tuple[Slot, ...] = ()
    first_bad_at: datetime | None = None
    drill: str | None = None
    callers: dict[str, int] = Field(default_factory=dict)
    mirrored: PairCounts | None = None
    hidden: int = 0

    @property
    def peak(self) -> float:
        """The strongest evidence so far against the active target; against a candidate, the evidence now."""
        if self.detector is not None:
            return self.detector.peak
        return self.candidate.e_value if self.candidate is not None else 0.0


def current_limit(state: TriggerState, trigger: Trigger) -> float:
    """Return the share of bad requests that a trigger allows a target: the declared one, or less by its own history."""
    declared = limit_of(trigger)
    return declared if trigger.own_factor is None else min(declared, own_limit(state.history, trigger.own_factor))


def fresh_trigger(role: Role) -> TriggerState:
    """Return a trigger without evidence: an e-detector for the active target, the tests of a candidate otherwise."""
    return TriggerState(detector=ShareDetector()) if role == "active" else TriggerState(candidate=CandidateState())


def begin_anew(state: TriggerState, role: Role) -> TriggerState:
    """Return a trigger with fresh evidence, except the candidate's; open blocks take requests."""
    fresh = fresh_trigger(role)
    if state.candidate is not None and fresh.candidate is not None:
        return fresh.model_copy(update={"candidate": state.candidate.begun_anew()})
    return fresh.model_copy(update={"blocks": state.blocks, "history": state.history})


def observe_outcomes(state: TriggerState, trigger: Trigger, outcomes: Sequence[Outcome]) -> TriggerState:
    """Return a trigger after some outcomes: counted in their blocks, which are evidence once they are over.

    `close_trigger` takes them into the evidence.
    """
    if not outcomes:
        return state
    update: dict[str, object] = {"slots": add_to_slots(state.slots, trigger.window_s, outcomes)}
    if state.candidate is not None:
        update["candidate"] = add_beside(state.candidate, outcomes, ())
    else:
        update["blocks"] = add_to_blocks(state.blocks, outcomes)
    bad = [outcome for outcome in outcomes if outcome.bad]
    if bad:
        update["first_bad_at"] = state.first_bad_at or bad[0].at
        callers = Counter(state.callers) + Counter(outcome.caller for outcome in bad)
        update["callers"] = dict(callers.most_common(CALLERS_KEPT))
        update["drill"] = next((outcome.drill for outcome in reversed(bad) if outcome.drill), state.drill)
    return state.model_copy(update=update)


def observe_beside(state: TriggerState, candidate: Sequence[Outcome], active: Sequence[Outcome]) -> TriggerState:
    """Return a candidate's trigger with outcomes that count in its blocks only: of the active version, or of pairs."""
    if state.candidate is None or not (candidate or active):
        return state
    return state.model_copy(update={"candidate": add_beside(state.candidate, candidate, active)})


def close_trigger(state: TriggerState, trigger: Trigger, now: datetime | None) -> tuple[TriggerState, Closed]:
    """Return a trigger with the blocks that are over at a time as evidence, and these; all are over without a time."""
    if state.candidate is not None:
        after, closed = close_candidate(state.candidate, trigger, now)
        if after is state.candidate:
            return state, {}
        return _at_rest(state, {"candidate": after}, is_quiet=after.is_at_rest), closed
    blocks, closed = close_blocks(state.blocks, now)
    if state.detector is None or not closed:
        return state, {}
    limit = current_limit(state, trigger)
    detector = observe_detector(state.detector, limit, closed.values())
    is_quiet = not blocks.bad and is_at_rest(detector, limit)
    update: dict[str, object] = {"detector": detector, "blocks": blocks}
    if trigger.own_factor is not None:
        update["history"] = learn(state.history, closed.values())
    known = _at_rest(state, update, is_quiet=is_quiet)
    if current_limit(known, trigger) < limit:  # known from here on: its stakes differ from those of the evidence so far
        known = known.model_copy(update={"detector": ShareDetector(open=detector.open)})
    return known, closed


def _at_rest(state: TriggerState, update: dict[str, object], *, is_quiet: bool) -> TriggerState:
    rest: dict[str, object] = {"first_bad_at": None, "drill": None, "callers": {}} if is_quiet else {}
    return state.model_copy(update={**update, **rest})


def without_repeats(
    known: Mapping[str, int], records: Iterable[Inference]
) -> tuple[dict[str, int], tuple[Inference, ...]]:
    """Return the records that count, and the failed bodies by key with the minute in which each counted.

    Of one key, an equal body that fails again counts once a minute. A drill's failures all count. Only failed requests
    have a digest of their body.
    """
    minutes, counted = dict(known), []
    for record in records:
        if record.body is not None and record.drill is None:
            name, minute = f"{record.caller}/{record.body}", int(ended_at(record).timestamp() // 60)
            if minutes.pop(name, None) == minute:
                minutes[name] = minute
                continue
            minutes[name] = minute
        counted.append(record)
    return dict(list(minutes.items())[-REPEATS_KEPT:]), tuple(counted)


# -- the sliding window -----------------------------------------------------------------------------------------------


def slot_length_s(window_s: float) -> int:
    """Return the length of the slots of a trigger's window."""
    return max(1, round(window_s / SLOTS_PER_WINDOW))


def add_to_slots(slots: tuple[Slot, ...], window_s: float, outcomes: Iterable[Outcome]) -> tuple[Slot, ...]:
    """Return the slots with outcomes counted at the time of their end; two windows and the newest few are kept."""
    length = slot_length_s(window_s)
    counts = {slot.start_s: [slot.trials, slot.hits, slot.drilled] for slot in slots}
    for outcome in outcomes:
        start = math.floor(outcome.ended_at.timestamp()) // length * length
        count = counts.setdefault(start, [0, 0, 0])
        count[0] += 1
        count[1] += outcome.bad
        count[2] += outcome.bad and outcome.drill is not None
    oldest = max(counts, default=0) - 2 * window_s - length
    kept = [
        Slot(start_s=start, trials=counts[start][0], hits=counts[start][1], drilled=counts[start][2])
        for start in sorted(counts)
    ]
    few = newest(kept, CALM_REQUESTS)
    return tuple(slot for slot in kept if slot.start_s >= oldest or slot in few)


def newest(slots: Sequence[Slot], requests: int) -> tuple[Slot, ...]:
    """Return the newest slots that have so many outcomes together, or all if they have fewer."""
    chosen: list[Slot] = []
    for slot in reversed(slots):
        if sum(each.trials for each in chosen) >= requests:
            break
        chosen.append(slot)
    return tuple(chosen)


def is_calm(slots: Sequence[Slot], window_s: float, now: datetime, *, limit: float, requests: int) -> bool:
    """Return whether the last window is within its limit; where it has too few outcomes, whether the newest few are."""
    last = recent(slots, window_s, now)
    if last.ratio is not None and last.trials >= requests:
        return last.ratio <= limit
    few = newest(slots, requests)
    trials, hits = sum(slot.trials for slot in few), sum(slot.hits for slot in few)
    return trials >= requests and hits <= limit * trials


@dataclass(frozen=True)
class Recent:
    """The outcomes of a trigger's last window."""

    trials: int
    hits: int
    drilled: int
    window: Window

    @property
    def ratio(self) -> float | None:
        """Share of bad requests; None without any request."""
        return self.hits / self.trials if self.trials else None


def recent(slots: Iterable[Slot], window_s: float, now: datetime, since: datetime | None = None) -> Recent:
    """Return the sums of the last window before now, or of its part since a time."""
    begin = max(0.0, now.timestamp() - window_s)
    if since is not None:
        begin = min(max(begin, since.timestamp()), now.timestamp())
    chosen = [slot for slot in slots if slot.start_s + slot_length_s(window_s) > begin]
    return Recent(
        trials=sum(slot.trials for slot in chosen),
        hits=sum(slot.hits for slot in chosen),
        drilled=sum(slot.drilled for slot in chosen),
        window=span(begin, now.timestamp() - begin),
    )


def span(start_s: float, length_s: float) -> Window:
    """Return a window from its start in seconds since the epoch and its length."""
    start = datetime.fromtimestamp(start_s, UTC)
    return Window.model_validate({"from": start, "to": start + timedelta(seconds=length_s)})
