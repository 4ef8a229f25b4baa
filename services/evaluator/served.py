"""Repeats evaluations on serving versions by schedule, and publishes `version.evaluated`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from contracts.envelope import derived_id
from contracts.evaluations import Schedule
from contracts.evaluations.results import EvaluationResult
from contracts.facts import VersionEvaluated
from contracts.policy import ReleasePolicy
from contracts.routes import ServedTarget
from contracts.vocabulary import Target
from decisions.evidence.triggers import find_trigger
from services.evaluator.app import read_set
from services.evaluator.domain.schedule import assess_check, describe, is_due, plan_check
from services.evaluator.evaluate import Asking
from services.evaluator.ports import Production, Reports
from shared.errors import Permanent, SlipwayError
from shared.messaging.bus import Emit
from shared.runtime.clock import Clock
from shared.runtime.sweeper import Sweeper

_EVERY_S: Final = 15.0
_LIMIT_S: Final = 7_200.0


@dataclass(frozen=True)
class ServedEvaluations:
    """Checks each model's active and previous version, by the schedule in the active version's policy.

    The event log stores the last check. Of replicas that check at the same time, one publishes.
    """

    publish: Callable[[Emit], Awaitable[object]]
    production: Production
    reports: Reports
    asking: Asking
    clock: Clock
    _policies: dict[Target, ReleasePolicy] = field(default_factory=dict)
    _incomparable: dict[Target, datetime] = field(default_factory=dict)
    """Last time when an active version's check had nothing to compare; its next attempt follows the schedule."""

    def sweeper(self) -> Sweeper[str]:
        """Return the loop over all models."""
        return Sweeper("served models", self.production.models, self.sweep, every_s=_EVERY_S, item_limit_s=_LIMIT_S)

    async def sweep(self, model: str) -> None:
        """Check a model's versions if due."""
        route = await self.production.route(model)
        if route is None or route.active is None:
            return
        policy = await self._read(route.active.target)
        schedule = policy.evaluations.schedule if policy is not None else None
        trigger = find_trigger(policy.triggers, "evaluation_drop") if policy is not None else None
        if trigger is None or schedule is None:
            return
        active, last, now = route.active, await self.production.last_check(model), self.clock.now()
        tried_at = self._incomparable.get(active.target)
        if last is not None and last.checks[0].target == active.target:
            tried_at = max(last.checked_at, tried_at or last.checked_at)
        if not is_due(tried_at, schedule, now):
            return
        event_id = derived_id(f"{model}/{last.checked_at if last is not None else route.epoch}", VersionEvaluated.TYPE)
        ask = partial(self._ask, schedule=schedule, max_drop=trigger.threshold, seed=event_id)
        results = await ask(active)
        if results is None:
            self._incomparable[active.target] = now
            return
        answered = {active.target: results}
        if route.previous is not None:
            try:
                behind = await ask(route.previous)
            except SlipwayError:
                behind = []
            answered |= {route.previous.target: behind} if behind is not None else {}
        before = {check.target: check for check in last.checks} if last is not None else {}
        checks = tuple(assess_check(target, each, before.get(target)) for target, each in answered.items())
        if await self.production.last_check(model) == last:
            fact = VersionEvaluated(checked_at=now, checks=checks, message=describe(checks))
            await self.publish(Emit(fact, model=model, correlation_id=event_id, id=event_id))

    async def _read(self, target: Target) -> ReleasePolicy | None:
        """Return a version's policy; None if it has none, or it cannot be read now."""
        if target not in self._policies and target.version > 0:
            policy = await asyncio.to_thread(self.reports.policy, target)
            if policy is not None:
                self._policies[target] = policy
        return self._policies.get(target)

    async def _ask(
        self, served: ServedTarget, *, schedule: Schedule, max_drop: float, seed: str
    ) -> list[EvaluationResult] | None:
        """Return the results of a version's check; None if nothing is comparable.

        Raises:
            SlipwayError: Its engine or the store is unreachable; repeat the check.
        """
        policy = await self._read(served.target)
        report = await asyncio.to_thread(self.reports.released, served.target)
        if policy is None or report is None:
            return None
        evaluations = policy.evaluations
        try:
            sets = [await read_set(self.reports, each.rows, report.evaluation) for each in evaluations.sets]
        except (Permanent, ValueError):
            return None  # a set was erased or is no longer readable
        plans = plan_check(evaluations, sets, report, schedule=schedule, max_drop=max_drop, seed=seed)
        return [await self.asking.evaluate(plan, {"candidate": served}, _ignore) for plan in plans] or None


def _ignore(_done: int, _total: int) -> None:
    """Ignore progress, because a check belongs to no release."""
