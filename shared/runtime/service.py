"""Runs a service: its handlers, its background work, and the endpoints that say how it is."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import nats.errors
import structlog
import uvicorn
from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from shared.messaging.bus import Bus
from shared.runtime.failpoints import arm
from shared.runtime.settings import Connection

Check = Callable[[], Awaitable[None]]
_CHECK_TIMEOUT_S = 5.0


def probe_routes(bus: Bus, checks: Mapping[str, Check]) -> list[Any]:
    """Return the routes `/healthz`, `/readyz` and `/metrics`; readiness really asks each thing it names."""

    async def healthz(_request: Request) -> JSONResponse:
        return JSONResponse({"service": bus.service, "status": "alive"})

    async def readyz(_request: Request) -> JSONResponse:
        answers = dict(zip(checks, await asyncio.gather(*(_ask(check) for check in checks.values())), strict=True))
        ready = all(answer == "ok" for answer in answers.values())
        return JSONResponse({"service": bus.service, "ready": ready, "checks": answers}, 200 if ready else 503)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Mount("/metrics", make_asgi_app(registry=bus.metrics)),
    ]


async def _ask(check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong, the answer is: not ready, because of this
        return f"{type(error).__name__}: {error}"
    return "ok"


async def connect_patiently(bus: Bus) -> None:
    """Connect to the bus, waiting for it as long as it takes."""
    while True:
        try:
            await bus.connect()
        except (TimeoutError, nats.errors.Error, OSError) as error:
            structlog.get_logger().warning("waiting for the bus", error=repr(error))
            await asyncio.sleep(1)
        else:
            return


async def serve(
    bus: Bus,
    connection: Connection,
    *,
    ready: Mapping[str, Check] | None = None,
    background: Sequence[Callable[[], Awaitable[None]]] = (),
    app: Starlette | None = None,
) -> None:
    """Run until SIGTERM or SIGINT: first the endpoints, then bus, handlers and background work; then all in reverse.

    The endpoints need nothing else: without the bus the service lives and is not ready. A background task that fails
    ends the service, so that its supervisor starts it again: half a service is worse.
    """
    arm(connection.failpoint, connection.work_dir(bus.service))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    checks = {"bus": bus.check, **(ready or {})}
    web = app or Starlette()
    web.router.routes.extend(probe_routes(bus, checks))
    server = uvicorn.Server(
        uvicorn.Config(
            web,
            host=connection.http_host,
            port=connection.http_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=20,
            lifespan="off",
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    http = asyncio.ensure_future(_serve_http(server))
    waiting = asyncio.ensure_future(stop.wait())
    tasks = [asyncio.ensure_future(connect_patiently(bus))]
    try:
        done, _ = await asyncio.wait([waiting, http, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if waiting in done or http in done:
            for task in done & {http}:
                task.result()
            return
        tasks.pop().result()
        await bus.broker.start()
        tasks += [asyncio.ensure_future(work()) for work in background]
        structlog.get_logger().info("started", http=f"{connection.http_host}:{connection.http_port}")
        done, _ = await asyncio.wait([waiting, http, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            task.result()
    finally:
        structlog.get_logger().info("stopping")
        server.should_exit = True
        await asyncio.gather(http, return_exceptions=True)  # how it ended was said above, if it was the reason to stop
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.stop()
        bus.tracing.shutdown()


async def _serve_http(server: uvicorn.Server) -> None:
    with contextlib.suppress(SystemExit):
        await server._serve()  # noqa: SLF001 - serve() would install signal handlers of its own over ours
