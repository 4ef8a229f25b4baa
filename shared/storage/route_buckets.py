"""The stored routes of production and staging; none without a bucket."""

from collections.abc import Callable
from typing import Final

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.routes import Route
from contracts.vocabulary import Environment
from shared.storage.kv import Bucket, Entry

_BUCKETS: Final[dict[Environment, str]] = {"production": "routes", "staging": "staging-routes"}


class RouteBuckets:
    """The buckets `routes` and `staging-routes`, for one service."""

    def __init__(self, js: Callable[[], JetStreamContext], service: str) -> None:
        self._js, self._service = js, service

    def bucket(self, environment: Environment) -> Bucket[Route]:
        """Return the bucket of an environment."""
        return Bucket(self._js(), _BUCKETS[environment], Route, service=self._service)

    async def models(self, environment: Environment) -> list[str]:
        """Return the models with a route."""
        try:
            return await self.bucket(environment).keys()
        except NotFoundError:
            return []

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Return the route of a model, or None."""
        try:
            return await self.bucket(environment).get(model)
        except NotFoundError:
            return None
