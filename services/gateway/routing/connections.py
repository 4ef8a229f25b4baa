"""Closes connections to endpoints that no route names any more: one that was removed, or whose address has changed."""

from collections.abc import Iterable, Iterator
from typing import Final

from contracts.routes import Route
from services.gateway.ports import Engine, Pause
from services.gateway.routing.route_table import RouteTable

LOOK_EVERY_S: Final = 60.0


async def forget_endpoints(engine: Engine, tables: Iterable[RouteTable], pause: Pause) -> None:
    """Look again and again, for ever, which endpoints routes name.

    A connection is closed once they have not for two looks: a request that was routed just before may not have begun.
    """
    tables, before = tuple(tables), set[str]()
    while True:
        named = {address for table in tables for route in table.all() for address in endpoints_of(route)}
        await engine.keep_only(named | before)
        before = named
        await pause(LOOK_EVERY_S)


def endpoints_of(route: Route) -> Iterator[str]:
    """Yield the endpoints of each version that requests are sent to now, or after a rollback to the previous one."""
    canary = route.canary.served if route.canary is not None else None
    judged = route.judged.served if route.judged is not None else None
    for served in (route.active, canary, route.shadowed, judged, route.previous):
        if served is not None:
            yield from served.endpoints
