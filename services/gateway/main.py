"""Starts the gateway: `python -m services.gateway.main`."""

import asyncio
import contextlib
import signal
import socket
import uuid
from collections.abc import Iterator

import structlog
import uvicorn

from contracts.drills import Drill
from contracts.routes import Route
from services.gateway.adapters.bus import BusLink
from services.gateway.adapters.http_protocol import BACKLOG, fit_connections, limited_protocol
from services.gateway.adapters.route_file import RouteFile
from services.gateway.adapters.templates import SandboxedTemplates
from services.gateway.adapters.triton import TritonEngine
from services.gateway.app import build
from services.gateway.completions import Parts
from services.gateway.cross_checks import Proofs
from services.gateway.drill_table import DrillTable
from services.gateway.http import Bodies
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Recorder
from shared.errors import Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.serving.inference import Deadlines

SERVICE = "gateway"
_LAST_FLUSH_S = 3.0


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: it would raise the signal again before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `run`."""
        yield


async def run(connection: Connection, settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish the streams in flight, up to a limit.

    The endpoints open at once: neither the bus nor any other part is waited for.
    """
    settings = settings.model_copy(update={"max_connections": fit_connections(settings.max_connections)})
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    link = BusLink(bus)
    metrics = GatewayMetrics(bus.metrics)
    file = RouteFile(connection.work_dir(SERVICE) / "routes.json")
    table, staging = RouteTable(file.load(), file.save), RouteTable({}, None, "staging")
    drills = DrillTable(clock)
    engine = TritonEngine(Deadlines(settings.first_token_s, settings.inter_token_s))
    templates = SandboxedTemplates(clock, workers=settings.template_workers, time_s=settings.template_time_s)
    recorder = Recorder(
        link,
        gateway=f"gateway-{socket.gethostname()[:63]}-{uuid.uuid4().hex[:8]}",
        queue=settings.telemetry_queue,
        batch=settings.telemetry_batch,
        interval_s=settings.telemetry_interval_s,
        on_drop=metrics.dropped.inc,
    )
    parts = Parts(
        tables={"production": table, "staging": staging},
        drills=drills,
        engine=engine,
        templates=templates,
        record=recorder.record,
        metrics=metrics,
        clock=clock,
        new_id=lambda: uuid.uuid4().hex,
        max_in_flight=settings.max_in_flight,
        write_s=settings.write_s,
        lag_bytes=settings.max_lag_bytes,
        proofs=Proofs(engine, clock),
        bodies=Bodies(
            max_bytes=settings.max_body_bytes,
            deadline_s=settings.body_s,
            most=settings.max_bodies,
            all_bytes=settings.max_bodies_bytes,
        ),
    )
    app = build(
        parts, registry=bus.metrics, bus_connected=lambda: link.connected, telemetry_trouble=lambda: recorder.trouble
    )
    server = _Server(
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
    _stop_on_signals(server)
    await templates.start()
    background = (
        link.connect(),
        recorder.run(),
        link.follow("routes", Route, table.apply, table.looked),
        link.follow("staging-routes", Route, staging.apply),
        link.follow("drills", Drill, drills.apply),
    )
    tasks = [asyncio.ensure_future(work) for work in background]
    structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
    try:
        await server.serve()
    finally:
        structlog.get_logger().info("stopping")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _close(recorder, link, engine, templates)
        bus.tracing.shutdown()


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)


async def _close(recorder: Recorder, link: BusLink, engine: TritonEngine, templates: SandboxedTemplates) -> None:
    with contextlib.suppress(Transient, TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await recorder.flush()
    await templates.close()
    await engine.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_FLUSH_S):
            await link.close()


def main() -> None:
    """Read the settings and run."""
    connection = Connection()
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, GatewaySettings()))


if __name__ == "__main__":
    main()
