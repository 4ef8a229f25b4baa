"""Several worker processes behind one listening socket, started and restarted by gunicorn.

Each worker is a whole gateway: it has its own connection to the bus, routes, limits, budgets and describing process.
The socket is shared, so a connection that no worker has accepted yet survives the death of any of them, and a worker
whose event loop hangs gets no new ones; it is killed after `HANG_S`.
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
"""Time after which a worker whose event loop does not run is killed: that of the stack's supervisor for busy parts."""
_BEAT_S: Final = 1.0
_LAST_FLUSH_S: Final = 8
"""Time for the last telemetry after `DRAIN_S`."""


class WorkerPool(BaseApplication):
    """The workers of one gateway; `run` ends when all of them have ended."""

    def __init__(self, connection: Connection, settings: GatewaySettings) -> None:
        self.connection = connection
        self.settings = settings
        self.started_s = SystemClock().monotonic()
        self._numbers: set[int] = set()
        super().__init__()

    def take_number(self) -> int:
        """Return the smallest number that no worker has."""
        number = next(number for number in itertools.count() if number not in self._numbers)
        self._numbers.add(number)
        return number

    def give_back(self, number: int) -> None:
        """Free the number of a worker that has ended; the next worker continues its metrics."""
        forget_process(number)
        self._numbers.remove(number)

    def load_config(self) -> None:
        """Set gunicorn's options; it reads no file and no variable."""
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
        """Do nothing: the worker composes the application itself."""


def _address(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


class GatewayWorker(Worker):
    """One worker: it serves, and tells gunicorn that its event loop runs."""

    app: WorkerPool

    def __init__(self, *arguments: Any) -> None:
        """Take a number; this happens in the supervising process."""
        super().__init__(*arguments)
        self.number = self.app.take_number()

    def run(self) -> None:
        """Serve until gunicorn, or its end, stops this worker."""
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
            if (orphaned or not self.alive) and not stopping:  # not alive: it was asked to stop before it served
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
