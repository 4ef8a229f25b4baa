"""Several worker processes behind one listening socket, started and restarted by gunicorn.

Each worker is a whole gateway with its own bus connection, routes, limits, budgets and `FeatureWorker`. The socket is
shared: unaccepted connections survive a worker's death, and a worker with a hanging event loop accepts none; it is
killed after `HANG_S`.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from typing import Any, Final

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from services.gateway.process import BACKLOG, serve
from services.gateway.settings import GatewaySettings
from shared.runtime.clock import SystemClock
from shared.runtime.process_metrics import forget_process, identify_process
from shared.runtime.settings import Connection

HANG_S: Final = 20
"""Seconds after which a worker with a hanging event loop is killed, as by the stack's supervisor."""
_BEAT_S: Final = 1.0
_LAST_FLUSH_S: Final = 8
"""Seconds for the last telemetry after `GATEWAY_DRAIN_S`."""


class WorkerPool(BaseApplication):
    """The workers of one gateway; `run` returns when all have ended."""

    def __init__(self, connection: Connection, settings: GatewaySettings) -> None:
        self.connection = connection
        self.settings = settings
        self.started_s = SystemClock().monotonic()
        self._numbers: set[int] = set()
        super().__init__()

    def take_number(self) -> int:
        """Return the smallest unused worker number, and mark it as used."""
        number = next(number for number in itertools.count() if number not in self._numbers)
        self._numbers.add(number)
        return number

    def give_back(self, number: int) -> None:
        """Free the number of an ended worker; the next worker with it continues its metrics."""
        forget_process(number)
        self._numbers.remove(number)

    def load_config(self) -> None:
        """Set gunicorn's options, without its files and environment variables."""
        folder, settings = self.connection.work_dir("gateway"), self.settings
        values = {
            "bind": [
                _address(self.connection.http_host, self.connection.http_port),
                _address(settings.admin_host, settings.admin_port),
            ],
            "workers": settings.workers,
            "worker_class": GatewayWorker,
            "worker_tmp_dir": str(folder),
            "backlog": BACKLOG,
            "timeout": HANG_S,
            "graceful_timeout": self.settings.drain_s + _LAST_FLUSH_S,
            "control_socket_disable": True,
            "logger_class": WorkerLog,
            "errorlog": None,
            "loglevel": "warning",
            "child_exit": lambda _arbiter, worker: self.give_back(worker.number),
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> None:  # type: ignore[override]  # nothing that gunicorn would call
        """Do nothing: each worker composes its own application."""


def _address(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


class GatewayWorker(Worker):
    """One worker: serves, and sends gunicorn heartbeats from its event loop."""

    app: WorkerPool

    def __init__(self, *arguments: Any) -> None:
        """Take a number, in the supervising process."""
        super().__init__(*arguments)
        self.number = self.app.take_number()

    def run(self) -> None:
        """Serve until gunicorn stops this worker, or itself ends."""
        structlog.contextvars.bind_contextvars(worker=self.pid)
        identify_process(self.number)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        # gunicorn's quick stop, after Ctrl-C, finishes streams as well.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, signal.raise_signal, signal.SIGTERM)
        beating = asyncio.ensure_future(self._beat())
        try:
            # For callers first, then for probes: in the order of `bind`.
            sockets = [wrapped.sock for wrapped in self.sockets]  # type: ignore[attr-defined]  # the stubs lack it
            await serve(self.app.connection, self.app.settings, sockets, self.app.started_s)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _beat(self) -> None:
        stopping = False
        while True:
            self.notify()
            orphaned = os.getppid() != self.ppid
            if (orphaned or not self.alive) and not stopping:  # not alive: stopped before it served
                if orphaned:
                    structlog.get_logger().error("the process that supervises the workers ended; this worker stops")
                stopping = True
                signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(_BEAT_S)


class WorkerLog(Logger):
    """Gunicorn's warnings and errors among the service's own JSON lines."""

    def setup(self, cfg: Any) -> None:
        """Pass records to the root logger."""
        super().setup(cfg)
        self.error_log.propagate = True
