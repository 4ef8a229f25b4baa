"""The evidence of a trigger about a target, and its sliding window."""

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
"""Number of outcomes that show the end of an alert's condition, whatever their time."""
CALLERS_KEPT = 16
"""Maximum number of callers with counted bad requests; those with fewest are dropped."""
REPEATS_KEPT = 256
"""Maximum number of a target's failed bodies with their minute."""


class Slot(Contract):
    """Outcomes in a short part of a trigger's sliding window."""

    start_s: int
    trials: int = 0
    hits: int = 0
    drilled: int = 0


class TriggerState(Contract):
    """The evidence of a trigger about a target.

    Attributes:
        detector: E-detector of the active target; None for a candidate.
        history: The active target's bad requests in its first hour, if the trigger declares `own_factor`.
        blocks: Open blocks of the active target.
        candidate: Blocks of a canary or shadow, and their comparison with the active version's.
        first_bad_at: Arrival of the first bad request since the evidence was at its initial value.
        drill: Last drill that affected a bad request.
        callers: Bad requests since `first_bad_at` by caller, of the callers with most.
        mirrored: Counts of requests to both versions, which are evidence in their blocks.
        hidden: Requests of a canary that are excluded because their parameters force the metric.
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
        """Return the evidence against a target: the highest so far if it is active, the current if a candidate."""
        if self.detector is not None:
            return self.detector.peak
        return self.candidate.e_value if self.candidate is not None else 0.0


def current_limit(state: TriggerState, trigger: Trigger) -> float:
    """Return the permitted share of bad requests: the declared one, or a lower one by the target's history."""
    declared = limit_of(trigger)
    return declared if trigger.own_factor is None else min(declared, own_limit(state.history, trigger.own_factor))


def fresh_trigger(role: Role) -> TriggerState:
    """Return the initial state: an e-detector for the active target, else the tests of a candidate."""
    return TriggerState(detector=ShareDetector()) if role == "active" else TriggerState(candidate=CandidateState())


def begin_anew(state: TriggerState, role: Role) -> TriggerState:
    """Return a trigger with reset evidence; open blocks stay, and a candidate's evidence for passing."""
    fresh = fresh_trigger(role)
    if state.candidate is not None and fresh.candidate is not None:
        return fresh.model_copy(update={"candidate": state.candidate.begun_anew()})
    return fresh.model_copy(update={"blocks": state.blocks, "history": state.history})


def observe_outcomes(state: TriggerState, trigger: Trigger, outcomes: Sequence[Outcome]) -> TriggerState:
    """Return a trigger with outcomes added to open blocks and slots; `close_trigger` makes blocks evidence."""
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
    """Return a candidate's trigger with outcomes added to its blocks only: of the active version, or of pairs."""
    if state.candidate is None or not (candidate or active):
        return state
    return state.model_copy(update={"candidate": add_beside(state.candidate, candidate, active)})


def close_trigger(state: TriggerState, trigger: Trigger, now: datetime | None) -> tuple[TriggerState, Closed]:
    """Return a trigger with its closed blocks as evidence, and these blocks; `now` None closes all."""
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
    if current_limit(known, trigger) < limit:  # from here on with other stakes than the evidence so far
        known = known.model_copy(update={"detector": ShareDetector(open=detector.open)})
    return known, closed


def _at_rest(state: TriggerState, update: dict[str, object], *, is_quiet: bool) -> TriggerState:
    rest: dict[str, object] = {"first_bad_at": None, "drill": None, "callers": {}} if is_quiet else {}
    return state.model_copy(update={**update, **rest})


def without_repeats(
    known: Mapping[str, int], records: Iterable[Inference]
) -> tuple[dict[str, int], tuple[Inference, ...]]:
    """Return the minute by key of failed bodies, and the records without repetitions.

    An equal failed body of an API key counts once a minute; failures of drills all count.
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
    """Return the length of a window's slots in seconds."""
    return max(1, round(window_s / SLOTS_PER_WINDOW))


def add_to_slots(slots: tuple[Slot, ...], window_s: float, outcomes: Iterable[Outcome]) -> tuple[Slot, ...]:
    """Return the slots of two windows with outcomes added by end time, and those of the newest outcomes."""
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
    """Return the newest slots with at least `requests` outcomes in total, or all."""
    chosen: list[Slot] = []
    for slot in reversed(slots):
        if sum(each.trials for each in chosen) >= requests:
            break
        chosen.append(slot)
    return tuple(chosen)


def is_calm(slots: Sequence[Slot], window_s: float, now: datetime, *, limit: float, requests: int) -> bool:
    """Return whether the last window, or the newest outcomes if it has too few, are within the limit."""
    last = recent(slots, window_s, now)
    if last.ratio is not None and last.trials >= requests:
        return last.ratio <= limit
    few = newest(slots, requests)
    trials, hits = sum(slot.trials for slot in few), sum(slot.hits for slot in few)
    return trials >= requests and hits <= limit * trials


@dataclass(frozen=True)
class Recent:
    """Counts of the outcomes in a trigger's last window."""

    trials: int
    hits: int
    drilled: int
    window: Window

    @property
    def ratio(self) -> float | None:
        """Share of bad requests; None without any request."""
        return self.hits / self.trials if self.trials else None


def recent(slots: Iterable[Slot], window_s: float, now: datetime, since: datetime | None = None) -> Recent:
    """Return the counts of the last window, or of its part since a time."""
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
