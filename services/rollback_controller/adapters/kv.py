"""Routes and drills, in JetStream key-value buckets."""

from collections.abc import Callable

from nats.js import JetStreamContext

from contracts.drills import Drill, drill_key
from contracts.routes import Route
from contracts.vocabulary import Environment
from shared.kv import EDIT_ATTEMPTS, Bucket, Conflict, Entry, kept_changing

SERVICE = "rollback-controller"
ROUTES: dict[Environment, str] = {"production": "routes", "staging": "staging-routes"}


class KvRoutes:
    """The buckets `routes` and `staging-routes` (implements `ports.Routes`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Read a route; None when there is none."""
        return await self._bucket(environment).get(model)

    async def put(self, environment: Environment, route: Route, revision: int | None) -> None:
        """Write a route by compare-and-set; raise `shared.kv.Conflict`."""
        bucket = self._bucket(environment)
        if revision is None:
            await bucket.create(route.model, route)
        else:
            await bucket.update(route.model, route, revision)

    def _bucket(self, environment: Environment) -> Bucket[Route]:
        return Bucket(self._js(), ROUTES[environment], Route, service=SERVICE)


class KvDrills:
    """The bucket `drills` (implements `ports.Drills`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def get(self, environment: Environment, model: str) -> Drill | None:
        """Read the drill of a model and environment, on or over."""
        entry = await self._bucket().get(drill_key(environment, model))
        return entry.value if entry else None

    async def put(self, drill: Drill) -> None:
        """Make this the drill of its model and environment; the last word counts."""
        bucket, key = self._bucket(), drill_key(drill.environment, drill.target.model)
        for _ in range(EDIT_ATTEMPTS):
            entry = await bucket.get(key)
            try:
                if entry is None:
                    await bucket.create(key, drill)
                else:
                    await bucket.update(key, drill, entry.revision)
            except Conflict:
                continue
            return
        raise kept_changing("drills", key)

    def _bucket(self) -> Bucket[Drill]:
        return Bucket(self._js(), "drills", Drill, service=SERVICE)
