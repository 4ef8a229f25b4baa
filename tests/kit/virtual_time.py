"""An event loop whose time leaps to the next timer instead of waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LeapingLoop(asyncio.SelectorEventLoop):
    """Sleeps and timeouts of any length take no time; only for code that does no I/O."""

    def __init__(self) -> None:
        super().__init__()
        self._leapt_s = 0.0
        self._real_select = self._selector.select
        self._selector.select = self._leap

    def time(self) -> float:
        return super().time() + self._leapt_s

    def _leap(self, timeout_s):
        ready = self._real_select(0)
        if not ready and timeout_s:
            self._leapt_s += timeout_s
        return ready


def run_leaping(story: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time and return its result."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(story)
