"""Routes and drills in JetStream key-value buckets."""

from collections.abc import Callable

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from contracts.drills import Drill
from contracts.records import record_key
from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.routes.versions import newest
from shared.storage.compare_and_set import edit_record
from shared.storage.kv import Bucket, Entry
from shared.storage.route_buckets import RouteBuckets

SERVICE = "rollback-controller"


class KvRoutes(RouteBuckets):
    """The buckets `routes` and `staging-routes` (implements `ports.Routes`).

    If the bucket `routes` was lost or restored, the newest known route is returned instead, because gateways still
    serve it, and accept only a higher epoch.
    """

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        super().__init__(js, SERVICE)
        self._newest: dict[str, Route] = {}

    async def follow(self, client: Client) -> None:
        """Keep the newest production route of every model in memory, until cancelled."""

        async def remember(model: str, route: Route, _revision: int) -> None:
            self._remember(model, route)

        await self.bucket("production").follow(client, remember)

    async def get(self, environment: Environment, model: str) -> Entry[Route] | None:
        """Return the newest known route with the revision to write over (0: create it); None without a route.

        Raises:
            Transient: The record cannot be read.
        """
        entry = await super().get(environment, model)
        if environment == "staging":
            return entry
        route = self._remember(model, entry.value if entry else None)
        if route is None or (entry is not None and entry.value == route):
            return entry
        structlog.get_logger().warning(
            "routes_lost: the bucket holds no route or an older one; the newest that was seen counts",
            model=model,
            epoch=route.epoch,
            bucket_epoch=entry.value.epoch if entry else None,
        )
        return Entry(route, entry.revision if entry else 0)

    async def find(self, environment: Environment, model: str, cause_id: str) -> Route | None:
        """Return the route written for a cause, from the bucket's history; None if not there."""
        routes = await self.bucket(environment).history(model)
        return next((route for route in reversed(routes) if route.cause_id == cause_id), None)

    async def put(self, environment: Environment, route: Route, revision: int | None) -> None:
        """Write a route by compare-and-set; raise `shared.storage.kv.Conflict` if another writer was first."""
        bucket = self.bucket(environment)
        if not revision:
            await bucket.create(route.model, route)
        else:
            await bucket.update(route.model, route, revision)
        if environment == "production":
            self._remember(route.model, route)

    def _remember(self, model: str, route: Route | None) -> Route | None:
        known = newest(self._newest.get(model), route)
        if known is not None:
            self._newest[model] = known
        return known


class KvDrills:
    """The bucket `drills` (implements `ports.Drills`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def get(self, environment: Environment, model: str) -> Drill | None:
        """Return the drill of a model and environment, active or ended; None without one."""
        entry = await self._bucket().get(record_key(environment, model))
        return entry.value if entry else None

    async def put(self, drill: Drill) -> None:
        """Set the drill of its model and environment; the last write wins."""
        key = record_key(drill.environment, drill.target.model)
        await edit_record(self._bucket(), key, lambda _: drill, name=f"drills/{key}")

    def _bucket(self) -> Bucket[Drill]:
        return Bucket(self._js(), "drills", Drill, service=SERVICE)
