"""Reads endpoints of the serving fleets: records of server-managers and traffic reports of gateways."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.api_usage import TRAFFIC_PREFIX, EndpointUse, TrafficReport
from contracts.runtimes import LEADER_SUFFIX, RUNTIMES_SUFFIX, FleetRuntimes
from decisions.serving.runtimes import ListedFleet, listed_fleet
from services.console.domain.endpoint_screen import GatewayUse
from shared.errors import Transient
from shared.runtime.clock import Clock
from shared.storage.kv import Bucket

FORGET_S: Final = 5.0
"""Seconds without a report after which a gateway process is left out; reports come about every second."""
MOST_PROCESSES: Final = 256


class BusFleets:
    """Reads endpoints as server-managers last stored them; a lease renewed recently shows a running server-manager.

    Args:
        js: Returns JetStream once the bus is connected.
        clock: Clock for the age of a renewal.
    """

    def __init__(self, js: Callable[[], JetStreamContext], clock: Clock) -> None:
        self._js, self._clock = js, clock

    async def read(self) -> tuple[ListedFleet, ...]:
        """Return the fleets, sorted by name.

        Raises:
            Transient: The bus does not answer, or a record cannot be read.
        """
        bucket = Bucket(self._js(), "servers", FleetRuntimes)
        try:
            keys = [key for key in await bucket.keys() if key.endswith(RUNTIMES_SUFFIX)]
            fleets = [await self._read(bucket, key.removesuffix(RUNTIMES_SUFFIX)) for key in sorted(keys)]
        except NotFoundError:
            return ()
        except (TimeoutError, nats.errors.Error) as error:
            raise Transient("bus_unavailable", f"The endpoints cannot be read ({error!r}).") from error
        return tuple(fleet for fleet in fleets if fleet is not None)

    async def _read(self, bucket: Bucket[FleetRuntimes], name: str) -> ListedFleet | None:
        entry = await bucket.get(f"{name}{RUNTIMES_SUFFIX}")
        if entry is None:
            return None
        renewed_at = await bucket.written_at(f"{name}{LEADER_SUFFIX}")
        return listed_fleet(name, entry.value, renewed_at, self._clock.now())


class GatewayReports:
    """Gateways' reports about endpoints, about one per second and process.

    Args:
        clock: Clock for the age of reports and the start of ejections.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[str, _Report] = {}

    async def follow(self, client: Client) -> None:
        """Receive gateways' traffic reports until cancelled."""

        async def read(message: Msg) -> None:
            report = read_traffic(message)
            if report is not None:
                self.take(report)

        await client.subscribe(f"{TRAFFIC_PREFIX}.*", cb=read)
        await asyncio.Event().wait()

    def take(self, report: TrafficReport) -> None:
        """Keep a process's newest report, unless `MOST_PROCESSES` others report."""
        before = self._reports.get(report.process)
        if before is None and len(self._reports) >= MOST_PROCESSES:
            self._forget()
            if len(self._reports) >= MOST_PROCESSES:
                return
        now, known = self._clock.now(), before.ejected_since if before is not None else {}
        since = {
            address: known.get(address, now) for address, use in report.endpoints.items() if use.ejected or use.stalled
        }
        self._reports[report.process] = _Report(self._clock.monotonic(), report.endpoints, since)

    def use(self, address: str) -> GatewayUse | None:
        """Return the total load of all gateway processes on an endpoint; None if none reports."""
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
    """The last report of a process, and the start of each ejection in it."""

    taken_s: float
    endpoints: Mapping[str, EndpointUse]
    ejected_since: Mapping[str, datetime]


def read_traffic(message: Msg) -> TrafficReport | None:
    """Return a traffic report published by its own process; None for any other message.

    The server can deliver consumers' messages and replies to this subscription: the former keep another subject, the
    latter have headers or another form. Only gateways may publish reports.
    """
    try:
        report = TrafficReport.model_validate_json(message.data)
    except ValidationError:
        return None
    is_published = message.subject == f"{TRAFFIC_PREFIX}.{report.process}" and not message.reply and not message.headers
    return report if is_published else None
