"""Recorded windows through the pure detectors and the pure controller: what would have fired, and what it would do.

What a window summary holds is how many requests were bad, not which: bad ones are spread evenly over the window (over
the part of it in which the target took traffic). Where an alert of the same kind was really raised, they are laid from
that moment on, and close together where that leaves no room: a rollback after a few seconds would else be diluted by
the healthy time before. There the replay errs on the side of firing.

A canary is watched by an e-process, what is active by an e-detector, as the monitor does; hard failures and the
comparison of a canary with the active target need single requests and are not replayed. The route is the one that
really was: what would have followed from another course is not made up, only that a target which would have been taken
back takes no traffic until it was promoted anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal

from clients.cli.replay.counts import Counted, Unknown, count_bad
from clients.cli.replay.route_history import Role, Routes, Span, cut
from clients.cli.replay.spread import lay_out
from contracts.envelope import Event
from contracts.facts import AlertRaised, ReleaseOpened, WindowSummarised
from contracts.facts.watch import AlertKind
from contracts.policy import Trigger
from contracts.vocabulary import Target
from decisions.evidence import Bet, EDetector, EProcess, as_e_value, observe_detector, observe_process, plan_bet
from decisions.rollback import Guard, PastRollback, RollBack, decide_rollback
from decisions.route_edits import Changed, roll_back
from decisions.route_edits import Refused as RefusedEdit
from decisions.triggers import detector_alpha, kind_of, limit_of

Outcome = Literal["rolled back", "canary aborted", "held", "manual", "refused", "unknown"]
CALM_REQUESTS = 10
EVER = datetime.min.replace(tzinfo=UTC)
_START = Span("active", 1.0, EVER)


@dataclass(frozen=True)
class Fired:
    """An alert that would have been raised, or asked again, and what would have come of it.

    Attributes:
        trials, hits: requests of the window in which it fired, and how many of them were bad.
        to: what would have taken all traffic then.
        again: the alert was open and held before.
    """

    at: datetime
    target: Target
    trigger: Trigger
    role: Role
    trials: int
    hits: int
    e_value: float
    outcome: Outcome
    code: str | None = None
    reason: str = ""
    to: Target | None = None
    again: bool = False


@dataclass(frozen=True)
class Gap:
    """What a trigger could not be asked about, and in how many windows."""

    trigger: str
    reason: str
    windows: int


@dataclass(frozen=True)
class Replay:
    """What came out."""

    fired: tuple[Fired, ...]
    gaps: tuple[Gap, ...]
    windows: int
    requests: int
    begin: datetime | None
    end: datetime | None
    away: Mapping[Target, tuple[tuple[datetime, datetime | None], ...]] = field(default_factory=dict)

    def is_away(self, target: Target, at: datetime) -> bool:
        """Return whether a target would have been out of traffic at a moment."""
        return any(since <= at and (until is None or at < until) for since, until in self.away.get(target, ()))


def replay(
    triggers: Sequence[Trigger], events: Sequence[Event[Any]], *, since: datetime, guard: Guard | None = None
) -> Replay:
    """Replay the windows of one model since a moment, oldest first, with no evidence and no rollback before."""
    windows: dict[str, WindowSummarised] = {
        event.id: event.data
        for event in events
        if isinstance(event.data, WindowSummarised) and event.data.window.to > since
    }
    declared = {
        event.data.version: {one.name: one for one in event.data.policy.triggers}
        for event in events
        if isinstance(event.data, ReleaseOpened)
    }
    course = _Course(triggers, Routes(events), declared, guard or Guard(), _raised(events))
    ordered = sorted(windows.values(), key=lambda one: (one.window.from_, str(one.target)))
    for _, together in groupby(ordered, key=lambda one: one.window.from_):
        course.take(list(together))
    return Replay(
        fired=tuple(course.fired),
        windows=len(ordered),
        requests=sum(one.requests for one in ordered),
        gaps=tuple(Gap(*key, number) for key, number in course.gaps.items()),
        begin=ordered[0].window.from_ if ordered else None,
        end=max((one.window.to for one in ordered), default=None),
        away={target: tuple(times) for target, times in course.away.items()},
    )


Raised = Mapping[tuple[Target, AlertKind], Sequence[datetime]]


def _raised(events: Iterable[Event[Any]]) -> Raised:
    """Return when alerts of each kind were really raised."""
    found: dict[tuple[Target, AlertKind], list[datetime]] = {}
    for event in events:
        if isinstance(event.data, AlertRaised):
            found.setdefault((event.data.target, event.data.kind), []).append(event.data.raised_at or event.time)
    return found


@dataclass
class _Watch:
    """One trigger of one target, as the replay goes on."""

    trigger: Trigger
    bet: Bet
    span: Span = _START
    evidence: EDetector | EProcess = field(default_factory=EDetector)
    open: bool = False
    code: str | None = None
    calm_since: datetime | None = None
    recent: list[tuple[datetime, int, int]] = field(default_factory=list)

    def enter(self, span: Span) -> None:
        """Begin anew where the target's share changes; an alert outlives that, unless the target was gone between."""
        if span != self.span:
            gone = self.span.until is None or self.span.until < span.since
            self.open = self.open and not gone
            self.span, self.evidence = span, EProcess() if span.role == "canary" else EDetector()

    @property
    def alpha(self) -> float:
        return self.trigger.alpha if self.span.role == "canary" else detector_alpha(self.trigger)

    def observe(self, outcomes: Sequence[bool]) -> int | None:
        """Take outcomes; give the index of the one at which it fires, if any."""
        before = self.evidence
        self.evidence = self._after(before, outcomes)
        if not self._fires(self.evidence):
            return None
        for index, outcome in enumerate(outcomes):
            before = self._after(before, [outcome])
            if self._fires(before):
                self.evidence = before
                return index
        return None

    def _after(self, evidence: EDetector | EProcess, outcomes: Sequence[bool]) -> EDetector | EProcess:
        if isinstance(evidence, EDetector):
            return observe_detector(evidence, self.bet, outcomes)
        return observe_process(evidence, self.bet, outcomes)

    def _fires(self, evidence: EDetector | EProcess) -> bool:
        return evidence.trials >= self.trigger.min_requests and evidence.crossed(self.alpha)

    def look_back(self, at: datetime, counted: Counted) -> bool:
        """Return whether the last `window_s` was within the limit; resolve when it stayed so for as long again."""
        hold = timedelta(seconds=self.trigger.window_s)
        self.recent = [one for one in self.recent if one[0] > at - hold] + [(at, counted.trials, counted.hits)]
        trials, hits = sum(one[1] for one in self.recent), sum(one[2] for one in self.recent)
        enough = trials >= min(self.trigger.min_requests, CALM_REQUESTS)
        calm = enough and hits <= trials * limit_of(self.trigger)
        self.calm_since = (self.calm_since or at) if calm else None
        if self.open and self.calm_since is not None and at - self.calm_since >= hold:
            self.open, self.calm_since = False, None
            self.evidence = EProcess() if self.span.role == "canary" else EDetector()
        return calm


@dataclass(frozen=True)
class _Asks:
    """An alert that asks what to do, at a moment."""

    at: datetime
    target: Target
    watch: _Watch
    counted: Counted
    role: Role
    again: bool


class _Course:
    """The replay as it goes on."""

    def __init__(
        self,
        triggers: Sequence[Trigger],
        routes: Routes,
        declared: Mapping[int, Mapping[str, Trigger]],
        guard: Guard,
        raised: Raised,
    ) -> None:
        self.fired: list[Fired] = []
        self.gaps: dict[tuple[str, str], int] = {}
        self.away: dict[Target, list[tuple[datetime, datetime | None]]] = {}
        self._triggers, self._routes, self._declared, self._guard = triggers, routes, declared, guard
        self._raised = raised
        self._past: list[PastRollback] = []
        self._spans: dict[Target, list[Span]] = {}
        self._watches: dict[tuple[Target, str], _Watch] = {}

    def take(self, together: Sequence[WindowSummarised]) -> None:
        """Take the windows that began at the same time; what asks first is decided first."""
        asking = [ask for summary in together for trigger in self._triggers for ask in self._watch(trigger, summary)]
        for ask in sorted(asking, key=lambda one: one.at):
            away = self.away.get(ask.target, [])
            if not any(since <= ask.at and (until is None or ask.at < until) for since, until in away):
                self._decide(ask)

    def _watch(self, trigger: Trigger, summary: WindowSummarised) -> Iterable[_Asks]:
        """Take one window into one trigger; give what it asks."""
        counted = count_bad(trigger, summary, self._declared.get(summary.target.version, {}))
        if isinstance(counted, Unknown):
            key = (trigger.name, counted.reason)
            self.gaps[key] = self.gaps.get(key, 0) + 1
            return
        parts = self._parts(summary)
        if limit_of(trigger) >= 1.0 or not parts or not counted.trials:
            return
        watch = self._watches.setdefault((summary.target, trigger.name), _Watch(trigger, plan_bet(limit_of(trigger))))
        raised = self._raised.get((summary.target, kind_of(trigger)), ())
        for span, outcomes, times in lay_out(counted, parts, raised):
            watch.enter(span)
            index = None if watch.open else watch.observe(outcomes)
            if index is not None:
                watch.open, watch.calm_since = True, None
                yield _Asks(times[index], summary.target, watch, counted, span.role, again=False)
        calm = watch.look_back(summary.window.to, counted)
        if watch.open and not calm and watch.code is not None:
            yield _Asks(summary.window.to, summary.target, watch, counted, watch.span.role, again=True)

    def _parts(self, summary: WindowSummarised) -> list[tuple[Span, datetime, datetime]]:
        """Return the parts of a window in which its target took traffic; before any route is known, all of it."""
        target, begin, end = summary.target, summary.window.from_, summary.window.to
        if target not in self._spans:
            spans, began = self._routes.spans(target), self._routes.began()
            first = Span("active", 1.0, EVER, began)
            self._spans[target] = [first, *spans]
        found = [(span, span.overlap(begin, end)) for span in self._spans[target]]
        return [(span, *overlap) for span, overlap in found if overlap is not None]

    def _decide(self, ask: _Asks) -> None:
        """Ask the pure controller, and carry out on the recorded route what it says."""
        watch, before = ask.watch, ask.watch.code
        watch.code = None
        decision = decide_rollback(watch.trigger, self._past, ask.at, self._guard)
        route = self._routes.at(ask.at)
        if not isinstance(decision, RollBack):
            watch.code = decision.code
            if not ask.again or decision.code != before:
                self._note(ask, "held" if decision.code else "manual", code=decision.code, reason=decision.reason)
            return
        if route is None:
            self._note(ask, "unknown", reason="the log does not say which route there was")
            return
        edit = roll_back(route, ask.target, cause_id=f"replay-{len(self.fired)}")
        if isinstance(edit, RefusedEdit):
            watch.code = edit.code
            if not ask.again or edit.code != before:
                self._note(ask, "refused", code=edit.code, reason=edit.reason)
            return
        active = edit.route.active.target if edit.route.active is not None else None
        aborted = isinstance(edit, Changed) and edit.cause == "abort"
        self._note(ask, "canary aborted" if aborted else "rolled back", to=active)
        self._past.append(PastRollback(watch.trigger.name, ask.at))
        self._leave(ask.target, ask.at)

    def _note(
        self, ask: _Asks, outcome: Outcome, *, code: str | None = None, reason: str = "", to: Target | None = None
    ) -> None:
        watch = ask.watch
        self.fired.append(
            Fired(
                at=ask.at,
                target=ask.target,
                trigger=watch.trigger,
                role=ask.role,
                trials=ask.counted.trials,
                hits=ask.counted.hits,
                e_value=as_e_value(watch.evidence.peak),
                outcome=outcome,
                code=code,
                reason=reason,
                to=to,
                again=ask.again,
            )
        )

    def _leave(self, target: Target, at: datetime) -> None:
        back = self._routes.returns(target, at)
        self.away.setdefault(target, []).append((at, back))
        self._spans[target] = cut(self._spans[target], at, back)
        for key in [key for key in self._watches if key[0] == target]:
            del self._watches[key]
