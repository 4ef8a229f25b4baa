"""Tells how far a handler's work is, from any thread, without flooding the bus."""

import asyncio
from collections.abc import Callable
from typing import Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.vocabulary import Variant
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock

Tell = Callable[[str, float, float, str], None]
"""Called with the step, how much is done, how much there is, and the unit."""


def teller(bus: Bus, event: Event[Any], clock: Clock, interval_s: float, variant: Variant | None = None) -> Tell:
    """Return a function that publishes progress, at most every `interval_s` for each step, and always its end."""
    loop = asyncio.get_running_loop()
    telling: set[asyncio.Task[None]] = set()
    last: dict[str, float] = {}

    def start(fact: WorkProgressed) -> None:
        task = loop.create_task(bus.progress(event, fact))
        telling.add(task)  # or the loop might forget it half way
        task.add_done_callback(telling.discard)

    def tell(step: str, done: float, total: float, unit: str) -> None:
        now = clock.monotonic()
        if done < total and now - last.get(step, -interval_s) < interval_s:
            return
        last[step] = now
        fact = WorkProgressed(step=step, done=done, total=total, unit=unit, variant=variant)
        if not loop.is_closed():
            loop.call_soon_threadsafe(start, fact)

    return tell
