"""In-memory tables of routes and drills, kept current from the bus."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import structlog

from contracts.drills import Drill
from contracts.records import record_key
from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.routes.versions import newest, revives_barred
from services.gateway.domain import drills, errors, routing
from services.gateway.domain.drills import KnownDrill
from services.gateway.domain.errors import RequestRejected
from shared.runtime.clock import Clock, SystemClock
from shared.storage.kv import Snapshot

Save = Callable[[dict[str, Route]], None]
SETTLE_S = 10.0
"""Time to repair a restored bucket before the gateway follows an edited older route."""


@dataclass(frozen=True)
class OlderRoute:
    """A route in the bucket that is older than the served route.

    Attributes:
        stored: the current route in the bucket.
        first_epoch: the first epoch seen there; a higher epoch of `stored` means a later edit.
        since_s: when it was first seen, in monotonic seconds.
    """

    stored: Route
    first_epoch: int
    since_s: float


class RouteTable:
    """Routes in memory; a change applies to the next request.

    The higher epoch is newer, regardless of revisions. If a route is missing or older in the bucket, the known route
    is still served, and `problem` names it. Staging routes are temporary: they are never saved, and always follow
    their bucket.

    Attributes:
        live: whether the bus delivered any route since startup.
    """

    def __init__(
        self,
        saved: Mapping[str, Route],
        save: Save | None,
        environment: Environment = "production",
        *,
        clock: Clock | None = None,
    ) -> None:
        self._routes = dict(saved)
        self._save = save
        self._environment = environment
        self._clock = clock or SystemClock()
        self.live = False
        self._lost: set[str] = set()
        self._older: dict[str, OlderRoute] = {}

    def get(self, model: str) -> Route | None:
        """Return the route of a model; None if there is none."""
        return self._routes.get(model)

    def all(self) -> list[Route]:
        """Return the routes, sorted by model name."""
        return [self._routes[model] for model in sorted(self._routes)]

    def choose(
        self, name: str, key: str, opens: Callable[[str], bool] = lambda _model: True, names: Collection[str] = ()
    ) -> routing.Choice:
        """Return the target that answers a request for a model name.

        Args:
            name: the request's `model`, perhaps with a pinned version.
            key: the draw id.
            opens: returns whether the caller may access a model.
            names: the caller's names, for a canary's `only_for`.

        Raises:
            RequestRejected: 404 for an unknown model or version, 503 for a model without a serving target.
        """
        requested = routing.parse_model_name(name)
        route = self.get(requested.model) if requested else None
        if requested is None or route is None or not opens(requested.model):
            raise RequestRejected(errors.model_not_found(name, self.like(name, opens)))
        if requested.version is not None:
            pinned = routing.choose_pinned(route, requested.version)
            if pinned is None:
                quarantined = any(
                    each.version == requested.version
                    for each in (*route.quarantined, *(entry.served.target for entry in route.suspended))
                )
                names = routing.list_models(route)
                problem = errors.version_not_found(route.model, requested.version, names, quarantined=quarantined)
                raise RequestRejected(problem)
            return pinned
        chosen = routing.choose_target(route, key, self._clock.now(), names)
        if chosen is None:
            raise RequestRejected(errors.nothing_serves(requested.model))
        return chosen

    def like(self, name: str, opens: Callable[[str], bool]) -> list[str]:
        """Return the caller's models with names similar to `name`."""
        return routing.names_like(name, (route.model for route in self.all() if opens(route.model)))

    @property
    def lost(self) -> list[str]:
        """Return the served models without a route in the bucket at its last reading."""
        return sorted(self._lost)

    @property
    def older(self) -> list[str]:
        """Return the models with an older route in the bucket than the served route."""
        return sorted(self._older)

    @property
    def problem(self) -> str:
        """Return a description of lost and older routes in the bucket; empty without any."""
        parts = [f"routes_lost: {', '.join(self.lost)}"] if self._lost else []
        for model in self.older:
            served, stored = self._routes[model].epoch, self._older[model].stored.epoch
            parts.append(f"routes_older: {model} (serving epoch {served}, the bucket has {stored})")
        return "; ".join(parts)

    async def apply(self, model: str, route: Route, _revision: int) -> None:
        """Serve a route from the bus if it is newer than the known route."""
        if route.model != model:
            return
        self.live = True
        self._lost.discard(model)
        if self._environment == "staging" or self._is_newer(model, route):
            self._serve(model, route)

    async def note_bucket(self, snapshot: Snapshot) -> None:
        """Update the lost routes after a reading of the bucket, and serve edited older routes that are due."""
        if self._environment == "staging":
            return
        lost = set(self._routes) - snapshot.keys
        log = structlog.get_logger()
        for model in sorted(lost - self._lost):
            log.error("routes_lost: the bucket has no route of this model; the known route is served", model=model)
        for model in sorted(self._lost - lost):
            log.info("the bucket has a route of this model again", model=model)
        self._lost = lost
        for model in lost:
            self._older.pop(model, None)
        for model, older in list(self._older.items()):
            if self._is_due(model, older):
                self._serve(model, older.stored)

    def _is_newer(self, model: str, route: Route) -> bool:
        """Return whether a route replaces the known route; record an older route from a restored bucket.

        In a restored bucket a higher epoch does not prove a newer route, because edits of the old route increase it.
        So routes with traffic to a target barred by the known route are not accepted.
        """
        known, older = self._routes.get(model), self._older.get(model)
        if known is None or known == route:
            self._older.pop(model, None)
            return True
        if older is None:
            if newest(known, route) == route:
                return True
            self._older[model] = OlderRoute(route, route.epoch, self._clock.monotonic())
            structlog.get_logger().error(
                "routes_older: the bucket has an older route than the one that is served",
                model=model,
                serving_epoch=known.epoch,
                bucket_epoch=route.epoch,
            )
            return False
        if route.epoch > known.epoch and not revives_barred(route, known):
            return True
        if route.epoch < older.first_epoch:
            older = OlderRoute(route, route.epoch, self._clock.monotonic())
        self._older[model] = older = replace(older, stored=route)
        return self._is_due(model, older)

    def _is_due(self, model: str, older: OlderRoute) -> bool:
        """Return whether an older route was edited, `SETTLE_S` has passed, and it revives no barred target."""
        edited = older.stored.epoch > older.first_epoch
        settled = self._clock.monotonic() - older.since_s >= SETTLE_S
        return edited and settled and not revives_barred(older.stored, self._routes[model])

    def _serve(self, model: str, route: Route) -> None:
        """Serve a route, then save all routes; a disk error is only logged."""
        self._older.pop(model, None)
        if self._routes.get(model) == route:
            return
        self._routes[model] = route
        self._log(model)
        if self._save is None:
            return
        try:
            self._save(dict(self._routes))
        except OSError as error:
            structlog.get_logger().warning("routes could not be saved", error=repr(error))

    def _log(self, model: str) -> None:
        route = self.get(model)
        active = str(route.active.target) if route is not None and route.active is not None else None
        log = structlog.get_logger().bind(model=model, environment=self._environment)
        log.info("route changed", epoch=route.epoch if route is not None else None, active=active)


class DrillTable:
    """One drill per model and environment; a change applies to the next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, KnownDrill] = {}

    def get(self, environment: Environment, model: str) -> KnownDrill | None:
        """Return the drill of a model, active or not; None if there is none."""
        return self._known.get(record_key(environment, model))

    def active(self) -> list[Drill]:
        """Return the active drills."""
        now, now_s = self._clock.now(), self._clock.monotonic()
        return [self._known[key].drill for key in sorted(self._known) if drills.is_active(self._known[key], now, now_s)]

    async def apply(self, key: str, drill: Drill, _revision: int) -> None:
        """Replace a drill by the record from the bus; the same drill again keeps its first end."""
        known = self._known.get(key)
        if known is not None and known.drill == drill:
            return
        log = structlog.get_logger().bind(key=key, drill=drill.drill_id, target=str(drill.target))
        if key != record_key(drill.environment, drill.target.model):
            log.error("drill ignored: it is stored under the key of another model or environment")
            return
        self._known[key] = known = drills.note_drill(drill, self._clock.now(), self._clock.monotonic())
        active = drills.is_active(known, self._clock.now(), self._clock.monotonic())
        log.info(
            "drill started" if active else "drill ended",
            fault=drill.fault.model_dump(exclude_defaults=True),
            share_ratio=drill.share_ratio,
            expires_at=drill.expires_at.isoformat(),
            actor=drill.actor,
            reason=drill.reason,
        )
