"""The routes as this gateway knows them: saved ones first, live ones as soon as the bus tells."""

from collections.abc import Callable, Mapping

import structlog

from contracts.routes import Route
from contracts.vocabulary import Environment

Save = Callable[[dict[str, Route]], None]


class RouteTable:
    """Answers from memory; a change is visible to the very next request.

    What staging serves ends with its rehearsal, so it is never saved.
    """

    def __init__(self, saved: Mapping[str, Route], save: Save | None, environment: Environment = "production") -> None:
        self._routes = dict(saved)
        self._revisions: dict[str, int] = {}
        self._save = save
        self._environment = environment

    def get(self, model: str) -> Route | None:
        """Give the route of a model."""
        return self._routes.get(model)

    def all(self) -> list[Route]:
        """List the routes by model name."""
        return [self._routes[model] for model in sorted(self._routes)]

    @property
    def live(self) -> bool:
        """Tell whether any route came from the bus since this process started."""
        return bool(self._revisions)

    async def apply(self, model: str, route: Route, revision: int) -> None:
        """Take a route from the bus, unless a newer one is known; a saved one always gives way.

        The saved file is written after the change is in force and may fail: the disk is not needed to serve.
        """
        if revision <= self._revisions.get(model, 0) or route.model != model:
            return
        self._revisions[model] = revision
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
