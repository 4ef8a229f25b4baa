"""The observe loop over a recorded window of one target: the monitor's own loop (`observe_loop`). Pure."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from contracts.policy import Trigger
from contracts.vocabulary import Target
from decisions.evidence.alerts import AlertFact, AlertState, resolve_all
from decisions.evidence.block_tests import BLOCK_S, GRACE_S
from decisions.evidence.hard_failures import LEAST_REQUESTS, add_outcomes
from decisions.evidence.observation import slot_length_s
from decisions.evidence.observe_loop import (
    Assessed,
    WatchedTarget,
    assess,
    begins_anew,
    carried,
    close,
    observe,
)
from decisions.evidence.triggers import Outcome
from decisions.policies.limits import LONGEST_S
from decisions.replay.route_history import Span

Outcomes = Mapping[str, Sequence[Outcome]]
"""By the name of a trigger, in the order in which the requests ended."""
STEP = timedelta(seconds=1)
"""While an alert is open it is assessed this often, as by the monitor's sweep."""
_LAST_BLOCK = timedelta(seconds=BLOCK_S + GRACE_S)


@dataclass
class Watched:
    """A target during the replay, with its evidence and its alerts.

    Attributes:
        until: Up to when it was assessed.
    """

    target: Target
    triggers: Sequence[Trigger]
    false_alarm_every: float
    span: Span | None = None
    state: WatchedTarget | None = None
    alerts: dict[str, AlertState] = field(default_factory=dict)
    until: datetime | None = None
    by_block: Collection[str] = ()

    @property
    def is_open(self) -> bool:
        """Return whether an alert is open."""
        return any(alert.open for alert in self.alerts.values())

    def pass_through(self, spans: Sequence[Span], until: datetime) -> Iterator[AlertFact]:
        """Pass spans without a window that begin before a time, as the monitor follows routes without requests."""
        for span in spans:
            if self.span is not None and self.span.since < span.since < until:
                yield from self._reach(span, span.since)

    def advance(
        self, span: Span, begin: datetime, end: datetime, outcomes: Outcomes, by_block: Collection[str] = ()
    ) -> Iterator[AlertFact]:
        """Observe the outcomes of a part of a window, and yield the alert facts that follow, in their order.

        Args:
            span: The role and the share of traffic of the target in that part.
            begin: Begin of the part.
            end: Its end.
            outcomes: What the triggers observe in it.
            by_block: The triggers whose bad requests are known by block: these show whether all of a block were bad.
        """
        self.by_block = by_block
        yield from self._reach(span, begin)
        left = {name: list(of_trigger) for name, of_trigger in outcomes.items()}
        while True:
            if not self.is_open and not self._would_fire(left, end):
                self._observe(left)
                break
            at = min(end, _next_second(max(begin, self.until or begin)))
            yield from self._step(_take_until(left, at) if at < end else left, at)
            if at >= end:
                break
        self.until = end

    def _reach(self, span: Span, begin: datetime) -> Iterator[AlertFact]:
        """Pass the time up to a part of a span."""
        left_at = self._left_at(span)
        yield from self._wait_until(min(begin, span.since) if left_at is None else left_at, through=True)
        if left_at is not None:
            yield from self._leave(left_at)
        self._enter(span)
        yield from self._wait_until(begin)

    def _wait_until(self, begin: datetime, *, through: bool = False) -> Iterator[AlertFact]:
        """Assess the last blocks and open alerts until the next part, in which there are no requests.

        An alert is calm after a window, or stays as it is.

        Args:
            begin: When the next part begins.
            through: Whether they are assessed at that second, too: a sweep in the second of a change comes before it.
        """
        if self.until is None:
            return
        if self.state is not None and not self.is_open and self.until + _LAST_BLOCK < begin:
            yield from self._step({}, self.until + _LAST_BLOCK)
        if not self.is_open:
            return
        window_s = min(LONGEST_S, max(trigger.window_s for trigger in self.triggers))
        longest = timedelta(seconds=2.0 * window_s + slot_length_s(window_s)) + STEP
        at, last = _next_second(self.until), min(begin, self.until + longest)
        while (at < last or (through and at == last == begin)) and self.is_open:
            yield from self._step({}, at)
            at += STEP

    def _left_at(self, span: Span) -> datetime | None:
        """Return since when the target was out of traffic before a span; None if it was not."""
        until = self.span.until if self.span is not None else None
        return until if until is not None and until < span.since else None

    def _leave(self, at: datetime) -> Iterator[AlertFact]:
        """Resolve the alerts of a target that leaves traffic, and forget its evidence."""
        decided = resolve_all(self.alerts, self.target, at, release_id=None, reason="It was out of traffic.")
        self.alerts, self.state = decided.alerts, None
        yield from decided.facts

    def _enter(self, span: Span) -> None:
        """Begin anew where the monitor does: a route that only confirms role and share changes nothing."""
        self.span = span
        if begins_anew(self.state, span.role, span.weight_ratio):
            kept = carried(self.state, span.role, self.triggers)
            self.state = WatchedTarget(
                target=self.target, role=span.role, weight_ratio=span.weight_ratio, triggers=kept
            )

    def _current(self) -> WatchedTarget:
        assert self.state is not None  # noqa: S101 - `advance` enters a span first
        return self.state

    def _after(self, outcomes: Outcomes) -> WatchedTarget:
        """Return the target with outcomes observed; without any, nothing begins, as in the monitor's sweep."""
        if not any(outcomes.values()):
            return self._current()
        after, failed = observe(self._current(), self.triggers, outcomes), self._failed(outcomes)
        return after.model_copy(
            update={
                "failures": add_outcomes(
                    after.failures, errors=failed.get("error_ratio", ()), empties=failed.get("empty_ratio", ())
                )
            }
        )

    def _failed(self, outcomes: Outcomes) -> Outcomes:
        """Return the evidence by block, by metric."""
        return {
            trigger.metric: outcomes.get(trigger.name, ()) for trigger in self.triggers if trigger.name in self.by_block
        }

    def _observe(self, outcomes: Outcomes) -> None:
        self.state = self._after(outcomes)

    def _would_fire(self, outcomes: Outcomes, end: datetime) -> bool:
        """Return whether an alert would be raised, or might: a hard failure is over with the next good request.

        The evidence against an active target that was strong enough once stays so to the end; that against a canary
        counts as it is in each second.
        """
        if self._current().role == "canary":
            return True
        failures, failed = self._current().failures, self._failed(outcomes)
        for metric, known in (("error_ratio", failures.errors), ("empty_ratio", failures.empties)):
            bad = sum(outcome.bad for outcome in failed.get(metric, ()))
            if bad and bad + known.last.bad + known.open.bad >= LEAST_REQUESTS:
                return True
        return bool(self._assess(outcomes, end).facts)

    def _step(self, outcomes: Outcomes, at: datetime) -> tuple[AlertFact, ...]:
        assessed = self._assess(outcomes, at)
        self.state, self.alerts, self.until = assessed.watched, assessed.alerts, at
        return assessed.facts

    def _assess(self, outcomes: Outcomes, at: datetime) -> Assessed[WatchedTarget]:
        after, _ = close(self._after(outcomes), self.triggers, at)
        return assess(after, self.alerts, self.triggers, at, false_alarm_every=self.false_alarm_every)


def _next_second(at: datetime) -> datetime:
    return datetime.fromtimestamp(math.floor(at.timestamp()) + 1, UTC)


def _take_until(outcomes: dict[str, list[Outcome]], at: datetime) -> Outcomes:
    """Remove and return the outcomes up to a time."""
    taken: dict[str, list[Outcome]] = {}
    for name, of_trigger in outcomes.items():
        count = sum(1 for outcome in of_trigger if outcome.ended_at <= at)
        taken[name], outcomes[name] = of_trigger[:count], of_trigger[count:]
    return taken
