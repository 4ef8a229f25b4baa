"""One process of the gateway: it composes the parts, serves until it is asked to stop, and ends in order.

Metrics are created here: in several workers, `share_metrics` must run before this is imported.
"""

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Sequence

import structlog
import uvicorn
from starlette.types import ASGIApp

from contracts.drills import Drill
from contracts.routes import Route
from services.gateway.adapters.bus import BusConnection
from services.gateway.adapters.feature_worker import FeatureWorker
from services.gateway.adapters.http_protocol import BACKLOG, fit_connections, limited_protocol
from services.gateway.adapters.route_file import RouteFile
from services.gateway.adapters.triton import TritonEngine
from services.gateway.app import SERVICE, build
from services.gateway.cross_checks import CrossChecks
from services.gateway.drill_table import DrillTable
from services.gateway.feature_queue import FeatureQueue, QueueLimits
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Recorder
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.service import HttpServer, on_stop_signal
from shared.runtime.settings import Connection
from shared.serving.inference import Deadlines

_LAST_FLUSH_S = 3.0


async def serve(
    connection: Connection, settings: GatewaySettings, sockets: Sequence[socket.socket] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the streams in flight, up to a time limit.

    The endpoints open at once: the gateway does not wait for the bus or any other part.

    Args:
        connection: bus, HTTP address and folder.
        settings: limits of this process.
        sockets: listening sockets that several workers share; None to open one at the address.
    """
    settings = settings.model_copy(update={"max_connections": fit_connections(settings.max_connections)})
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    bus_connection, metrics = BusConnection(bus), GatewayMetrics(bus.metrics)
    file = RouteFile(connection.work_dir(SERVICE) / "routes.json")
    table, staging = RouteTable(file.load(), file.save), RouteTable({}, None, "staging")
    drills = DrillTable(clock)
    engine = TritonEngine(Deadlines(settings.first_token_s, settings.inter_token_s))
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
        limits=QueueLimits(sample_ratio=settings.features_sample_ratio),
        clock=clock,
        pause=asyncio.sleep,
        on_skip=lambda reason: metrics.undescribed.labels(reason).inc(),
    )
    app = build(
        bus,
        tables={"production": table, "staging": staging},
        drills=drills,
        engine=engine,
        telemetry=recorder,
        features=features,
        cross_checks=CrossChecks(engine, clock),
        metrics=metrics,
        is_connected=lambda: bus_connection.connected,
        new_id=lambda: uuid.uuid4().hex,
        pause=asyncio.sleep,
        settings=settings,
        clock=clock,
    )
    server = make_server(app, connection, settings)
    on_stop_signal(server.stop)
    background = (
        bus_connection.connect(),
        recorder.run(),
        features.run(),
        bus_connection.follow("routes", Route, table.apply, table.note_bucket),
        bus_connection.follow("staging-routes", Route, staging.apply),
        bus_connection.follow("drills", Drill, drills.apply),
        metrics.keep_current(lambda: bus_connection.connected, table, asyncio.sleep),
    )
    tasks = [asyncio.ensure_future(work) for work in background]
    structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
    try:
        await server.serve(sockets=None if sockets is None else list(sockets))
    finally:
        structlog.get_logger().info("stopping")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        features.drain()
        await worker.close()
        await _close(recorder, bus_connection, engine)
        bus.tracing.shutdown()


def make_server(app: ASGIApp, connection: Connection, settings: GatewaySettings) -> HttpServer:
    """Return uvicorn with the gateway's limits of connections and headers."""
    return HttpServer(
        uvicorn.Config(
            app,
            host=connection.http_host,
            port=connection.http_port,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=limited_protocol(settings),
            ws="none",
            backlog=BACKLOG,
            timeout_graceful_shutdown=settings.drain_s,
            server_header=False,
        )
    )


async def _close(recorder: Recorder, bus_connection: BusConnection, engine: TritonEngine) -> None:
    with contextlib.suppress(Transient, TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await recorder.flush()
    await engine.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await bus_connection.close()
