"""Routes protected against loss of the bucket: a local file keeps the newest ones, to be written back."""

from collections.abc import Callable
from typing import Protocol

import structlog

from contracts.routes import Route
from decisions.routes.edits import AlreadyApplied, Changed, Edit
from decisions.routes.versions import newest
from services.server_manager.ports import RouteListing, Routes
from shared.errors import translate


class Memory(Protocol):
    """Storage for the newest known routes, outside the bus."""

    def load(self) -> dict[str, Route]:
        """Return the routes by model; empty if none are stored or readable."""

    def save(self, routes: dict[str, Route]) -> None:
        """Store the routes; raise OSError if that fails."""


class KnownRoutes:
    """The bucket `routes`, with a memory of the newest route of every model (implements `ports.Routes`).

    Each edit of a route in the bucket raises its epoch. If the bucket has no route or an older one, it was lost or
    restored, and the newer route is written back.
    """

    def __init__(self, bucket: Routes, memory: Memory) -> None:
        self._bucket = bucket
        self._memory = memory
        self._seen: dict[str, Route] = {}
        self._log = structlog.get_logger()

    async def all(self) -> RouteListing:
        """Return the newest route of every model, and write back routes that the bucket has lost.

        For an unreadable route, the newest known one is returned and nothing is written.
        """
        listing = await self._bucket.all()
        stored, known = listing.routes, self._known()
        routes: dict[str, Route] = {}
        for model in sorted({*stored, *known}):
            route = newest(known.get(model), stored.get(model))
            if route is not None:
                routes[model] = route
        self._remember(routes)
        for model, route in routes.items():
            if stored.get(model) != route and model not in listing.unreadable:
                await self._write_back(model, route)
        return RouteListing(routes, listing.unreadable)

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Edit the newest route of a model by compare-and-set on the bucket's record."""
        known = self._known().get(model)
        edit = await self._bucket.edit(model, lambda stored: change(newest(known, stored) or stored))
        if isinstance(edit, Changed):
            self._remember({**self._known(), model: edit.route})
        return edit

    def _known(self) -> dict[str, Route]:
        """Return the newest routes seen by this process, or saved by another process that led meanwhile."""
        for model, route in self._memory.load().items():
            self._seen[model] = newest(self._seen.get(model), route) or route
        return dict(self._seen)

    def _remember(self, routes: dict[str, Route]) -> None:
        self._seen = dict(routes)
        if routes == self._memory.load():
            return
        try:
            self._memory.save(routes)
        except OSError as error:
            self._log.warning("routes could not be saved", error=repr(error))

    async def _write_back(self, model: str, route: Route) -> None:
        def restore(stored: Route) -> Edit:
            return AlreadyApplied(stored) if newest(route, stored) == stored else Changed(route, "restore")

        log = self._log.bind(model=model, epoch=route.epoch)
        try:
            edit = await self._bucket.edit(model, restore)
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            log.warning("routes_lost: the route could not be written back", reason=known.reason)
            return
        if isinstance(edit, Changed):
            log.warning("routes_lost: the bucket held no route or an older one; the newest known was written back")
