"""Looks at what the decision about an alert needs to know: what probes show, and whether the load has risen."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertUpdated
from decisions.probed import answers_all, decide_shown, is_gone, judge
from services.rollback_controller.domain.doubt import Moment, find_sides, holds_both_slow, needs_probes
from services.rollback_controller.domain.rules import Rules
from services.rollback_controller.early_probes import EarlyProbes, ask_sides
from services.rollback_controller.ports import Probe, Routes
from services.rollback_controller.states import RollbackStates
from shared.runtime.clock import Clock


@dataclass(frozen=True)
class Probing:
    """Asks probes for alerts that need them.

    Attributes:
        early: What probes showed that no alert asked for.
        load_rose: Returns whether the load that callers offer to a model has risen.
    """

    states: RollbackStates
    routes: Routes
    probe: Probe
    early: EarlyProbes
    clock: Clock
    rules: Rules
    load_rose: Callable[[str], bool]

    async def look(self, event: Event[AlertRaised] | Event[AlertUpdated]) -> Moment:
        """Return what is seen now; of an alert that nothing confirms, or pairs, also what probes show."""
        moment = Moment(load_rose=self.load_rose(event.subject), share_ratio=self.rules.slice_ratio)
        if event.data.confirmed_by not in ("none", "pairs"):
            return moment
        environment, model, now = event.environment, event.subject, self.clock.now()
        state = await self.states.read(environment, model)
        guard, retry_s = self.rules.guard, self.rules.retry_s
        trigger = needs_probes(state, event.data, event.id, now, guard=guard, retry_s=retry_s)
        if trigger is None:
            return moment
        entry = await self.routes.get(environment, model)
        sides = find_sides(entry.value if entry else None, event.data.target)
        if sides is None:
            return moment
        update = isinstance(event.data, AlertUpdated)
        early = await self.early.find(event, trigger, sides)
        answers = early or await ask_sides(self.probe, sides, trigger, to_the_end=update)
        is_cut = decide_shown(judge(trigger, *pair) for pair in answers) == "both" and not update
        if is_cut and holds_both_slow(state, sides, load_rose=moment.load_rose):
            answers = await ask_sides(self.probe, sides, trigger, to_the_end=True)
        rounds = [judge(trigger, *pair) for pair in answers]
        target, other = zip(*answers, strict=True)
        shown = decide_shown(rounds)
        known = {"model": model, "alert": event.data.alert_id, "early": answers is early}
        structlog.get_logger().info("probed", **known, rounds=rounds, shown=shown)
        return replace(moment, shown=shown, is_gone=is_gone(target), other_answers=answers_all(other))
