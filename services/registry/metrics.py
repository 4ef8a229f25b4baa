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
    """Metrics of the records of releases, and the number of dead letters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._releases = Counts(gauge(m.RELEASES, registry))
        self._dead_letters = gauge(m.DEAD_LETTERS, registry)

    def note(self, key: str, release: Release) -> None:
        """Export the step that a release waits for; one that ended counts no longer."""
        step = deadlines.awaited_step(release)
        self._releases.replace(key, {} if step is None else {(step,): 1.0})

    async def keep_counting(self, count: Callable[[], Awaitable[int]]) -> None:
        """Export how many dead letters are stored, again and again, for ever."""
        while True:
            try:
                self._dead_letters.set(await count())
            except Exception as error:
                known = translate(error)
                if known is None:
                    raise
                structlog.get_logger().warning("dead letters not counted", code=known.code, reason=known.reason)
            await asyncio.sleep(EVERY_S)
