"""The routes as this gateway knows them: saved ones first, live ones as soon as the bus tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.route_edits import newest, revives_quarantined
from shared.runtime.clock import Clock, SystemClock
from shared.storage.kv import Look

Save = Callable[[dict[str, Route]], None]
SETTLE_S = 10.0
"""How long a restored bucket may take to get the newer route back, before an edit of the older one is followed."""


@dataclass(frozen=True)
class Older:
    """What the bucket holds in the place of the newer route that is served.

    Attributes:
        found: the route in the bucket now.
        first_epoch: its epoch when it was first seen; a higher one now means that it was edited since.
        since_s: when it was first seen, monotonic.
    """

    found: Route
    first_epoch: int
    since_s: float


class RouteTable:
    """Answers from memory; a change is visible to the very next request.

    The epoch of a route decides what is newer, never a revision. A route that is absent or older in the bucket changes
    nothing here: it goes on being served, and `trouble` names it. What staging serves ends with its rehearsal: it is
    never saved, and its bucket is followed whatever it holds.
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
        self._live = False
        self._lost: set[str] = set()
        self._older: dict[str, Older] = {}

    def get(self, model: str) -> Route | None:
        """Return the route of a model."""
        return self._routes.get(model)

    def all(self) -> list[Route]:
        """Return the routes by model name."""
        return [self._routes[model] for model in sorted(self._routes)]

    @property
    def live(self) -> bool:
        """Return whether any route came from the bus since this process started."""
        return self._live

    @property
    def lost(self) -> list[str]:
        """Return the models that are served though the bucket had no route of them when it was last looked at."""
        return sorted(self._lost)

    @property
    def older(self) -> list[str]:
        """Return the models whose route in the bucket is older than the one that is served."""
        return sorted(self._older)

    @property
    def trouble(self) -> str:
        """Describe which routes the bucket lost or holds in an older state; empty when there are none."""
        parts = [f"routes_lost: {', '.join(self.lost)}"] if self._lost else []
        for model in self.older:
            served, found = self._routes[model].epoch, self._older[model].found.epoch
            parts.append(f"routes_older: {model} (serving epoch {served}, the bucket holds {found})")
        return "; ".join(parts)

    async def apply(self, model: str, route: Route, _revision: int) -> None:
        """Apply a route from the bus if it is newer than the one that is known."""
        if route.model != model:
            return
        self._live = True
        self._lost.discard(model)
        if self._environment == "staging" or self._is_newer(model, route):
            self._take(model, route)

    async def looked(self, look: Look) -> None:
        """Note which routes the bucket has, and take an edit of a restored one whose time has come."""
        if self._environment == "staging":
            return
        lost = set(self._routes) - look.keys
        log = structlog.get_logger()
        for model in sorted(lost - self._lost):
            log.error("routes_lost: the bucket has no route of this model; the known one is served", model=model)
        for model in sorted(self._lost - lost):
            log.info("the bucket has a route of this model again", model=model)
        self._lost = lost
        for model in lost:
            self._older.pop(model, None)
        for model, older in list(self._older.items()):
            if self._is_due(model, older):
                self._take(model, older.found)

    def _is_newer(self, model: str, route: Route) -> bool:
        """Return whether a route replaces the known one; note a route that is older, because its bucket was restored.

        Once a bucket is known as restored, a higher epoch alone does not prove a route newer: edits of the old one
        rise as well. From then on no route is taken that sends traffic to a target that is quarantined here.
        """
        known, older = self._routes.get(model), self._older.get(model)
        if known is None or known == route:
            self._older.pop(model, None)
            return True
        if older is None:
            if newest(known, route) == route:
                return True
            self._older[model] = Older(route, route.epoch, self._clock.monotonic())
            structlog.get_logger().error(
                "routes_older: the bucket holds an older route than the one that is served",
                model=model,
                serving_epoch=known.epoch,
                bucket_epoch=route.epoch,
            )
            return False
        if route.epoch > known.epoch and not revives_quarantined(route, known):
            return True
        if route.epoch < older.first_epoch:
            older = Older(route, route.epoch, self._clock.monotonic())
        self._older[model] = older = replace(older, found=route)
        return self._is_due(model, older)

    def _is_due(self, model: str, older: Older) -> bool:
        """Return whether an older route was edited, had time to be mended, and revives nothing that is quarantined."""
        edited = older.found.epoch > older.first_epoch
        settled = self._clock.monotonic() - older.since_s >= SETTLE_S
        return edited and settled and not revives_quarantined(older.found, self._routes[model])

    def _take(self, model: str, route: Route) -> None:
        """Put a route in force, then save; the disk may fail, it is not needed to serve."""
        self._older.pop(model, None)
        if self._routes.get(model) == route:
            return
        self._routes[model] = route
        active = str(route.active.target) if route.active else None
        log = structlog.get_logger().bind(model=model, environment=self._environment)
        log.info("route changed", epoch=route.epoch, active=active)
        if self._save is None:
            return
        try:
            self._save(dict(self._routes))
        except OSError as error:
            log.warning("routes could not be saved", error=repr(error))
