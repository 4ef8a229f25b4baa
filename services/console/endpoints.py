"""The endpoints of the fleets as people may see them, and a notice to open pages when they change."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from services.console.domain.endpoint_screen import EndpointRow, endpoint_row
from services.console.domain.people import Person
from services.console.hub import Hub
from services.console.ports import Fleets, GatewayUses
from services.console.queries.reading import WholeIndex
from services.console.queries.routing import routes_of
from shared.errors import SlipwayError

TOPIC: Final = "endpoints"
LOOK_S: Final = 2.0
"""How often what is shown is compared with what is there, while pages are open."""


class Endpoints:
    """What the screen of the endpoints shows.

    Args:
        fleets: What server-managers stored.
        uses: What gateways report.
        index: Has the routes.
    """

    def __init__(self, fleets: Fleets, uses: GatewayUses, index: WholeIndex) -> None:
        self._fleets, self._uses, self._index = fleets, uses, index

    async def seen_by(self, person: Person | None) -> tuple[EndpointRow, ...]:
        """Return all endpoints, by fleet and name, with the targets of models that a person may see (None: of all).

        Raises:
            Transient: The bus does not answer.
        """
        fleets = await self._fleets.read()
        models = person.models if person is not None else None
        reader = self._index if models is None else self._index.about(models)
        routes = await asyncio.to_thread(routes_of, reader)

        def sees(model: str) -> bool:
            return person is None or person.sees(model)

        rows = [
            endpoint_row(fleet, endpoint, routes, self._uses.use(endpoint.endpoint), sees)
            for fleet, known in fleets.items()
            for endpoint in known.runtimes
        ]
        return tuple(sorted(rows, key=lambda row: (row.fleet, row.name)))

    async def announce(self, hub: Hub, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Notify open pages when endpoints change, for ever.

        Args:
            hub: Has the open pages.
            sleep: Waits for some seconds.
        """
        before: tuple[EndpointRow, ...] | None = None
        while True:
            await sleep(LOOK_S)
            if not hub.listeners:
                continue
            try:
                now = await self.seen_by(None)
            except SlipwayError as error:
                structlog.get_logger().debug("the endpoints cannot be read", code=error.code)
                continue
            if before is not None and now != before:
                hub.announce({TOPIC})
            before = now
