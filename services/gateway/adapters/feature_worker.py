"""Computes text features in a child process (`feature_child`), outside the gateway's event loop."""

import asyncio
import contextlib
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

import structlog
from pydantic import TypeAdapter

from services.gateway.domain.excerpts import Described, Excerpts
from shared.runtime.clock import Clock
from shared.runtime.process import child_command
from shared.runtime.sandbox import clean_environment
from shared.runtime.tasks import end_tasks

_MODULE = "services.gateway.adapters.feature_child"
_READY = b"ready\n"
_DESCRIBED: TypeAdapter[Described | None] = TypeAdapter(Described | None)
_START_S = 60.0
"""Time limit of a start, which takes a second of processor time."""
_RESTART_S = 5.0
_ATTEMPTS = 2
"""Attempts at a text if the process ends meanwhile: the text may not be the cause."""


class FeatureWorker:
    """One child process, started on first use and replaced when it ends (implements `ports.Describer`).

    The kernel kills the child when the gateway ends. A text that exceeds `text_s` gets no features, and the child
    is replaced.
    """

    def __init__(
        self, clock: Clock, *, text_s: float = 2.0, batch_s: float = 4.0, memory_limit_bytes: int = 512 * 2**20
    ) -> None:
        self._clock = clock
        self._text_s = text_s
        self._batch_s = batch_s
        self._memory_limit_bytes = memory_limit_bytes
        self._child: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._next_start_s = 0.0
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Return the id of the process; None if none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def describe(self, texts: Sequence[Excerpts]) -> list[Described | None]:
        """Return the features of each text, in order; None where computing exceeded a limit or failed."""
        async with self._lock:
            described: list[Described | None] = []
            attempts = 0
            end_s = self._clock.monotonic() + self._batch_s
            while len(described) < len(texts) and await self._is_running(end_s) and self._clock.monotonic() < end_s:
                before = len(described)
                ended = await self._exchange(texts[before:], described, end_s)
                attempts = attempts + 1 if len(described) == before else 1
                if len(described) < len(texts) and (not ended or attempts >= _ATTEMPTS):
                    described.append(None)
                    attempts = 0
            return described + [None] * (len(texts) - len(described))

    async def close(self) -> None:
        """End the child process."""
        async with self._lock:
            if self._starting is not None:
                await end_tasks([self._starting])
            await self._end()

    async def _exchange(self, texts: Sequence[Excerpts], described: list[Described | None], end_s: float) -> bool:
        """Append the features of texts until a failure; return whether the child process had ended by itself."""
        child = self._child
        assert child is not None  # noqa: S101 - it runs
        assert child.stdin is not None  # noqa: S101 - it was started with pipes
        assert child.stdout is not None  # noqa: S101 - it was started with pipes
        complete = False
        try:
            child.stdin.writelines(map(pickle.dumps, texts))
            for _ in texts:
                async with asyncio.timeout(min(self._text_s, max(0.0, end_s - self._clock.monotonic()))):
                    described.append(_read(await child.stdout.readline()))
            complete = True
        except (ConnectionError, EOFError):
            return True
        except (TimeoutError, ValueError) as error:
            structlog.get_logger().warning("a text was not described in time", error=repr(error))
            return False
        finally:
            # Also after a cancellation: a late reply must not be read as the next text's.
            if not complete:
                await self._end()
        return False

    async def _is_running(self, end_s: float) -> bool:
        """Return whether the process runs; else start it, `_RESTART_S` after a failure, and wait until `end_s`."""
        if self.pid is not None:
            return True
        if self._starting is None or self._starting.done():
            if self._clock.monotonic() < self._next_start_s:
                return False
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.wait({self._starting}, timeout=max(0.0, end_s - self._clock.monotonic()))
        return self.pid is not None

    async def _start(self) -> None:
        """Start the process and wait for its ready line; after a failure, delay the next start."""
        child: Process | None = None
        ready = b""
        try:
            async with asyncio.timeout(_START_S):
                child = await asyncio.create_subprocess_exec(
                    *child_command(
                        [sys.executable, "-m", _MODULE], memory_limit_bytes=self._memory_limit_bytes, alone=True
                    ),
                    env=clean_environment(),
                    stdin=PIPE,
                    stdout=PIPE,
                )
                assert child.stdout is not None  # noqa: S101 - it was started with pipes
                ready = await child.stdout.readline()
        except (TimeoutError, OSError, ValueError):
            ready = b""
        finally:
            self._child = child
            if ready != _READY:
                await self._end()
                self._next_start_s = self._clock.monotonic() + _RESTART_S
        if ready != _READY:
            structlog.get_logger().error("the process that describes texts does not start")

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _read(line: bytes) -> Described | None:
    """Return the features in a line of the process; None if it could not compute them.

    Raises:
        EOFError: the process ended.
        ValueError: the line is invalid.
    """
    if not line.endswith(b"\n"):
        raise EOFError
    return _DESCRIBED.validate_json(line)
