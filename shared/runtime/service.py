"""Runs a service: its handlers, its background work, and the endpoints for health, readiness and metrics."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import nats.errors
import structlog
import uvicorn
from prometheus_client import make_asgi_app
from pydantic_settings import BaseSettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from contracts.version import VERSION
from shared.errors import Permanent, Transient
from shared.messaging.bus import Bus
from shared.messaging.credentials import require_identity
from shared.runtime import sandbox
from shared.runtime.failpoints import arm
from shared.runtime.program_imports import finish_imports
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection, read_settings
from shared.runtime.tasks import end_tasks
from shared.runtime.telemetry import configure_logging

S = TypeVar("S", bound=BaseSettings)
Check = Callable[[], Awaitable[object]]
"""Raises an error if a dependency does not work."""
_CHECK_TIMEOUT_S = 5.0


def run_service(
    service: str,
    settings: type[S],
    run: Callable[[Connection, S], Coroutine[Any, Any, None]],
    *,
    uses_store: bool = True,
) -> None:
    """Read the settings from the environment and run a service as its identity, until SIGTERM.

    Raises:
        SystemExit: A setting is not valid, or a credential is missing, of the bus or of a store that it uses.
    """
    finish_imports()
    connection = require_identity(read_settings(Connection), service)
    if uses_store:
        from shared.storage.credentials import require_store  # not in the images of the others

        connection = require_store(connection, service)
    configure_logging(service, connection.log_level)
    asyncio.run(run(connection, read_settings(settings)))


def probe_routes(bus: Bus, checks: Mapping[str, Check]) -> list[Any]:
    """Return the routes `/healthz`, `/readyz` and `/metrics`; readiness runs every check."""

    async def healthz(_request: Request) -> JSONResponse:
        return JSONResponse({"service": bus.service, "version": VERSION, "status": "alive"})

    async def readyz(_request: Request) -> JSONResponse:
        results = dict(zip(checks, await asyncio.gather(*(_run(check) for check in checks.values())), strict=True))
        ready = all(result == "ok" for result in results.values())
        body = {"service": bus.service, "version": VERSION, "ready": ready, "checks": results}
        return JSONResponse(body, 200 if ready else 503)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Mount("/metrics", make_asgi_app(registry=bus.metrics)),
    ]


async def _run(check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check()
    except Exception as error:  # noqa: BLE001 - every error means: not ready, for this reason
        return f"{type(error).__name__}: {error}"
    return "ok"


async def check_sandbox(connection: Connection) -> None:
    """Log the missing protections of the sandbox on this machine.

    Raises:
        Permanent: `internal_error` if one is missing and `SLIPWAY_SANDBOX` is `required`.
    """
    missing = (await asyncio.to_thread(sandbox.probe)).missing()
    if missing and connection.sandbox == sandbox.REQUIRED:
        names = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise Permanent("internal_error", f"The sandbox lacks {names} here, and SLIPWAY_SANDBOX is required.")
    if missing:
        structlog.get_logger().warning("files from outside are parsed with an incomplete sandbox", missing=missing)


async def connect_with_retries(bus: Bus) -> None:
    """Connect to the bus, and retry until it succeeds."""
    while True:
        try:
            await bus.connect()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            structlog.get_logger().warning("waiting for the bus", error=repr(error))
            await asyncio.sleep(1)
        else:
            return


async def _prepare(steps: Sequence[Callable[[], object]]) -> None:
    """Run each step in a thread; repeat it each second while it raises Transient."""
    for step in steps:
        while True:
            try:
                await asyncio.to_thread(step)
            except Transient as error:
                structlog.get_logger().warning("waiting to start", code=error.code, reason=error.reason)
                await asyncio.sleep(1)
            else:
                break


async def _connect(bus: Bus, prepare: Sequence[Callable[[], object]]) -> None:
    await _prepare(prepare)
    await connect_with_retries(bus)
    await _wait_for_consumers(bus)


async def _wait_for_consumers(bus: Bus) -> None:
    """Wait until the service's consumers exist; after a restart of the bus, telemetry's are missing briefly."""
    reported = ""
    while (missing := await bus.find_missing_consumer()) is not None:
        if missing != reported:
            structlog.get_logger().warning("waiting for a consumer", reason=missing)
            reported = missing
        await asyncio.sleep(1)


async def serve(
    bus: Bus,
    connection: Connection,
    *,
    ready: Mapping[str, Check] | None = None,
    background: Sequence[Callable[[], Awaitable[None]]] = (),
    app: Starlette | None = None,
    on_stop: Callable[[], None] = lambda: None,
    prepare: Sequence[Callable[[], object]] = (),
) -> None:
    """Run until SIGTERM or SIGINT: start endpoints, bus, handlers and background work; stop them in reverse order.

    Without the bus the service is alive and not ready. If a background task fails, the service ends, for its supervisor
    to restart it.

    Args:
        bus: The connection.
        connection: The settings.
        ready: Readiness checks by name, beside the bus.
        background: Tasks that run until the end.
        app: Further endpoints.
        on_stop: Called before the endpoints wait for requests in flight; ends endless ones.
        prepare: Steps before the first message, each in a thread; repeated while they raise Transient.

    Raises:
        SystemExit: 1 after a Permanent error of a step or background task.
    """
    checks = {"bus": bus.check, **(ready or {})}
    connect = partial(_connect, bus, prepare)
    try:
        await _serve(bus, connection, checks, connect, app or Starlette(), background=background, on_stop=on_stop)
    except Permanent as refusal:
        structlog.get_logger().error("does not run", code=refusal.code, reason=refusal.reason)
        raise SystemExit(1) from None


async def _serve(
    bus: Bus,
    connection: Connection,
    checks: Mapping[str, Check],
    connect: Callable[[], Awaitable[None]],
    web: Starlette,
    *,
    background: Sequence[Callable[[], Awaitable[None]]],
    on_stop: Callable[[], None],
) -> None:
    sandbox.hide_memory()
    arm(connection.failpoint, connection.work_dir(bus.service))
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    metrics = ServiceMetrics(bus, connection)
    web.router.routes.extend(probe_routes(bus, checks))
    server = HttpServer(
        uvicorn.Config(
            web,
            host=connection.http_host,
            port=connection.http_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=20,
            lifespan="off",
            ws="none",
        )
    )
    http = asyncio.ensure_future(_serve_http(server))
    waiting = asyncio.ensure_future(stop.wait())
    tasks = [asyncio.ensure_future(connect())]
    try:
        done, _ = await asyncio.wait([waiting, http, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if waiting in done or http in done:
            for task in done & {http}:
                task.result()
            return
        tasks.pop().result()
        await bus.broker.start()
        tasks += [asyncio.ensure_future(work()) for work in (metrics.keep_current, *background)]
        structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
        done, _ = await asyncio.wait([waiting, http, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()
    finally:
        structlog.get_logger().info("stopping")
        on_stop()
        server.stop()
        await asyncio.gather(http, return_exceptions=True)  # its error was raised above if it was the reason to stop
        await end_tasks(tasks)
        await bus.stop()
        bus.tracing.shutdown()


class HttpServer(uvicorn.Server):
    """Uvicorn without signal handlers, which would re-raise the signal before the service's clean-up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `on_stop_signal`."""
        yield

    def stop(self) -> None:
        """Close the port, and end after the requests in flight."""
        self.should_exit = True


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT."""
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)


async def _serve_http(server: HttpServer) -> None:
    with contextlib.suppress(SystemExit):
        await server.serve()
