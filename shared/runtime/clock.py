"""The clock: the only module that reads the time."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

Boottime = Callable[[], float]
"""Returns seconds since a fixed moment, including time in which the process or machine was suspended."""


class Clock(Protocol):
    """The port for the time."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for durations."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for durations."""
        return time.monotonic()


def boottime() -> float:
    """Return seconds since the machine started, including suspension, unlike `monotonic`."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
