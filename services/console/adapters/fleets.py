"""The endpoints of the fleets: records of server-manager, and what gateways report of them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.api_usage import DemandReport, EndpointUse
from contracts.runtimes import RUNTIMES_SUFFIX, FleetRuntimes
from services.console.domain.endpoint_screen import GatewayUse
from shared.errors import Transient
from shared.messaging.demand import follow_demand
from shared.runtime.clock import Clock
from shared.storage.kv import Bucket

FORGET_S: Final = 5.0
"""A process reports about every second; one that has not for so long is left out."""
MOST_PROCESSES: Final = 256


class BusFleets:
    """The endpoints as server-managers last stored them.

    Args:
        js: Returns the bus, once it is connected.
    """

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def read(self) -> Mapping[str, FleetRuntimes]:
        """Return the endpoints by fleet.

        Raises:
            Transient: The bus does not answer, or a record cannot be read.
        """
        bucket = Bucket(self._js(), "servers", FleetRuntimes)
        try:
            keys = [key for key in await bucket.keys() if key.endswith(RUNTIMES_SUFFIX)]
            entries = {key.removesuffix(RUNTIMES_SUFFIX): await bucket.get(key) for key in sorted(keys)}
        except NotFoundError:
            return {}
        except (TimeoutError, nats.errors.Error) as error:
            raise Transient("bus_unavailable", f"The endpoints cannot be read ({error!r}).") from error
        return {fleet: entry.value for fleet, entry in entries.items() if entry is not None}


class GatewayReports:
    """What the processes of the gateways report of endpoints, about every second.

    Args:
        clock: Says which reports are new, and since when an endpoint is ejected.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[str, _Report] = {}

    async def follow(self, client: Client) -> None:
        """Take the reports of gateways, for ever."""
        await follow_demand(client, self.take)
        await asyncio.Event().wait()

    def take(self, report: DemandReport) -> None:
        """Take a report that has endpoints, unless too many processes report."""
        if report.endpoints is None:
            return
        before = self._reports.get(report.process)
        if before is None and len(self._reports) >= MOST_PROCESSES:
            self._forget()
            if len(self._reports) >= MOST_PROCESSES:
                return
        now, known = self._clock.now(), before.ejected_since if before is not None else {}
        since = {address: known.get(address, now) for address, use in report.endpoints.items() if _ejects(use)}
        self._reports[report.process] = _Report(self._clock.monotonic(), report.endpoints, since)

    def use(self, address: str) -> GatewayUse | None:
        """Return what all gateways have at an endpoint; None if none of them reports."""
        self._forget()
        reports = self._reports.values()
        if not reports:
            return None
        uses = [report.endpoints[address] for report in reports if address in report.endpoints]
        since = [report.ejected_since[address] for report in reports if address in report.ejected_since]
        return GatewayUse(
            processes=len(reports),
            outstanding_tokens=sum(use.outstanding_tokens for use in uses),
            ejecting=len(since),
            since=min(since, default=None),
        )

    def _forget(self) -> None:
        oldest = self._clock.monotonic() - FORGET_S
        self._reports = {process: report for process, report in self._reports.items() if report.taken_s >= oldest}


@dataclass(frozen=True)
class _Report:
    """What one process reported last, and since when each endpoint that it ejects has been ejected."""

    taken_s: float
    endpoints: Mapping[str, EndpointUse]
    ejected_since: Mapping[str, datetime]


def _ejects(use: EndpointUse) -> bool:
    return bool(use.ejected) or use.stalled
