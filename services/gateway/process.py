"""Composition and lifecycle of one gateway process: wiring, serving until a stop signal, orderly shutdown.

This module creates metrics: with several workers, run `share_metrics` before importing it.
"""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from contracts.api_keys import ApiKey
from contracts.routes import Route
from services.gateway.adapters.bus import BusConnection
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.adapters.files import InstalledKeys, RecordFile
from services.gateway.adapters.triton import TritonEngine
from services.gateway.api.body_bans import BodyBans
from services.gateway.app import SERVICE, build
from services.gateway.callers.budgets import Budgets
from services.gateway.callers.callers import Callers
from services.gateway.callers.tables import KeyTable, TeamTable, load_secret
from services.gateway.dependencies import Dependencies
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import EndpointChecks, Stalls, forget_endpoints
from services.gateway.routing.tables import DrillTable, RouteTable
from services.gateway.server.worker_state import WorkerState
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry.metrics import GatewayMetrics
from services.gateway.telemetry.recorder import FeatureQueue, QueueLimits, Recorder
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.sandbox import hide_memory
from shared.runtime.service import HttpServer, on_stop_signal
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection
from shared.runtime.tasks import end_tasks
from shared.serving.inference import Deadlines

_BATCH = 500
"""Maximum telemetry records per message."""
BACKLOG: Final = 512
"""Maximum connections waiting to be accepted."""
_LAST_FLUSH_S = 3.0


class Process:
    """All components of a process except its HTTP servers; they are idle until `background_work` runs."""

    def __init__(self, connection: Connection, settings: GatewaySettings, started_s: float | None = None) -> None:
        clock, self.id = SystemClock(), uuid.uuid4().hex[:16]
        self.bus = Bus(connection, SERVICE, clock)
        self.bus_connection, metrics = BusConnection(self.bus), GatewayMetrics(self.bus.metrics)
        file = RecordFile(connection.work_dir(SERVICE) / "routes.json", Route)
        table, staging = RouteTable(file.load(), file.save), RouteTable({}, None, "staging")
        self.keys, self.installed = _api_keys(connection, settings)
        self.state = WorkerState(  # first, so that starts that fail later are counted
            self.bus.metrics,
            table,
            lambda: self.bus_connection.connected,
            clock=clock,
            workers=settings.workers,
            started_s=clock.monotonic() if started_s is None else started_s,
            keys=self.keys,
        )
        self.recorder = Recorder(
            self.bus_connection,
            gateway=f"gateway-{socket.gethostname()[:63]}-{uuid.uuid4().hex[:8]}",
            queue=settings.telemetry_queue,
            batch=_BATCH,
            interval_s=settings.telemetry_interval_s,
            on_drop=metrics.dropped.inc,
        )
        self.worker = FeatureWorker(clock)
        self.features = FeatureQueue(
            self.worker,
            self.recorder.record,
            limits=QueueLimits(settings.features_sample_ratio, settings.language_sample_ratio),
            clock=clock,
            pause=asyncio.sleep,
            on_skip=lambda reason: metrics.undescribed.labels(reason).inc(),
        )
        self.budgets = Budgets(clock, self.id)
        teams = TeamTable(connection.teams, load_secret(connection.work_dir(SERVICE) / "cache-salt"), clock)
        limits = Deadlines(settings.first_token_s, settings.inter_token_s)
        self.engine = TritonEngine(limits, keys=connection.server_keys)
        checks = EndpointChecks(self.engine, clock)
        stalls = Stalls(self.engine.is_live, settings.stall_s, monotonic=clock.monotonic, count=metrics.count_ejection)
        self.dependencies = Dependencies(
            tables={"production": table, "staging": staging},
            callers=Callers(self.keys, clock, self.budgets, teams=teams),
            drills=DrillTable(clock),
            engine=self.engine,
            checks=checks,
            telemetry=self.recorder,
            features=self.features,
            metrics=metrics,
            tracer=self.bus.tracing.get_tracer("slipway.gateway") if self.bus.is_traced else None,
            clock=clock,
            new_id=lambda: uuid.uuid4().hex,
            pause=asyncio.sleep,
            settings=settings,
            bans=BodyBans(clock, self.id, lambda change: metrics.body_bans.labels(change).inc()),
            balancer=Balancer(clock, checks.serves, metrics.count_ejection, stalls),
        )
        self.service_metrics = ServiceMetrics(self.bus, connection, {"gateway": settings.tls_certificate})

    def background_work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the background coroutines: bus connection, followers, telemetry, features and metrics."""
        bus, dependencies = self.bus_connection, self.dependencies
        tables, drills = dependencies.tables, dependencies.drills
        return (
            bus.connect(),
            self.recorder.run(),
            self.features.run(),
            *bus.follow_records(tables, drills, self.keys, self.budgets),
            bus.record_usage(self.budgets),
            bus.report(self.id, dependencies.balancer.report),
            bus.note_given_up(dependencies.balancer),
            bus.exchange_deaths(dependencies.bans),
            self.installed.follow(),
            self.state.keep_current(asyncio.sleep),
            forget_endpoints(self.engine, dependencies.tables.values(), asyncio.sleep),
            self.service_metrics.keep_current(),
        )

    async def close(self) -> None:
        """Publish remaining telemetry and usage, within `_LAST_FLUSH_S` each, and close all components."""
        self.features.drain()
        await self.worker.close()
        usage = partial(self.bus_connection.record_all, self.budgets)
        for last in (self.recorder.flush, self.engine.close, usage, self.bus_connection.close):
            with contextlib.suppress(Transient, TimeoutError):
                async with asyncio.timeout(_LAST_FLUSH_S):
                    await last()
        self.bus.tracing.shutdown()


def _api_keys(connection: Connection, settings: GatewaySettings) -> tuple[KeyTable, InstalledKeys]:
    """Return the table of saved keys, and the reader of the installation's key file after its first read."""
    file = RecordFile(connection.work_dir(SERVICE) / "api-keys.json", ApiKey)
    keys = KeyTable(file.load() if file.exists else None, file.save)
    installed = InstalledKeys(settings.api_keys, keys)
    installed.read()
    return keys, installed


async def serve(
    connection: Connection,
    settings: GatewaySettings,
    sockets: Sequence[socket.socket | None] | None = None,
    started_s: float | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the streams in flight within `GATEWAY_DRAIN_S`.

    Serving starts without waiting for the bus.

    Args:
        connection: bus, HTTP address and folder.
        settings: limits of this process.
        sockets: listening sockets shared by the workers, for callers and for probes; None to open new ones.
        started_s: start of the gateway, in monotonic seconds; None for now.
    """
    hide_memory()
    process = Process(connection, settings, started_s)
    apps = build(process.dependencies, process.bus, process.state)
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
    background = (admin.serve(sockets=own_admin), *process.background_work())
    tasks = [end_with(asyncio.ensure_future(work), server.stop) for work in background]
    structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
    try:
        await server.serve(sockets=own)
        admin.stop()
    finally:
        structlog.get_logger().info("stopping")
        await end_tasks(tasks)
        await process.close()


def end_with(task: asyncio.Future[None], stop: Callable[[], None]) -> asyncio.Future[None]:
    """Call `stop` if a task fails, so that the process restarts; return the task."""

    def check(ended: asyncio.Future[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            structlog.get_logger().error("background work failed; this process ends", exc_info=error)
            stop()

    task.add_done_callback(check)
    return task


def make_server(app: ASGIApp, host: str, port: int, settings: GatewaySettings, **options: Any) -> HttpServer:
    """Return a uvicorn server with the gateway's settings and additional `uvicorn.Config` options."""
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
