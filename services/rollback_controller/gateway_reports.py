"""Rollbacks that gateways performed while they could not reach the bus: checked, applied to the route, answered."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from contracts.codes import Code
from contracts.envelope import Event
from contracts.facts import OrderRefused, RollbackReported
from contracts.gateway_rollbacks import GatewayRollback, RollbackAnswer
from contracts.routes import Route
from decisions.rollback import rollback_id
from services.rollback_controller.controller import Controller
from services.rollback_controller.domain import decision
from services.rollback_controller.domain.decision import Cause, VoidOrder
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.ports import Answers
from shared.errors import Permanent, Transient
from shared.messaging.bus import Failed, Received
from shared.provenance.administrators import Administrators, NotTrusted
from shared.runtime.clock import Clock

_CLAIMED: Final = ("signature_invalid", "key_not_trusted")
"""Codes of orders that may not be the administrator's whom they name."""


@dataclass(frozen=True)
class GatewayReports:
    """Applies what an administrator ordered at gateways, once, whichever gateways report it."""

    controller: Controller
    answers: Answers
    administrators: Administrators
    clock: Clock

    async def handle(self, event: Event[RollbackReported], received: Received) -> None:
        """Apply a reported rollback and answer it; raise Permanent when it is refused.

        The signature is checked here, too, so a gateway can report only what an administrator ordered.
        The target that traffic moved to is not probed: it serves at gateways already.
        """
        order = self.administrators.open(event.data.order)
        if isinstance(order, NotTrusted):
            claimed = _claimed(event.data)
            # its digest is in the answer: a gateway that holds another order does not take it
            if claimed is not None and order.code == "key_not_trusted":
                await self._answer(event.data, claimed, order.code, order.reason)
            raise Permanent(order.code, order.reason)
        if order.plan_only or order.model != event.subject:
            raise Permanent("malformed_event", f"The order of {order.administrator} is no rollback of {event.subject}.")
        void: VoidOrder | None = None

        def decide(state: RollbackState, route: Route | None, cause: Cause) -> RollbackState:
            nonlocal void
            cause = dataclasses.replace(cause, event_id=order.order_id, published_at=order.issued_at)
            decided = decision.decide_on_report(state, order, event.data.performed_at, route, cause)
            void = decided if isinstance(decided, VoidOrder) else None
            return decision.record_refusal(state, order, route, cause, void) if void is not None else decided  # type: ignore[return-value]  # void is what was decided

        await self.controller.decide(event, decide, received)
        if void is not None:
            await self._answer(event.data, order, void.code, void.reason)
            raise Permanent(void.code, void.reason)
        done = (await self.controller.states.read("production", event.subject)).rollback(rollback_id(order.order_id))
        if done is None or done.phase == "decided":
            raise Transient("bus_unavailable", f"The rollback {order.order_id} is not carried out yet.")
        failed = done.phase == "failed"
        await self._answer(event.data, order, done.code if failed else None, done.reason if failed else "")

    async def _answer(self, report: RollbackReported, order: GatewayRollback, code: Code | None, reason: str) -> None:
        await self.answers.put(
            RollbackAnswer(
                order_id=order.order_id,
                order_digest=report.order.digest,
                model=order.model,
                outcome="applied" if code is None else "refused",
                code=code,
                reason=reason,
                answered_at=self.clock.now(),
            )
        )


def report_refused(failed: Failed) -> OrderRefused | None:
    """Return the fact that a reported rollback which is refused becomes; None for what could not be read."""
    event, error = failed.event, failed.error
    if event is None:
        return None
    order = _claimed(event.data)
    return OrderRefused(
        order_id=order.order_id if order is not None else event.id,
        order_type=event.type,
        actor=order.administrator if order is not None and error.code not in _CLAIMED else "",
        code=error.code,
        reason=error.sentence(),
    )


def _claimed(report: RollbackReported) -> GatewayRollback | None:
    """Return the order that a report contains, its signature not checked; None if it contains none."""
    try:
        return GatewayRollback.model_validate_json(report.order.payload)
    except ValidationError:
        return None
