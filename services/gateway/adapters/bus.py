"""NATS adapter: follows routes, drills and keys; publishes telemetry, usage, load and engine deaths."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.api_keys import ApiKey
from contracts.api_usage import TRAFFIC_PREFIX, EndpointUse, MonthlyUsage, TrafficReport
from contracts.drills import Drill
from contracts.engine_deaths import DEATHS_PREFIX, DeathReport
from contracts.facts import InferenceBatch
from contracts.routes import Route
from contracts.runtimes import RUNTIMES_SUFFIX, FleetRuntimes
from contracts.vocabulary import Environment
from services.gateway.api.body_bans import BodyBans
from services.gateway.callers.budgets import Budgets
from services.gateway.callers.tables import KeyTable
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.tables import DrillTable, RouteTable
from shared.errors import Transient
from shared.messaging.bus import Bus, Emit, publish_event
from shared.runtime.service import connect_with_retries
from shared.storage.compare_and_set import edit_record
from shared.storage.kv import Bucket, M, OnChange, OnSnapshot

_RETRY_S = 0.5
_EVERY_S = 1.0


class BusConnection:
    """The gateway's connection to the bus, which may be unavailable at any time (implements `ports.TelemetrySink`)."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._has_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Return whether the client is connected to the bus now."""
        return self._has_connected.is_set() and bool(self._bus.client.is_connected)

    async def connect(self) -> None:
        """Connect to the bus, and retry until it succeeds."""
        await connect_with_retries(self._bus)
        self._has_connected.set()

    def follow_records(
        self,
        tables: Mapping[Environment, RouteTable],
        drills: DrillTable,
        keys: KeyTable,
        budgets: Budgets,
    ) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the followers of all buckets."""
        routes = tables["production"]
        return (
            self.follow("routes", Route, routes.apply, routes.note_bucket),
            self.follow("staging-routes", Route, tables["staging"].apply),
            self.follow("drills", Drill, drills.apply),
            self.follow("api-keys", ApiKey, keys.apply, keys.note_bucket),
            self.follow("api-usage", MonthlyUsage, budgets.apply, budgets.note_bucket),
        )

    async def follow(
        self, bucket: str, record: type[M], apply: OnChange[M], note_bucket: OnSnapshot | None = None
    ) -> None:
        """Call `apply` with every record and change of a bucket until cancelled; restart after an error."""
        await self._has_connected.wait()
        records = Bucket(self._bus.js, bucket, record, service=self._bus.service)
        while True:
            try:
                await records.follow(self._bus.client, apply, note_bucket)
            except Exception as error:  # noqa: BLE001 - a gateway that stops following routes would never roll back
                structlog.get_logger().error(
                    "a bucket cannot be followed, will be tried again", bucket=bucket, error=repr(error)
                )
            await asyncio.sleep(_RETRY_S)

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch of telemetry (see `ports.TelemetrySink`)."""
        if not self.connected:
            raise Transient("bus_unavailable", "The bus is not connected.")
        emit = Emit(batch, model=model, environment=environment, id=batch_id, correlation_id=batch_id)
        try:
            await publish_event(self._bus.js, self._bus.envelope(emit))
        except (nats.errors.Error, TimeoutError) as error:
            raise Transient("bus_unavailable", f"Telemetry could not be published: {error!r}.") from error

    async def record_usage(self, budgets: Budgets) -> None:
        """Add the usage of keys to their records every second until cancelled; without the bus, later."""
        await self._has_connected.wait()
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.record_all(budgets)

    async def record_all(self, budgets: Budgets) -> None:
        """Add the usage since the last call to the records; failed additions are retried by the next call.

        An unreadable record does not block the others; without the bus, none is tried. If an acknowledgement is
        lost, that usage is counted twice.
        """
        if not self.connected:
            return
        records = Bucket(self._bus.js, "api-usage", MonthlyUsage, service=self._bus.service)
        for account, (tokens, requests) in budgets.unrecorded().items():
            add = partial(budgets.next_record, account, tokens=tokens, requests=requests)
            try:
                entry = await edit_record(records, account, add, name=f"api-usage/{account}")
            except Transient as error:
                structlog.get_logger().warning("usage cannot be recorded yet", account=account, error=error.sentence())
                if error.code == "bus_unavailable":
                    return
            else:
                if entry is not None:
                    budgets.note_recorded(entry.value, entry.revision, tokens, requests)

    async def report(self, process: str, endpoints: Callable[[], Mapping[str, EndpointUse]]) -> None:
        """Publish this process's load and ejections per endpoint every second until cancelled."""
        await self._has_connected.wait()
        while True:
            await asyncio.sleep(_EVERY_S)
            report = TrafficReport(process=process, endpoints=dict(endpoints()))
            if not self.connected:
                continue
            try:
                await self._bus.client.publish(f"{TRAFFIC_PREFIX}.{report.process}", report.model_dump_json().encode())
            except nats.errors.Error as error:
                structlog.get_logger().warning("traffic cannot be reported", error=repr(error))

    async def note_given_up(self, balancer: Balancer) -> None:
        """Pass the loads that server-manager gave up to the balancer, every second while it waits for loads."""
        await self._has_connected.wait()
        records = Bucket(self._bus.js, "servers", FleetRuntimes, service=self._bus.service)
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                keys = await records.keys() if balancer.awaits_loads else []
                stored = {key: await records.raw(key) for key in keys if key.endswith(RUNTIMES_SUFFIX)}
            except (nats.errors.Error, NotFoundError, TimeoutError, Transient) as error:
                structlog.get_logger().warning("what is loaded cannot be read", error=repr(error))
                continue
            fleets = [records.read(key, entry[1]) for key, entry in stored.items() if entry is not None]
            for runtime in (runtime for fleet in fleets if fleet is not None for runtime in fleet.runtimes):
                for running in filter(lambda running: running.given_up, runtime.targets):
                    balancer.note_given_up(runtime.endpoint, running.target)

    async def exchange_deaths(self, bans: BodyBans) -> None:
        """Publish reports of engine deaths, and apply other processes' reports, until cancelled.

        A report that cannot be sent is logged and dropped: then only this process refuses its request bodies.
        """
        await self._has_connected.wait()

        async def take(message: Msg) -> None:
            try:
                report = DeathReport.model_validate_json(message.data)
            except ValidationError:
                return
            if message.subject == f"{DEATHS_PREFIX}.{report.process}" and report.process != bans.process:
                bans.take(report)

        await self._bus.client.subscribe(f"{DEATHS_PREFIX}.*", cb=take)
        while True:
            report = await bans.reports.get()
            try:
                await self._bus.client.publish(f"{DEATHS_PREFIX}.{report.process}", report.model_dump_json().encode())
            except nats.errors.Error as error:
                structlog.get_logger().warning("a death cannot be reported", error=repr(error))

    async def close(self) -> None:
        """Disconnect from the bus."""
        if self._has_connected.is_set():
            await self._bus.broker.stop()
