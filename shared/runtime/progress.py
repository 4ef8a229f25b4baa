"""Publishes the progress of a handler's work, from any thread, at a limited rate."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.vocabulary import Variant
from shared.runtime.clock import Clock

if TYPE_CHECKING:  # a worker reports without a bus, and FastStream takes long to import
    from shared.messaging.bus import Bus

ReportProgress = Callable[[str, float, float, str], None]
"""Called with step, amount done, total amount, unit; from any thread."""


def progress_reporter(
    bus: "Bus", event: Event[Any], clock: Clock, interval_s: float, variant: Variant | None = None
) -> ReportProgress:
    """Return a function that publishes progress at most every `interval_s` for each step, and always the end."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    last: dict[str, float] = {}

    def publish(fact: WorkProgressed) -> None:
        task = loop.create_task(bus.progress(event, fact))
        tasks.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(tasks.discard)

    def report(step: str, done: float, total: float, unit: str) -> None:
        now = clock.monotonic()
        if done < total and now - last.get(step, -interval_s) < interval_s:
            return
        last[step] = now
        fact = WorkProgressed(step=step, done=done, total=total, unit=unit, variant=variant)
        if not loop.is_closed():
            loop.call_soon_threadsafe(publish, fact)

    return report
