"""Replay of recorded windows through the monitor's observe loop and the rollback-controller's decision.

A window summary holds how many requests were bad in each block of two seconds, which is all that the monitor's detector
of an active target knows of them. Of a candidate, and for a trigger that counts otherwise than the recorded policy, it
holds how many of the window were bad, not which: bad ones are spread evenly over the window (over the part of it in
which the target took traffic). Where an alert of the same kind was really raised, they come from that
moment on, without gaps if few requests follow it: the good requests before it would otherwise outweigh a regression
that was rolled back after a few seconds. There the replay errs on the side of firing.

Alerts are those of `observe_loop`, which the monitor runs too. A dead last replica, a target that is loaded nowhere,
and the comparison of a canary with the active target need single requests and are not replayed. The route is the
recorded one: the replay does not invent the traffic that another rollback would have caused, except that a target which
would have been rolled back takes no traffic until it was promoted again.

The previous version is taken to generate. While one version is suspended, no trigger moves traffic.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, Literal

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertUpdated, ReleaseOpened, WindowSummarised
from contracts.facts.watch import AlertKind
from contracts.policy import FALSE_ALARM_EVERY, Trigger
from contracts.vocabulary import Target
from decisions.evidence.alerts import AlertFact
from decisions.evidence.block_tests import BLOCK_S
from decisions.evidence.observation import Role
from decisions.evidence.triggers import Outcome, kind_of, sequential
from decisions.replay.counts import Counted, Unknown, count_bad
from decisions.replay.route_history import Routes, Span, cut, share_of
from decisions.replay.watched import Watched
from decisions.rollback.rule import decide, evidence_of, has_recovered
from decisions.routes.edits import Changed, EditRefused, put_back, roll_back

Part = tuple[Span, datetime, datetime]
"""A part of a window in which its target had the same share of traffic."""
Spread = tuple[Span, Sequence[bool], Sequence[datetime]]
"""Of a part: whether each request was bad, and when it ended."""
RAISED_WITHIN = timedelta(seconds=5)
"""So long after the end of a window an alert may be raised about its requests."""


def spread(trials: int, hits: int) -> list[bool]:
    """Return which of some requests are bad, spread evenly: a single one is in the middle."""
    so_far = [(2 * i * hits + trials) // (2 * trials) for i in range(trials + 1)]
    return [after > before for before, after in pairwise(so_far)]


def spread_late(trials: int, hits: int, late: int) -> list[bool]:
    """Return which are bad, spread evenly over the last `late` requests (at least `hits`), of which the last is bad."""
    so_far = [index * hits // max(late, 1) for index in range(late + 1)]
    return [*([False] * (trials - late)), *(after > before for before, after in pairwise(so_far))]


def spread_over(
    counted: Counted, parts: Sequence[Part], raised: Sequence[datetime], begin: datetime
) -> Iterable[Spread]:
    """Yield outcomes and times for each part of a window, which begins at a time.

    Where the blocks are known, each has its requests in it. Otherwise they come evenly, as if the parts were adjacent,
    the bad ones from the moment on at which an alert was really raised, if one was.
    """
    if counted.blocks:
        return _spread_blocks(counted.blocks, parts, begin)
    return _spread_evenly(counted, parts, raised)


def _spread_blocks(blocks: Sequence[tuple[int, int, int]], parts: Sequence[Part], begin: datetime) -> Iterable[Spread]:
    outcomes = [outcome for _, requests, bad in blocks for outcome in spread(requests, bad)]
    times = [
        begin + timedelta(seconds=after_s + BLOCK_S * (index + 0.5) / requests)
        for after_s, requests, _ in blocks
        for index in range(requests)
    ]
    cuts = [0, *(bisect_right(times, end) for _, _, end in parts[:-1]), len(times)]
    for (span, _, _), (first, last) in zip(parts, pairwise(cuts), strict=True):
        yield span, outcomes[first:last], times[first:last]


def _spread_evenly(counted: Counted, parts: Sequence[Part], raised: Sequence[datetime]) -> Iterable[Spread]:
    lengths = [(end - begin).total_seconds() for _, begin, end in parts]
    ends = [math.fsum(lengths[: index + 1]) for index in range(len(parts))]
    positions = [(i + 0.5) / counted.trials * ends[-1] for i in range(counted.trials)]
    outcomes = spread(counted.trials, counted.hits)
    first_at, last_at = parts[0][1], parts[-1][2]
    raised_at = next((at for at in raised if first_at <= at <= last_at + RAISED_WITHIN), None)
    if raised_at is not None:
        after = max(0.0, (last_at - raised_at).total_seconds()) / (last_at - first_at).total_seconds()
        outcomes = spread_late(counted.trials, counted.hits, max(counted.hits, round(after * counted.trials)))
    cuts = [bisect_right(positions, end) for end in ends[:-1]] + [len(positions)]
    first = 0
    for (span, begin, _), length, end, last in zip(parts, lengths, ends, cuts, strict=True):
        times = [begin + timedelta(seconds=position - (end - length)) for position in positions[first:last]]
        yield span, outcomes[first:last], times
        first = last


Result = Literal["rolled back", "canary aborted", "held", "manual", "refused", "unknown"]
EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Fired:
    """An alert that would have been raised, or updated while its rollback was held, and the decision about it.

    Attributes:
        trials, hits: Requests of the window in which it fired, and how many of them were bad.
        to: The target that would have taken all traffic then.
        again: The alert was open before, and its rollback was held.
    """

    at: datetime
    target: Target
    trigger: Trigger
    role: Role
    trials: int
    hits: int
    e_value: float
    outcome: Result
    code: str | None = None
    reason: str = ""
    to: Target | None = None
    again: bool = False


@dataclass(frozen=True)
class Gap:
    """The gap of a trigger's replay, and the number of windows that it affects."""

    trigger: str
    reason: str
    windows: int


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        fired: The alerts that lead to a decision, and the decisions.
        alerts: Every alert fact, in the order of its windows.
        gaps: What could not be replayed.
    """

    fired: tuple[Fired, ...]
    alerts: tuple[AlertFact, ...]
    gaps: tuple[Gap, ...]
    windows: int
    requests: int
    begin: datetime | None
    end: datetime | None


def replay(
    triggers: Sequence[Trigger],
    events: Sequence[Event[Any]],
    *,
    since: datetime,
    false_alarm_every: float = FALSE_ALARM_EVERY,
) -> Replay:
    """Replay the windows of one model since a time, oldest first, without evidence and rollbacks from before."""
    windows: dict[str, WindowSummarised] = {
        event.id: event.data
        for event in events
        if isinstance(event.data, WindowSummarised) and event.data.window.to > since
    }
    declared = {
        event.data.version: {trigger.name: trigger for trigger in event.data.policy.triggers}
        for event in events
        if isinstance(event.data, ReleaseOpened)
    }
    history = _History(triggers, declared, events, false_alarm_every)
    ordered = sorted(windows.values(), key=lambda summary: (summary.window.from_, str(summary.target)))
    for _, concurrent in groupby(ordered, key=lambda summary: summary.window.from_):
        history.observe(list(concurrent))
    return Replay(
        fired=tuple(history.fired),
        alerts=tuple(history.alerts),
        windows=len(ordered),
        requests=sum(summary.requests for summary in ordered),
        gaps=tuple(Gap(*key, number) for key, number in history.gaps.items()),
        begin=ordered[0].window.from_ if ordered else None,
        end=max((summary.window.to for summary in ordered), default=None),
    )


Raised = Mapping[tuple[Target, AlertKind], Sequence[datetime]]


def _raised(events: Iterable[Event[Any]]) -> Raised:
    """Return when alerts of each kind were really raised."""
    raised: dict[tuple[Target, AlertKind], list[datetime]] = {}
    for event in events:
        if isinstance(event.data, AlertRaised):
            raised.setdefault((event.data.target, event.data.kind), []).append(event.data.raised_at or event.time)
    return raised


@dataclass(frozen=True)
class _Question:
    """An alert fact that asks for a decision, with the counts of its window."""

    fact: AlertRaised | AlertUpdated
    trigger: Trigger
    counted: Counted
    role: Role

    @property
    def at(self) -> datetime:
        """Return when the fact was decided."""
        assert self.fact.window is not None  # noqa: S101 - every finding of a trigger has a window
        return self.fact.window.to

    @property
    def again(self) -> bool:
        """Return whether the alert was open before."""
        return isinstance(self.fact, AlertUpdated)


class _History:
    """The state of a replay."""

    def __init__(
        self,
        triggers: Sequence[Trigger],
        declared: Mapping[int, Mapping[str, Trigger]],
        events: Sequence[Event[Any]],
        false_alarm_every: float,
    ) -> None:
        self.fired: list[Fired] = []
        self.alerts: list[AlertFact] = []
        self.gaps: dict[tuple[str, str], int] = {}
        self._out_of_traffic: dict[Target, list[tuple[datetime, datetime | None]]] = {}
        self._triggers, self._sequential = triggers, sequential(triggers)
        self._false_alarm_every = false_alarm_every
        self._routes, self._declared = Routes(events), declared
        self._raised = _raised(events)
        self._spans: dict[Target, list[Span]] = {}
        self._watched: dict[Target, Watched] = {}
        self._held: dict[tuple[Target, str], str | None] = {}
        """By target and trigger: the code that held or refused its rollback last."""

    def observe(self, concurrent: Sequence[WindowSummarised]) -> None:
        """Observe the windows that begin at the same time, then decide their alerts in the order of their times."""
        questions = [question for summary in concurrent for question in self._observe(summary)]
        for question in sorted(questions, key=lambda question: question.at):
            self._decide(question)

    def _observe(self, summary: WindowSummarised) -> list[_Question]:
        """Observe one window of one target; return the questions that follow from it."""
        target = summary.target
        counts = self._count(summary)
        parts = self._parts(summary)
        if not parts or not counts:
            return []
        by_part: list[dict[str, list[Outcome]]] = [{} for _ in parts]
        for trigger, counted in counts.values():
            raised, begin = self._raised.get((target, kind_of(trigger)), ()), summary.window.from_
            for part, (_, outcomes, times) in zip(by_part, spread_over(counted, parts, raised, begin), strict=True):
                pairs = zip(outcomes, times, strict=True)
                part[trigger.name] = [Outcome(bad=bad, at=at, ended_at=at) for bad, at in pairs]
        watched = self._watched.setdefault(target, Watched(target, self._sequential, self._false_alarm_every))
        by_block = {name for name, (_, counted) in counts.items() if counted.blocks}
        questions = []
        for (span, begin, end), observed in zip(parts, by_part, strict=True):
            passed = watched.pass_through(self._spans[target], span.since)
            for fact in (*passed, *watched.advance(span, begin, end, observed, by_block)):
                self.alerts.append(fact)
                if isinstance(fact, AlertRaised | AlertUpdated) and fact.trigger in counts:
                    questions.append(_Question(fact, *counts[fact.trigger], role=span.role))
        return questions

    def _count(self, summary: WindowSummarised) -> dict[str, tuple[Trigger, Counted]]:
        """Return each trigger's counts in a window; missing counts are gaps."""
        recorded = self._declared.get(summary.target.version, {})
        counts = {}
        for trigger in self._triggers:
            counted = count_bad(trigger, summary, recorded)
            if isinstance(counted, Unknown):
                key = (trigger.name, counted.reason)
                self.gaps[key] = self.gaps.get(key, 0) + 1
            elif counted.trials and trigger in self._sequential:
                counts[trigger.name] = (trigger, counted)
        return counts

    def _parts(self, summary: WindowSummarised) -> list[tuple[Span, datetime, datetime]]:
        """Return the parts of a window in which its target took traffic; before any route is known, all of it."""
        target, begin, end = summary.target, summary.window.from_, summary.window.to
        if target not in self._spans:
            spans, began = self._routes.spans(target), self._routes.began()
            first = Span("active", 1.0, EVER, began)
            self._spans[target] = [first, *spans]
        overlaps = [(span, span.overlap(begin, end)) for span in self._spans[target]]
        return [(span, *overlap) for span, overlap in overlaps if overlap is not None]

    def _decide(self, question: _Question) -> None:
        """Decide about a rollback as the rollback-controller does, and carry it out on the recorded route."""
        target, trigger, at = question.fact.target, question.trigger, question.at
        if self._is_out_of_traffic(target, at) or has_recovered(question.fact):
            return
        before = self._held.pop((target, trigger.name), None)
        if question.again and before is None:
            return
        suspended = self._suspended_at(target, at)
        why = f"{suspended} is suspended, and {target} answers something." if suspended is not None else ""
        decided = decide(evidence_of(question.fact, trigger), "ready", suspended=suspended is not None, why=why)
        if decided.action != "move":
            reason = decided.reason or f"The policy declares {trigger.name} as manual: an operator decides."
            self._hold(question, before, "held" if decided.code else "manual", decided.code, reason)
            return
        route = self._routes.before(at)
        if route is None:
            self._add(question, "unknown", reason="the log does not say which route there was")
            return
        edit = roll_back(route, target, cause_id=f"replay-{len(self.fired)}")
        if isinstance(edit, EditRefused):
            self._hold(question, before, "refused", edit.code, edit.reason)
            return
        active = edit.route.active.target if edit.route.active is not None else None
        aborted = isinstance(edit, Changed) and edit.cause == "abort"
        self._add(question, "canary aborted" if aborted else "rolled back", to=active)
        self._leave(target, at)

    def _suspended_at(self, serving: Target, at: datetime) -> Target | None:
        """Return a newer version that a rollback took out of traffic and none brought back, here or on the route."""
        route = self._routes.before(at)
        if route is not None and (held := put_back(route)) and share_of(route, serving) == ("active", 1.0):
            return held[0].served.target
        newer = (target for target in self._out_of_traffic if target.version > serving.version)
        return next((target for target in newer if self._is_out_of_traffic(target, at)), None)

    def _is_out_of_traffic(self, target: Target, at: datetime) -> bool:
        times = self._out_of_traffic.get(target, ())
        return any(since <= at and (until is None or at < until) for since, until in times)

    def _hold(self, question: _Question, before: str | None, outcome: Result, code: str | None, reason: str) -> None:
        """Remember why nothing was rolled back; an update that is held for the same reason is not listed again."""
        self._held[question.fact.target, question.trigger.name] = code
        if not question.again or code != before:
            self._add(question, outcome, code=code, reason=reason)

    def _add(
        self,
        question: _Question,
        outcome: Result,
        *,
        code: str | None = None,
        reason: str = "",
        to: Target | None = None,
    ) -> None:
        self.fired.append(
            Fired(
                at=question.at,
                target=question.fact.target,
                trigger=question.trigger,
                role=question.role,
                trials=question.counted.trials,
                hits=question.counted.hits,
                e_value=question.fact.e_value or 0.0,
                outcome=outcome,
                code=code,
                reason=reason,
                to=to,
                again=question.again,
            )
        )

    def _leave(self, target: Target, at: datetime) -> None:
        """Take a target out of traffic until it was promoted again."""
        back = self._routes.returns(target, at)
        self._out_of_traffic.setdefault(target, []).append((at, back))
        self._spans[target] = cut(self._spans[target], at, back)
        self._watched.pop(target, None)  # twice in one window, if it really was promoted again in between
