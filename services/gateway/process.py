"""One process of the gateway: its parts, put together; it serves until it is asked to stop, and ends in order.

Metrics are created here: in several workers, `share_metrics` must run before this is imported.
"""

import asyncio
import contextlib
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from contracts.api_keys import ApiKey
from contracts.api_usage import MonthlyUsage
from contracts.drills import Drill
from contracts.routes import Route
from contracts.vocabulary import Environment
from services.gateway.adapters.bus import BusConnection
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.adapters.files import InstalledKeys, RecordFile
from services.gateway.adapters.triton import TritonEngine
from services.gateway.api.body_bans import BodyBans
from services.gateway.app import SERVICE, Applications, build
from services.gateway.callers.budgets import Budgets
from services.gateway.callers.callers import Callers
from services.gateway.callers.tables import KeyTable, TeamTable, load_secret
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import EndpointChecks, forget_endpoints
from services.gateway.routing.tables import DrillTable, RouteTable
from services.gateway.server.worker_state import WorkerState
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry.metrics import GatewayMetrics, Traffic
from services.gateway.telemetry.recorder import FeatureQueue, QueueLimits, Recorder
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.sandbox import hide_memory
from shared.runtime.service import HttpServer, on_stop_signal
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection
from shared.runtime.tasks import end_tasks
from shared.serving.inference import Deadlines

_BATCH = 500
"""Most telemetry records of one message."""
BACKLOG: Final = 512
"""Most connections that wait to be accepted."""
_LAST_FLUSH_S = 3.0


@dataclass(frozen=True)
class Parts:
    """The parts of a process beside its HTTP server."""

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
        limits=QueueLimits(settings.features_sample_ratio, settings.language_sample_ratio),
        clock=clock,
        pause=asyncio.sleep,
        on_skip=lambda reason: metrics.undescribed.labels(reason).inc(),
    )


async def serve(
    connection: Connection,
    settings: GatewaySettings,
    sockets: Sequence[socket.socket | None] | None = None,
    started_s: float | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the streams in flight, up to a time limit.

    The gateway does not wait for the bus or any other part.

    Args:
        connection: bus, HTTP address and folder.
        settings: limits of this process.
        sockets: listening sockets that several workers share, for callers and for probes; None to open them.
        started_s: when the workers were started, on the monotonic clock; None for now.
    """
    hide_memory()
    parts = compose(connection, settings, started_s)
    apps = make_apps(parts, settings)
    server = make_server(
        apps.api,
        connection.http_host,
        connection.http_port,
        settings,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    admin = make_server(apps.admin, settings.admin_host, settings.admin_port, settings)
    on_stop_signal(server.stop)
    own, own_admin = [None if each is None else [each] for each in sockets or (None, None)]
    background = (admin.serve(sockets=own_admin), *background_work(parts, apps.balancer))
    tasks = [end_with(asyncio.ensure_future(work), server.stop) for work in background]
    structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
    try:
        await server.serve(sockets=own)
        admin.stop()
    finally:
        structlog.get_logger().info("stopping")
        await end_tasks(tasks)
        await _close(parts)


def make_apps(parts: Parts, settings: GatewaySettings) -> Applications:
    """Return the HTTP applications over the parts."""
    return build(
        parts.bus,
        tables=parts.tables,
        callers=Callers(parts.keys, parts.clock, parts.budgets, teams=parts.teams),
        traffic=parts.traffic,
        drills=parts.drills,
        engine=parts.engine,
        telemetry=parts.recorder,
        features=parts.features,
        bans=parts.bans,
        checks=EndpointChecks(parts.engine, parts.clock),
        metrics=parts.metrics,
        state=parts.state,
        new_id=lambda: uuid.uuid4().hex,
        pause=asyncio.sleep,
        settings=settings,
        clock=parts.clock,
    )


def background_work(parts: Parts, balancer: Balancer) -> tuple[Coroutine[Any, Any, None], ...]:
    """Return the background parts: the connection to the bus, its followers, telemetry and features."""
    bus_connection, production, staging = parts.bus_connection, parts.tables["production"], parts.tables["staging"]
    return (
        bus_connection.connect(),
        parts.recorder.run(),
        parts.features.run(),
        *(
            ()
            if parts.has_route_file
            else (bus_connection.follow("routes", Route, production.apply, production.note_bucket),)
        ),
        bus_connection.follow("staging-routes", Route, staging.apply),
        bus_connection.follow("drills", Drill, parts.drills.apply),
        bus_connection.follow("api-keys", ApiKey, parts.keys.apply, parts.keys.note_bucket),
        bus_connection.follow("api-usage", MonthlyUsage, parts.budgets.apply, parts.budgets.note_bucket),
        bus_connection.record_usage(parts.budgets),
        bus_connection.report(parts.traffic, balancer.report),
        bus_connection.note_given_up(balancer),
        bus_connection.exchange_deaths(parts.bans),
        parts.installed.follow(),
        parts.state.keep_current(asyncio.sleep),
        forget_endpoints(parts.engine, parts.tables.values(), asyncio.sleep),
        parts.service_metrics.keep_current(),
    )


def end_with(task: asyncio.Future[None], stop: Callable[[], None]) -> asyncio.Future[None]:
    """Stop the process if a task of it fails: what restarts the process restarts the task. Return the task."""

    def check(ended: asyncio.Future[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            structlog.get_logger().error("background work failed; this process ends", exc_info=error)
            stop()

    task.add_done_callback(check)
    return task


def make_server(app: ASGIApp, host: str, port: int, settings: GatewaySettings, **options: Any) -> HttpServer:
    """Return uvicorn with the gateway's settings, and more options of its own."""
    return HttpServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="httptools",
            proxy_headers=False,
            ws="none",
            backlog=BACKLOG,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.drain_s,
            server_header=False,
            **options,
        )
    )


async def _close(parts: Parts) -> None:
    parts.features.drain()
    await parts.worker.close()
    usage = partial(parts.bus_connection.record_all, parts.budgets)
    for last in (parts.recorder.flush, parts.engine.close, usage, parts.bus_connection.close):
        with contextlib.suppress(Transient, TimeoutError):
            async with asyncio.timeout(_LAST_FLUSH_S):
                await last()
    parts.bus.tracing.shutdown()
