"""Where administrators order a rollback at this gateway, while it cannot reach the bus."""

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contracts.codes import ADVICE
from contracts.gateway_rollbacks import PATH, SignedGatewayRollback
from contracts.routes import ServedTarget
from services.gateway.domain.errors import ErrorType, Problem, RequestRejected
from services.gateway.http import BodyReader, problem_response
from services.gateway.performed_rollbacks import Performed, PerformedRollbacks, Refused
from shared.runtime.clock import Clock

MOST_BYTES: Final = 16 * 1024
BURST: Final = 20
"""Orders that are answered at once: those of one administrator, and those from one address that no one trusted signed.
Then one each second."""
_SENDERS_KEPT: Final = 1024
_STATUS: Final[Mapping[str, int]] = {
    "key_not_trusted": 403,
    "signature_invalid": 403,
    "malformed_event": 400,
    "too_many_rollbacks": 429,
    "disk_full": 503,
}
"""By code; 409 for what the present state does not allow."""


class Tries:
    """Counts orders by sender, so that one sender does not keep orders of others from being performed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, sender: str) -> bool:
        """Return whether an order of a sender is answered now."""
        now_s = self._clock.monotonic()
        left, since_s = self._left.pop(sender, (float(BURST), now_s))
        left = min(float(BURST), left + now_s - since_s)
        allowed = left >= 1.0
        self._left[sender] = (left - 1.0 if allowed else left, now_s)
        while len(self._left) > _SENDERS_KEPT:
            self._left.pop(next(iter(self._left)))  # the one whose last order is the oldest
        return allowed

    def charge(self, sender: str, whose: str) -> None:
        """Count an order.

        Raises:
            RequestRejected: 429 if it is one too many.
        """
        if not self.take(sender):
            message = f"{BURST} orders came {whose}, which is the limit; send one each second."
            problem = Problem(429, message, "rate_limit_error", code="too_many_requests", headers={"Retry-After": "1"})
            raise RequestRejected(problem)


def rollback_routes(rollbacks: PerformedRollbacks, clock: Clock) -> list[Route]:
    """Return the route that takes orders.

    Signatures are checked before orders are counted, and orders that an administrator signed are counted apart: others
    may come from the same address, such as that of a proxy. A check takes less than a millisecond.
    """
    bodies = BodyReader(max_bytes=MOST_BYTES, deadline_s=5.0, max_bodies=16)
    unsigned, signed_by = Tries(clock), Tries(clock)

    async def order(request: Request) -> Response:
        address = request.client.host if request.client is not None else ""
        try:
            signed = SignedGatewayRollback.model_validate_json(await bodies.read(request))
        except ValidationError as error:
            unsigned.charge(address, "from this address")
            message = f"The body is no signed order: {error.errors()[0]['msg']}. Use `slipway rollback --without-bus`."
            raise RequestRejected(Problem(400, message, code="malformed_event")) from None
        opened = rollbacks.open(signed)
        if isinstance(opened, Refused):
            unsigned.charge(address, "from this address")
            return _refuse(opened)
        signed_by.charge(opened.administrator, f"from {opened.administrator}")
        done = await rollbacks.perform(signed)
        return JSONResponse(_describe(done)) if isinstance(done, Performed) else _refuse(done)

    return [Route(PATH, order, methods=["POST"])]


def _refuse(refused: Refused) -> Response:
    status = _STATUS.get(refused.code, 409)
    kind: ErrorType = "permission_error" if status == 403 else "invalid_request_error"
    advice = "" if refused.code == "bus_available" else f" {ADVICE[refused.code]}"
    return problem_response(Problem(status, refused.reason + advice, kind, code=refused.code))


def _describe(done: Performed) -> dict[str, object]:
    return {
        "order_id": done.order.order_id,
        "model": done.order.model,
        "failed": str(done.order.failed),
        "outcome": done.outcome,
        "active_before": _name(done.before.active),
        "epoch_before": done.before.epoch,
        "active": _name(done.after.active),
        "epoch": done.after.epoch,
        "quarantined": [str(target) for target in done.after.quarantined],
    }


def _name(served: ServedTarget | None) -> str | None:
    return str(served.target) if served is not None else None
