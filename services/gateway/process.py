"""One process of the gateway: it composes the parts, serves until it is asked to stop, and ends in order.

Metrics are created here: in several workers, `share_metrics` must run before this is imported.
"""

import asyncio
import contextlib
import socket
import ssl
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from contracts.api_keys import ApiKey
from contracts.api_usage import MonthlyUsage
from contracts.drills import Drill
from contracts.gateway_rollbacks import PerformedRollback
from contracts.routes import Route
from contracts.vocabulary import Environment
from services.gateway.adapters.bus import BusConnection
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.adapters.http_protocol import BACKLOG, fit_connections, limited_protocol
from services.gateway.adapters.installed_keys import InstalledKeys
from services.gateway.adapters.record_file import RecordFile
from services.gateway.adapters.tokens import IdentityProvider, Tokens
from services.gateway.adapters.transport import Certificate, tls_context
from services.gateway.adapters.triton import TritonEngine
from services.gateway.app import SERVICE, Applications, build
from services.gateway.budgets import Budgets
from services.gateway.callers import Callers
from services.gateway.cross_checks import CrossChecks
from services.gateway.drill_table import DrillTable
from services.gateway.feature_queue import FeatureQueue, QueueLimits
from services.gateway.key_table import KeyTable
from services.gateway.metrics import GatewayMetrics
from services.gateway.performed_rollbacks import PerformedRollbacks
from services.gateway.route_table import RouteTable
from services.gateway.settings import GatewaySettings
from services.gateway.shares import Shares
from services.gateway.team_table import TeamTable, load_secret
from services.gateway.telemetry import Recorder
from services.gateway.worker_state import WorkerState
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.provenance.administrators import Administrators
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.sandbox import hide_memory
from shared.runtime.service import HttpServer, on_stop_signal
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection
from shared.serving.inference import Deadlines

_LAST_FLUSH_S = 3.0


@dataclass(frozen=True)
class Parts:
    """What a process consists of, beside its HTTP server."""

    bus: Bus
    bus_connection: BusConnection
    tables: Mapping[Environment, RouteTable]
    keys: KeyTable
    installed: InstalledKeys
    tokens: Tokens | None
    shares: Shares
    budgets: Budgets
    drills: DrillTable
    engine: TritonEngine
    recorder: Recorder
    worker: FeatureWorker
    features: FeatureQueue
    rollbacks: PerformedRollbacks
    teams: TeamTable
    metrics: GatewayMetrics
    service_metrics: ServiceMetrics
    state: WorkerState
    clock: Clock


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
    settings = settings.model_copy(update={"max_connections": fit_connections(settings.max_connections)})
    parts = compose(connection, settings, started_s)
    apps = make_apps(parts, settings)
    tls = tls_context(settings)
    server = make_server(apps.api, connection.http_host, connection.http_port, settings, for_callers=True, tls=tls)
    certificate = Certificate(tls, settings)
    admin = make_server(apps.admin, settings.admin_host, settings.admin_port, settings)
    on_stop_signal(server.stop)
    own = sockets or [None, None]
    background = (serve_at(admin, own[1]), certificate.follow(), *background_work(parts))
    tasks = [end_with(asyncio.ensure_future(work), server.stop) for work in background]
    structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
    try:
        await serve_at(server, own[0])
        admin.stop()
    finally:
        structlog.get_logger().info("stopping")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _close(parts)


def compose(connection: Connection, settings: GatewaySettings, started_s: float | None = None) -> Parts:
    """Return the parts of a process; none of them does anything yet."""
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    bus_connection, metrics = BusConnection(bus), GatewayMetrics(bus.metrics)
    file = RecordFile(connection.work_dir(SERVICE) / "routes.json", Route)
    key_file = RecordFile(connection.work_dir(SERVICE) / "api-keys.json", ApiKey)
    table, staging = RouteTable(file.load(), file.save), RouteTable({}, None, "staging")
    rollbacks = PerformedRollbacks(
        table,
        RecordFile(connection.work_dir(SERVICE) / "rollbacks.json", PerformedRollback),
        bus_connection,
        Administrators(connection.administrators),
        clock,
    )
    recorder = Recorder(
        bus_connection,
        gateway=f"gateway-{socket.gethostname()[:63]}-{uuid.uuid4().hex[:8]}",
        queue=settings.telemetry_queue,
        batch=settings.telemetry_batch,
        interval_s=settings.telemetry_interval_s,
        on_drop=metrics.dropped.inc,
    )
    worker = FeatureWorker(clock)
    features = FeatureQueue(
        worker,
        recorder.record,
        recorder.record_pair,
        limits=QueueLimits(sample_ratio=settings.features_sample_ratio),
        clock=clock,
        pause=asyncio.sleep,
        on_skip=lambda reason: metrics.undescribed.labels(reason).inc(),
    )
    process = uuid.uuid4().hex[:16]
    keys = KeyTable(key_file.load() if key_file.exists else None, key_file.save)
    installed = InstalledKeys(settings.api_keys, keys)
    installed.read()
    state = WorkerState(
        bus.metrics,
        table,
        lambda: bus_connection.connected,
        clock=clock,
        workers=settings.workers,
        started_s=clock.monotonic() if started_s is None else started_s,
        keys=keys,
    )
    return Parts(
        bus=bus,
        bus_connection=bus_connection,
        tables={"production": table, "staging": staging},
        keys=keys,
        installed=installed,
        tokens=_tokens(settings),
        shares=Shares(clock, process, settings.workers),
        budgets=Budgets(clock, process),
        drills=DrillTable(clock),
        engine=TritonEngine(Deadlines(settings.first_token_s, settings.inter_token_s)),
        recorder=recorder,
        worker=worker,
        features=features,
        rollbacks=rollbacks,
        teams=TeamTable(connection.teams, load_secret(connection.work_dir(SERVICE) / "cache-salt"), clock),
        metrics=metrics,
        service_metrics=ServiceMetrics(bus, connection, {"gateway": settings.tls_certificate}),
        state=state,
        clock=clock,
    )


def _tokens(settings: GatewaySettings) -> Tokens | None:
    """Return what verifies tokens of the identity provider that the settings name; None without one."""
    if settings.oidc is None:
        return None
    return Tokens(IdentityProvider.model_validate_json(settings.oidc.read_bytes()))


def make_apps(parts: Parts, settings: GatewaySettings) -> Applications:
    """Return the HTTP applications over the parts."""
    return build(
        parts.bus,
        tables=parts.tables,
        callers=Callers(parts.keys, parts.clock, parts.shares, parts.budgets, teams=parts.teams, tokens=parts.tokens),
        drills=parts.drills,
        engine=parts.engine,
        telemetry=parts.recorder,
        features=parts.features,
        rollbacks=parts.rollbacks,
        cross_checks=CrossChecks(parts.engine, parts.clock),
        metrics=parts.metrics,
        state=parts.state,
        new_id=lambda: uuid.uuid4().hex,
        pause=asyncio.sleep,
        settings=settings,
        clock=parts.clock,
    )


def background_work(parts: Parts) -> tuple[Coroutine[Any, Any, None], ...]:
    """Return what runs beside the server: the connection to the bus, what follows it, telemetry and features."""
    bus_connection, production, staging = parts.bus_connection, parts.tables["production"], parts.tables["staging"]
    return (
        bus_connection.connect(),
        parts.recorder.run(),
        parts.features.run(),
        bus_connection.follow("routes", Route, production.apply, production.note_bucket),
        bus_connection.follow("staging-routes", Route, staging.apply),
        bus_connection.follow("drills", Drill, parts.drills.apply),
        bus_connection.follow("api-keys", ApiKey, parts.keys.apply, parts.keys.note_bucket),
        bus_connection.follow("api-usage", MonthlyUsage, parts.budgets.apply),
        bus_connection.record_usage(parts.budgets),
        bus_connection.forget_usage(parts.budgets),
        bus_connection.exchange(parts.shares),
        parts.installed.follow(),
        *(() if parts.tokens is None else (parts.tokens.follow(),)),
        parts.rollbacks.follow(asyncio.sleep),
        parts.rollbacks.report(asyncio.sleep),
        parts.state.keep_current(asyncio.sleep),
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


async def serve_at(server: HttpServer, listening: socket.socket | None) -> None:
    """Serve at a listening socket; None to open one at the server's own address."""
    await server.serve(sockets=None if listening is None else [listening])


def make_server(
    app: ASGIApp,
    host: str,
    port: int,
    settings: GatewaySettings,
    *,
    for_callers: bool = False,
    tls: ssl.SSLContext | None = None,
) -> HttpServer:
    """Return uvicorn with the gateway's limits of connections and headers (see `limited_protocol`)."""
    return HttpServer(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=limited_protocol(settings, for_callers=for_callers, tls=tls),
            proxy_headers=False,
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=settings.drain_s,
            server_header=False,
        )
    )


async def _close(parts: Parts) -> None:
    parts.features.drain()
    await parts.worker.close()
    with contextlib.suppress(Transient, TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await parts.recorder.flush()
    await parts.engine.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await parts.bus_connection.record_all(parts.budgets)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await parts.bus_connection.close()
    parts.bus.tracing.shutdown()
