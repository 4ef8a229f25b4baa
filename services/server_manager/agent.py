"""Starts the agent beside one Triton: the only program with Triton's model-control key."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc.aio
import structlog
import uvicorn

from contracts.version import VERSION
from services.server_manager.adapters.agent_requests import Managers
from services.server_manager.adapters.term_file import TermFile
from services.server_manager.agent_server import Agent
from services.server_manager.settings import AgentSettings
from shared.runtime.program_imports import finish_imports
from shared.runtime.settings import read_settings
from shared.runtime.telemetry import configure_logging

STOP_S = 5.0
"""Seconds for calls in flight when the agent stops; Triton still completes their requests."""


class HealthServer(uvicorn.Server):
    """Answers `/healthz`, and `/readyz` by Triton's liveness."""

    def __init__(self, settings: AgentSettings, alive: Callable[[], Awaitable[bool]]) -> None:
        self._alive = alive
        super().__init__(
            uvicorn.Config(
                self._answer,
                host=settings.http_host,
                port=settings.http_port,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                interface="asgi3",
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: `run` handles signals."""
        yield

    async def _answer(self, scope: Any, _receive: Any, send: Any) -> None:
        checks = {}
        if scope["path"] == "/readyz" and not await self._alive():
            checks = {"triton": "it does not say that it is live"}
        status = 404 if scope["path"] not in ("/healthz", "/readyz") else 503 if checks else 200
        body = json.dumps({"service": "agent", "version": VERSION, "ready": status == 200, "checks": checks}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def run(settings: AgentSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    agent = Agent(
        settings.triton_grpc,
        settings.admin_key.get_secret_value(),
        Managers(settings.managers),
        TermFile(settings.term_file),
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((agent,))
    server.add_insecure_port(settings.listen)
    health = HealthServer(settings, agent.engine_lives)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, setattr, health, "should_exit", True)
    await server.start()
    structlog.get_logger().info("started", grpc=settings.listen, term=agent.highest.term if agent.highest else 0)
    try:
        await health.serve()
    finally:
        await server.stop(STOP_S)
        await agent.close()


def main() -> None:
    """Read the settings and run the agent."""
    finish_imports()
    settings = read_settings(AgentSettings)
    configure_logging("agent")
    if not settings.admin_key.get_secret_value():
        sys.exit("agent: TRITON_AGENT_ADMIN_KEY is not set: choose one, and give it to Triton and to nothing else.")
    try:
        asyncio.run(run(settings))
    except (ValueError, OSError, RuntimeError) as error:  # gRPC raises RuntimeError for a port in use
        sys.exit(f"agent: {error}")


if __name__ == "__main__":
    main()
