"""The registry's Prometheus metrics: releases under way, and stored dead letters."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import CollectorRegistry

from contracts import metrics as m
from services.registry.domain import deadlines
from services.registry.domain.record import Release
from shared.errors import translate
from shared.runtime.metrics import Counts, gauge

EVERY_S = 15.0


class RegistryMetrics:
    """Gauges of open releases by awaited step, and of stored dead letters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._releases = Counts(gauge(m.RELEASES, registry))
        self._dead_letters = gauge(m.DEAD_LETTERS, registry)

    def note(self, key: str, release: Release) -> None:
        """Export the step that a release waits for; an ended release is no longer counted."""
        step = deadlines.awaited_step(release)
        self._releases.replace(key, {} if step is None else {(step,): 1.0})

    async def keep_counting(self, count: Callable[[], Awaitable[int]]) -> None:
        """Export the number of stored dead letters every `EVERY_S` seconds."""
        while True:
            try:
                self._dead_letters.set(await count())
            except Exception as error:
                known = translate(error)
                if known is None:
                    raise
                structlog.get_logger().warning("dead letters not counted", code=known.code, reason=known.reason)
            await asyncio.sleep(EVERY_S)
