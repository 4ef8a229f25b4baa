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
from services.gateway.performed_rollbacks import Performed, PerformedRollbacks
from shared.runtime.clock import Clock

MOST_BYTES: Final = 16 * 1024
BURST: Final = 20
"""Orders that one address may send at once; then one each second."""
_ADDRESSES_KEPT: Final = 1024
_STATUS: Final[Mapping[str, int]] = {
    "key_not_trusted": 403,
    "signature_invalid": 403,
    "malformed_event": 400,
    "too_many_rollbacks": 429,
    "disk_full": 503,
}
"""By code; 409 for what the present state does not allow."""


class Tries:
    """Counts orders by the address that they come from, so that one address does not keep others from being heard."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, address: str) -> bool:
        """Return whether an address may send an order now."""
        now_s = self._clock.monotonic()
        left, since_s = self._left.pop(address, (float(BURST), now_s))
        left = min(float(BURST), left + now_s - since_s)
        allowed = left >= 1.0
        self._left[address] = (left - 1.0 if allowed else left, now_s)
        while len(self._left) > _ADDRESSES_KEPT:
            self._left.pop(next(iter(self._left)))  # the one that was heard of least recently
        return allowed


def rollback_routes(rollbacks: PerformedRollbacks, clock: Clock) -> list[Route]:
    """Return the route that takes orders."""
    bodies = BodyReader(max_bytes=MOST_BYTES, deadline_s=5.0, max_bodies=16)
    tries = Tries(clock)

    async def order(request: Request) -> Response:
        if not tries.take(request.client.host if request.client is not None else ""):
            message = f"{BURST} orders came from this address, which is the limit; send one each second."
            problem = Problem(429, message, "rate_limit_error", code="too_many_requests", headers={"Retry-After": "1"})
            raise RequestRejected(problem)
        try:
            signed = SignedGatewayRollback.model_validate_json(await bodies.read(request))
        except ValidationError as error:
            message = f"The body is no signed order: {error.errors()[0]['msg']}. Use `slipway rollback --without-bus`."
            raise RequestRejected(Problem(400, message, code="malformed_event")) from None
        done = await rollbacks.perform(signed)
        if isinstance(done, Performed):
            return JSONResponse(_describe(done))
        status = _STATUS.get(done.code, 409)
        kind: ErrorType = "permission_error" if status == 403 else "invalid_request_error"
        advice = "" if done.code == "bus_available" else f" {ADVICE[done.code]}"
        return problem_response(Problem(status, done.reason + advice, kind, code=done.code))

    return [Route(PATH, order, methods=["POST"])]


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
