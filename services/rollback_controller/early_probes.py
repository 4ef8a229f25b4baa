"""Asks probes as soon as requests look slow, so that what they show is known when the alert comes.

An alert of latency that nothing confirms waits for probes, which take as long as a slow version's answer. This process
hears the same telemetry as the monitor, and begins to ask a few requests earlier. Nothing is decided here: without an
alert the answers are forgotten, and an alert that finds none, or none that shows the target, asks anew. With several
processes only the one that heard the slow requests has them.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertUpdated, Inference
from contracts.policy import Trigger
from contracts.routes import ServedTarget
from contracts.vocabulary import Target
from decisions.probed import ROUNDS, TIMED_OUT, ProbedAnswer, decide_shown, enough_s, is_gone, judge
from decisions.suspicion import FRESH_S, Asked, can_suspect, may_ask, note_newest, suspicion
from decisions.triggers import observe
from services.rollback_controller.domain.doubt import find_sides
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.ports import Probe, Routes
from shared.runtime.clock import Clock

Sides = tuple[ServedTarget, ServedTarget]
Answers = list[tuple[ProbedAnswer | None, ProbedAnswer | None]]
"""What both sides answered in each round."""
SWEEP_S = 0.05
"""Seconds between two looks at which targets are to be probed: no more than a look at what is in memory."""
_TARGETS = 1_000
_ending: set[asyncio.Future[ProbedAnswer | None]] = set()
"""Probes that are not waited for any more."""


@dataclass
class _Round:
    """Probes that were asked, and their answers once they are known."""

    began_s: float
    trigger: Trigger
    sides: Sides | None = None
    answers: Answers | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def shows(self, trigger: Trigger) -> bool:
        """Return whether slow answers show the target, or both sides; errors do not: its engine may have died.

        Probes of another trigger show nothing of this one: not all of their answers were waited for.
        """
        if trigger != self.trigger or self.answers is None or is_gone(target for target, _ in self.answers):
            return False
        return decide_shown(judge(trigger, *pair) for pair in self.answers) in ("target", "both")


@dataclass
class _Suspect:
    """The newest outcomes of one target by trigger, the trigger that probes are due for, and the last probes."""

    target: Target
    newest: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    due: tuple[float, Trigger] | None = None
    asked: Asked | None = None
    last: _Round | None = None


class EarlyProbes:
    """What probes showed of models in production lately, without an alert that asked for them. In memory only."""

    def __init__(self, routes: Routes, probe: Probe, clock: Clock) -> None:
        self._routes = routes
        self._probe = probe
        self._clock = clock
        self._suspects: dict[str, _Suspect] = {}

    def note(self, state: RollbackState, records: Sequence[Inference]) -> None:
        """Note requests of a model in production; a target whose newest ones are slow is probed by the next sweep.

        What a drill or a slice touched is left out: probes meet neither.
        """
        if state.environment != "production":
            return
        for target in {record.target: None for record in records}:
            declared = state.triggers.get(str(target.version), ())
            triggers = [trigger for trigger in declared if can_suspect(trigger)]
            if triggers and target.model == state.model:
                of_target = (record for record in records if record.target == target)
                own = [record for record in of_target if record.slice is None and record.drill is None]
                self._note(target, triggers, declared, own)

    def _note(
        self, target: Target, triggers: Sequence[Trigger], declared: Sequence[Trigger], records: Sequence[Inference]
    ) -> None:
        known = self._suspects.get(str(target))
        strongest: tuple[float, Trigger] | None = None
        for trigger in triggers:
            seen = [bad for record in records if (bad := observe(trigger, record, declared)) is not None]
            if known is None and not any(seen):
                continue
            known = known or self._begin(target)
            known.newest[trigger.name] = note_newest(known.newest.get(trigger.name, ()), seen)
            log_e = suspicion(trigger, known.newest[trigger.name]) if any(seen) else 0.0
            strongest = (log_e, trigger) if strongest is None or log_e > strongest[0] else strongest
        if known is not None and strongest is not None:
            known.due = strongest if may_ask(strongest[0], known.asked, self._clock.monotonic()) else known.due

    def _begin(self, target: Target) -> _Suspect:
        if len(self._suspects) >= _TARGETS:
            del self._suspects[next(iter(self._suspects))]
        self._suspects[str(target)] = known = _Suspect(target)
        return known

    async def keys(self) -> list[str]:
        """Return the targets that are to be probed now."""
        return [name for name, known in self._suspects.items() if known.due is not None]

    async def sweep(self, name: str) -> None:
        """Ask probes of one target and of the previous version."""
        known = self._suspects.get(name)
        if known is None or known.due is None:
            return
        (log_e, trigger), now_s, last = known.due, self._clock.monotonic(), known.last
        known.asked, known.due = Asked(now_s, log_e), None
        if last is not None and now_s - last.began_s < FRESH_S and last.shows(trigger):
            return  # the ones of the first suspicion did not come too early
        begun = known.last = _Round(now_s, trigger)
        try:
            entry = await self._routes.get("production", known.target.model)
            begun.sides = find_sides(entry.value if entry is not None else None, known.target)
            if begun.sides is not None:
                begun.answers = await ask_sides(self._probe, begun.sides, trigger)
                structlog.get_logger().info("probed before an alert", target=name)
        finally:
            begun.done.set()

    async def find(
        self, event: Event[AlertRaised] | Event[AlertUpdated], trigger: Trigger, sides: Sides
    ) -> Answers | None:
        """Return what probes asked in the last `FRESH_S` show of an alert, once they have ended; None to ask anew.

        Only slow answers count: an engine that failed them may have died of a request. An update of an alert is decided
        by probes of its own, since what must last a minute is shown by what is asked after it.
        """
        known = self._suspects.get(str(sides[0].target))
        begun = known.last if known is not None else None
        if begun is None or event.environment != "production" or not isinstance(event.data, AlertRaised):
            return None
        if begun.trigger != trigger or self._clock.monotonic() - begun.began_s > FRESH_S:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRESH_S):
                await begun.done.wait()
        return begun.answers if begun.sides == sides and begun.shows(trigger) else None


async def ask_sides(probe: Probe, sides: Sides, trigger: Trigger, *, to_the_end: bool = False) -> Answers:
    """Return what a target and the previous version answer, asked at the same time, in all rounds at once.

    Probes that are too late end by themselves: an answer that is cancelled as it ends is a race inside Triton.

    Args:
        probe: Asks them.
        sides: The target and the previous version.
        trigger: What it is asked for: what takes too long for it is not waited for, and is `TIMED_OUT`.
        to_the_end: Wait for each answer all the same, as it matters whether the previous version answers at all.
    """
    limit_s = None if to_the_end else enough_s(trigger)
    asked = [
        asyncio.ensure_future(probe.measure(side, first_only=limit_s is not None))
        for side in sides
        for _ in range(ROUNDS)
    ]
    try:
        _, late = await asyncio.wait(asked, timeout=limit_s)
    except asyncio.CancelledError:
        for task in asked:
            task.cancel()
        raise
    for task in late:
        _ending.add(task)
        task.add_done_callback(_ending.discard)
    answers = [TIMED_OUT if task in late else task.result() for task in asked]
    return list(zip(answers[:ROUNDS], answers[ROUNDS:], strict=True))
