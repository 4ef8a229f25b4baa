"""The parts of one process of the gateway: adapters, tables and limits, put together. None of them acts yet.

Metrics are created here: in several workers, `share_metrics` must run before this is imported.
"""

import asyncio
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.api_keys import ApiKey
from contracts.routes import Route
from contracts.vocabulary import Environment
from services.gateway.adapters.bus import BusConnection
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.adapters.installed_keys import InstalledKeys
from services.gateway.adapters.record_file import RecordFile
from services.gateway.adapters.triton import TritonEngine
from services.gateway.api.body_bans import BodyBans
from services.gateway.app import SERVICE
from services.gateway.callers.budgets import Budgets
from services.gateway.callers.key_table import KeyTable
from services.gateway.callers.team_table import TeamTable, load_secret
from services.gateway.routing.drill_table import DrillTable
from services.gateway.routing.route_table import RouteTable
from services.gateway.server.worker_state import WorkerState
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry.feature_queue import FeatureQueue, QueueLimits
from services.gateway.telemetry.metrics import GatewayMetrics
from services.gateway.telemetry.recorder import Recorder
from services.gateway.telemetry.traffic import Traffic
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection
from shared.serving.inference import Deadlines

_BATCH = 500
"""Most telemetry records of one message."""


@dataclass(frozen=True)
class Parts:
    """What a process consists of, beside its HTTP server."""

    bus: Bus
    bus_connection: BusConnection
    tables: Mapping[Environment, RouteTable]
    keys: KeyTable
    installed: InstalledKeys
    traffic: Traffic
    budgets: Budgets
    bans: BodyBans
    drills: DrillTable
    engine: TritonEngine
    recorder: Recorder
    worker: FeatureWorker
    features: FeatureQueue
    teams: TeamTable
    metrics: GatewayMetrics
    service_metrics: ServiceMetrics
    state: WorkerState
    clock: Clock
    has_route_file: bool = False


def compose(connection: Connection, settings: GatewaySettings, started_s: float | None = None) -> Parts:
    """Return the parts of a process; none of them does anything yet."""
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    bus_connection, metrics = BusConnection(bus), GatewayMetrics(bus.metrics)
    table, staging = _production(connection, settings), RouteTable({}, None, "staging")
    keys, installed = _api_keys(connection, settings)
    state = WorkerState(  # before what takes long, such as grpc: a start is counted although it fails
        bus.metrics,
        table,
        lambda: bus_connection.connected,
        clock=clock,
        workers=settings.workers,
        started_s=clock.monotonic() if started_s is None else started_s,
        keys=keys,
    )
    recorder = _recorder(bus_connection, settings, metrics)
    worker, process = FeatureWorker(clock), uuid.uuid4().hex[:16]
    return Parts(
        bus=bus,
        bus_connection=bus_connection,
        tables={"production": table, "staging": staging},
        keys=keys,
        installed=installed,
        traffic=Traffic(process),
        budgets=Budgets(clock, process),
        bans=BodyBans(clock, process, lambda change: metrics.body_bans.labels(change).inc()),
        drills=DrillTable(clock),
        engine=TritonEngine(Deadlines(settings.first_token_s, settings.inter_token_s), keys=connection.server_keys),
        recorder=recorder,
        worker=worker,
        features=_features(worker, recorder, settings, metrics, clock),
        teams=TeamTable(connection.teams, load_secret(connection.work_dir(SERVICE) / "cache-salt"), clock),
        metrics=metrics,
        service_metrics=ServiceMetrics(bus, connection, {"gateway": settings.tls_certificate}),
        state=state,
        clock=clock,
        has_route_file=settings.route_file is not None,
    )


def _production(connection: Connection, settings: GatewaySettings) -> RouteTable:
    """Return the routes that were saved, or those of the file that the settings name: without any the process ends."""
    if settings.route_file is None:
        file = RecordFile(connection.work_dir(SERVICE) / "routes.json", Route)
        return RouteTable(file.load(), file.save)
    routes = RecordFile(settings.route_file, Route).load()
    if not routes:
        sys.exit(f"gateway: no_routes: GATEWAY_ROUTE_FILE is {settings.route_file}, and no route can be read there")
    table = RouteTable(routes, None)
    table.follow_nothing()
    return table


def _api_keys(connection: Connection, settings: GatewaySettings) -> tuple[KeyTable, InstalledKeys]:
    """Return the keys that were saved, and the reader of those that the installation names, which has read them."""
    file = RecordFile(connection.work_dir(SERVICE) / "api-keys.json", ApiKey)
    keys = KeyTable(file.load() if file.exists else None, file.save)
    installed = InstalledKeys(settings.api_keys, keys)
    installed.read()
    return keys, installed


def _recorder(bus_connection: BusConnection, settings: GatewaySettings, metrics: GatewayMetrics) -> Recorder:
    return Recorder(
        bus_connection,
        gateway=f"gateway-{socket.gethostname()[:63]}-{uuid.uuid4().hex[:8]}",
        queue=settings.telemetry_queue,
        batch=_BATCH,
        interval_s=settings.telemetry_interval_s,
        on_drop=metrics.dropped.inc,
    )


def _features(
    worker: FeatureWorker, recorder: Recorder, settings: GatewaySettings, metrics: GatewayMetrics, clock: Clock
) -> FeatureQueue:
    return FeatureQueue(
        worker,
        recorder.record,
        recorder.record_pair,
        limits=QueueLimits(settings.features_sample_ratio, settings.language_sample_ratio),
        clock=clock,
        pause=asyncio.sleep,
        on_skip=lambda reason: metrics.undescribed.labels(reason).inc(),
    )
