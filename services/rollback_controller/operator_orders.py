"""Executes operators' orders other than rollbacks: decide a suspension, start a drill.

Also applies verdicts of the monitor: on suspended versions, and on canaries with traffic to take away.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from contracts.drills import LONGEST, Drill
from contracts.envelope import Event
from contracts.facts import (
    CanaryAssessed,
    DeploymentChanged,
    DrillOrdered,
    SuspensionDecided,
    SuspensionJudged,
)
from contracts.routes import Route
from decisions.routes.edits import (
    Changed,
    Edit,
    EditRefused,
    confirm,
    judge,
    order_return,
    return_suspended,
    take_away,
)
from services.rollback_controller.controller import Controller
from services.rollback_controller.ports import Drills, Routes
from shared.errors import Permanent
from shared.messaging.bus import Received
from shared.messaging.orders import check_age, check_epoch, check_sender
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import ATTEMPTS, kept_changing
from shared.storage.kv import Conflict


@dataclass(frozen=True)
class OperatorOrders:
    """Executes orders and verdicts that change a route or drill without a rollback."""

    controller: Controller
    routes: Routes
    drills: Drills
    clock: Clock
    production_drills: frozenset[str] = frozenset()
    """Models with permitted production drills; `*` for all."""

    async def end_suspension(self, event: Event[SuspensionDecided], received: Received) -> DeploymentChanged:
        """Quarantine a suspended target or return it to traffic; raise Permanent if the order is void.

        It returns as a canary; with all traffic at once if so ordered, or if it is the base model (without release).
        """
        order = event.data
        at_once = order.at_once or order.target.version == 0
        returned = functools.partial(return_suspended if at_once else order_return, at=received.stored_at)

        def check(route: Route | None) -> None:
            check_sender(event, self.controller.teams())
            check_age(event, received.stored_at, self.clock.now(), until=order.expires_at)
            check_epoch(event, route.epoch if route is not None else None)

        edit = await self._write(event, confirm if order.decision == "confirm" else returned, check)
        if isinstance(edit, EditRefused):
            raise Permanent(edit.code, edit.reason)
        cause = order.decision if edit.route.suspension(order.target) is None else "judge"
        return DeploymentChanged(route=edit.route, cause=cause, at=self.clock.now())

    async def judge(self, event: Event[SuspensionJudged]) -> DeploymentChanged | None:
        """Apply the verdict on a suspended target: quarantine if confirmed, else note the verdict in the route.

        Returns:
            The changed route; None if that suspension has ended.
        """
        verdict = functools.partial(
            judge,
            since=event.data.since,
            verdict=event.data.verdict,
            evidence=event.data.reason,
            returns_at=event.time if event.data.returns else None,
        )
        return await self._note(event, verdict, "confirm" if event.data.verdict == "confirmed" else "judge")

    async def take_away(self, event: Event[CanaryAssessed]) -> DeploymentChanged | None:
        """Remove a canary's traffic for a minute; return the changed route, None if the canary has ended."""
        return await self._note(event, functools.partial(take_away, at=self.clock.now()), "judge")

    async def _note(
        self,
        event: Event[SuspensionJudged] | Event[CanaryAssessed],
        edit_route: Callable[..., Edit],
        cause: Literal["confirm", "judge"],
    ) -> DeploymentChanged | None:
        """Edit the route by a verdict and return it; None if the edit is refused as too late."""
        edit = await self._write(event, edit_route)
        if isinstance(edit, EditRefused):
            structlog.get_logger().info("judged too late", model=event.subject, type=event.type, reason=edit.reason)
            return None
        return DeploymentChanged(route=edit.route, cause=cause, at=self.clock.now())

    async def _write(
        self,
        event: Event[SuspensionDecided] | Event[SuspensionJudged] | Event[CanaryAssessed],
        edit_route: Callable[..., Edit],
        check: Callable[[Route | None], None] = lambda _route: None,
    ) -> Edit:
        """Write the edited route, unless the edit is refused; return the edit.

        Pending rollbacks are executed first: the edit would overwrite the trace of an unrecorded switch.
        """
        model, target = event.subject, event.data.target
        await self.controller.execute_pending(await self.controller.states.read("production", model))
        for _ in range(ATTEMPTS):
            entry = await self.routes.get("production", model)
            route = entry.value if entry is not None else Route(model=model)
            if event.id not in (route.cause_id, route.last_edit_id):  # else already written
                check(entry.value if entry is not None else None)
            edit = edit_route(route, target, cause_id=event.id)
            if isinstance(edit, Changed):
                if edit.cause == "return" and (failure := await self._why_not_ready(edit.route)) is not None:
                    raise Permanent("no_first_token", f"{target} does not generate: {failure}")
                try:
                    await self.routes.put("production", edit.route, entry.revision if entry else None)
                except Conflict:
                    continue
            return edit
        raise kept_changing(f"routes/{model}")

    async def _why_not_ready(self, route: Route) -> str | None:
        return await self.controller.probe.answers(route.active) if route.active is not None else None

    async def order_drill(self, event: Event[DrillOrdered], received: Received) -> None:
        """Write the ordered drill for the gateways; raise Permanent if the order is void.

        An order redelivered after a later one is ignored. An order to end a drill ignores `expires_at`, the drill's
        end; it is valid as long as an order without expiry.
        """
        order, now, stored_at = event.data, self.clock.now(), received.stored_at
        before = await self.drills.get(order.environment, event.subject)
        if before is not None and before.ordered_at is not None and stored_at <= before.ordered_at:
            return
        check_sender(event, self.controller.teams())
        check_age(event, stored_at, now, until=order.expires_at if order.share_ratio > 0.0 else None)
        route = await self.routes.get(order.environment, event.subject)
        check_epoch(event, route.value.epoch if route else None)
        is_allowed = order.environment == "staging" or {event.subject, "*"} & self.production_drills
        if order.share_ratio > 0.0 and not is_allowed:
            reason = f"ROLLBACK_CONTROLLER_PRODUCTION_DRILLS does not name {event.subject}: it has none in production."
            raise Permanent("drill_not_allowed", reason)
        if order.target.model != event.subject:
            raise Permanent("malformed_event", f"The drill on {order.target} was ordered for {event.subject}.")
        if order.fault.does_nothing and order.share_ratio > 0.0:
            raise Permanent("malformed_event", "The drill has no fault; give delay_ms, error_ratio, garble or answer.")
        if order.expires_at - now > LONGEST:
            until = order.expires_at.isoformat()
            raise Permanent("malformed_event", f"A drill lasts at most {LONGEST}; this one would end at {until}.")
        await self.drills.put(
            Drill(
                drill_id=event.id,
                target=order.target,
                environment=order.environment,
                fault=order.fault,
                share_ratio=order.share_ratio,
                starts_at=min(event.time, now),
                expires_at=order.expires_at,
                actor=event.sender,
                reason=order.reason,
                ordered_at=stored_at,
            )
        )
