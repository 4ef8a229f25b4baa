"""Routes, in JetStream key-value buckets."""

from collections.abc import Callable

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.routes import Route
from contracts.vocabulary import Environment
from shared.storage.kv import Bucket

_BUCKETS: dict[Environment, str] = {"production": "routes", "staging": "staging-routes"}


class KvRoutes:
    """The buckets `routes` and `staging-routes` (implements `ports.Routes`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def models(self, environment: Environment) -> list[str]:
        """Return the models that have a route."""
        try:
            return await self._bucket(environment).keys()
        except NotFoundError:  # the bucket itself is gone
            return []

    async def get(self, environment: Environment, model: str) -> Route | None:
        """Return the route of a model; None if the bucket has none."""
        try:
            entry = await self._bucket(environment).get(model)
        except NotFoundError:  # the bucket itself is gone
            return None
        return entry.value if entry is not None else None

    def _bucket(self, environment: Environment) -> Bucket[Route]:
        return Bucket(self._js(), _BUCKETS[environment], Route, service="monitor")
