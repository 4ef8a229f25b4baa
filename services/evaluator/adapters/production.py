"""Reads serving targets from the bucket `routes`, and last checks from the event log."""

from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.envelope import Event, nats_subject
from contracts.facts import VersionEvaluated
from contracts.routes import Route
from contracts.services import EVENTS
from services.evaluator.app import SERVICE
from shared.storage.route_buckets import RouteBuckets


class BusProduction:
    """Reads the bucket `routes` and the stream `SLIPWAY_EVENTS` (implements `ports.Production`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js, self._routes = js, RouteBuckets(js, SERVICE)

    async def models(self) -> list[str]:
        """Return the models that have a route."""
        return await self._routes.models("production")

    async def route(self, model: str) -> Route | None:
        """Return a model's route; None if there is none."""
        entry = await self._routes.get("production", model)
        return entry.value if entry is not None else None

    async def last_check(self, model: str) -> VersionEvaluated | None:
        """Return a model's last check in the event log; None without one."""
        try:
            message = await self._js().get_last_msg(EVENTS, nats_subject(VersionEvaluated.TYPE, model, SERVICE))
            return Event[VersionEvaluated].model_validate_json(message.data or b"").data
        except (NotFoundError, ValidationError):
            return None
