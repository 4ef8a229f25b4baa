"""Whether the services that roll back automatically are running, and notices to open pages about changes."""

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
"""Seconds without a process report after which a service is silent."""
_OWN: Final = "console"
_NEEDED: Final = ("monitor", "rollback-controller")


class Protection:
    """Reports of the services that detect regressions and roll back.

    Args:
        clock: Clock for the times of reports.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reported: dict[str, tuple[float, datetime]] = {}

    def take(self, service: str) -> None:
        """Record a process report; the console's own reports return over the bus, so they prove the bus."""
        now = self._clock.monotonic(), self._clock.now()
        for name in (_OWN, *_NEEDED) if not self._reported else (service,):
            self._reported[name] = now

    def silent(self) -> Mapping[str, datetime]:
        """Return the silent parts with the time of their last report: the bus, or else services."""
        oldest_s = self._clock.monotonic() - SILENT_S
        silent = {name: at for name, (reported_s, at) in self._reported.items() if reported_s < oldest_s}
        if _OWN in silent:
            return {BUS: silent[_OWN]}
        return {name: silent[name] for name in _NEEDED if name in silent}

    async def announce(self, hub: Hub, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Notify open pages when the set of silent parts changes."""
        known = set(self.silent())
        while True:
            await sleep(REPORT_EVERY_S)
            if known != (known := set(self.silent())):
                hub.announce({TOPIC})
