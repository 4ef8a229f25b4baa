"""Endpoints of the fleets as people may see them, and notices to open pages about changes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from decisions.serving.runtimes import ListedFleet
from services.console.adapters.fleets import GatewayReports
from services.console.adapters.index import Index
from services.console.domain.endpoint_screen import EndpointRow, GatewayUse, endpoint_row
from services.console.domain.people import Person
from services.console.hub import Hub
from services.console.ports import Fleets
from services.console.queries.routing import routes_of
from shared.errors import SlipwayError

TOPIC: Final = "endpoints"
LOOK_S: Final = 2.0
"""Seconds between checks for changes while pages are open."""
AFTER_ERROR_S: Final = 30.0
"""Seconds until the next check after an error, because the bus logs each refused request."""
AGED_AFTER_LOOKS: Final = 15
"""Checks after which pages show again for how long a server-manager has been silent."""
_Known = tuple[tuple[ListedFleet, ...], Mapping[str, GatewayUse | None]]


class Endpoints:
    """Data of the endpoints page.

    Args:
        fleets: Server-managers' records.
        uses: Gateways' reports.
        index: The index, for routes.
    """

    def __init__(self, fleets: Fleets, uses: GatewayReports, index: Index) -> None:
        self._fleets, self._uses, self._index = fleets, uses, index
        self._known: _Known | None = None
        self._has_changed = False
        """Whether open pages may be outdated."""

    async def seen_by(self, person: Person) -> tuple[EndpointRow, ...]:
        """Return all endpoints by fleet and name, with the targets of models that a person may see.

        Raises:
            Transient: The bus does not answer.
        """
        fleets, uses = await self._read()
        reader = self._index if person.models is None else self._index.about(person.models)
        held = {each.target.model for fleet in fleets for endpoint in fleet.endpoints for each in endpoint.targets}
        routes = await asyncio.to_thread(routes_of, reader, held)
        rows = [
            endpoint_row(fleet, endpoint, routes, uses[endpoint.endpoint], person.sees)
            for fleet in fleets
            for endpoint in fleet.endpoints
        ]
        return tuple(sorted(rows, key=lambda row: (row.fleet, row.name)))

    async def _read(self) -> _Known:
        fleets = await self._fleets.read()
        addresses = [endpoint.endpoint for fleet in fleets for endpoint in fleet.endpoints]
        now = fleets, {address: self._uses.use(address) for address in addresses}
        self._has_changed = self._has_changed or self._known not in (None, now)
        self._known = now
        return now

    async def announce(self, hub: Hub, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Notify open pages, until cancelled, when endpoints differ from the last read state.

        Args:
            hub: The open pages.
            sleep: Waits for a number of seconds.
        """
        pause_s, looks = LOOK_S, 0
        while True:
            await sleep(pause_s)
            if not hub.listeners:
                continue
            looks += 1
            try:
                fleets, _ = await self._read()
            except SlipwayError as error:
                structlog.get_logger().debug("the endpoints cannot be read", code=error.code)
                pause_s = AFTER_ERROR_S
                continue
            pause_s = LOOK_S
            has_aged = looks % AGED_AFTER_LOOKS == 0 and not all(fleet.is_current for fleet in fleets)
            if self._has_changed or has_aged:
                self._has_changed = False
                hub.announce({TOPIC})
