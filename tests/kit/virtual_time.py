"""Runs coroutines in virtual time: the loop's clock jumps to the next timer as soon as nothing else is ready."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
START = datetime(2026, 3, 4, tzinfo=UTC)


class NothingLeftToHappenError(AssertionError):
    """Every task waits for something that no timer and no other task will bring about."""


class JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never sleeps: where the loop would wait for a timer, its time moves there."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; move the time by `timeout` where nothing is."""
        return super().select(0) or self.move(timeout)

    def move(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the time by `timeout`; return nothing."""
        if timeout is None:
            msg = "virtual time stands still: every task waits for another one; use no threads and no sockets here"
            raise NothingLeftToHappenError(msg)
        if timeout > 0:
            self._jump(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number. Tasks run in the order in which they became ready, so runs repeat."""

    selector = JumpingSelector

    def __init__(self) -> None:
        self._virtual_s = 0.0
        super().__init__(self.selector(self._move))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual_s

    def _move(self, seconds: float) -> None:
        # The loop takes a timer for due within its clock's resolution; rounding must not leave one a hair too late.
        self._virtual_s = round(self._virtual_s + seconds, 9)


class VirtualClock:
    """The clock of virtual time (implements `shared.runtime.clock.Clock`); its wall clock can be wrong."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._off = timedelta()

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return self.true_time() + self._off

    def true_time(self) -> datetime:
        """Return the time that a wall clock which never jumped would show."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the loop's time in seconds."""
        return asyncio.get_running_loop().time()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back; the loop's time does not change."""
        self._off += timedelta(seconds=seconds)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorate an async test: it runs to its end in virtual time, and never sleeps for real."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(test(*args, **kwargs))

    return run


class VirtualTimePolicy(asyncio.DefaultEventLoopPolicy):
    """For the fixture `event_loop_policy`: every async test of a module runs in virtual time."""

    def new_event_loop(self) -> VirtualTimeLoop:
        """Return a loop in virtual time."""
        return VirtualTimeLoop()
