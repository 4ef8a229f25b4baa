"""Health of automatic rollback, by the reports of its processes, and a notice to open pages."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

from contracts.running import REPORT_EVERY_S
from services.console.hub import Hub
from shared.runtime.clock import Clock

TOPIC: Final = "protection"
BUS: Final = "bus"
SILENT_S: Final = 5 * REPORT_EVERY_S
"""A service is silent whose processes have not reported for so long."""
_OWN: Final = "console"
_NEEDED: Final = ("monitor", "rollback-controller")


class Protection:
    """The services that detect regressions and roll back, as they report.

    Args:
        clock: Says when a report came.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reported: dict[str, tuple[float, datetime]] = {}

    def take(self, service: str) -> None:
        """Note a process report; the console's own reports come back by the bus, which proves that it answers."""
        now = self._clock.monotonic(), self._clock.now()
        for name in (_OWN, *_NEEDED) if not self._reported else (service,):
            self._reported[name] = now

    def silent(self) -> Mapping[str, datetime]:
        """Return the silent parts, and since when: the bus, else services; empty before the first report."""
        oldest_s = self._clock.monotonic() - SILENT_S
        silent = {name: at for name, (reported_s, at) in self._reported.items() if reported_s < oldest_s}
        if _OWN in silent:
            return {BUS: silent[_OWN]}
        return {name: silent[name] for name in _NEEDED if name in silent}

    async def announce(self, hub: Hub, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Notify open pages of changes in the set of silent services."""
        known = set(self.silent())
        while True:
            await sleep(REPORT_EVERY_S)
            if known != (known := set(self.silent())):
                hub.announce({TOPIC})
