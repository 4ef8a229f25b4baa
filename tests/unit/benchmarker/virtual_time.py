"""An event loop whose clock jumps to the next timer: load that takes minutes runs in milliseconds, and exactly.

Unlike `tests.kit.virtual_time` it waits for threads, in which the benchmarker reads the store and computes.
"""

import asyncio
from collections.abc import Coroutine, Sized
from datetime import UTC, datetime
from typing import Any

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    _scheduled: list[asyncio.TimerHandle]
    _ready: Sized

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        waiting = [timer.when() for timer in self._scheduled if not timer.cancelled()]
        if not self._ready and waiting:
            self._now = max(self._now, min(waiting))
        super()._run_once()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - see below
        """Wait for the threads without a limit: asyncio's, since Python 3.12, is in seconds of this loop."""
        await super().shutdown_default_executor()


def run_virtually(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
