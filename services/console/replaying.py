"""Replays recorded traffic with the triggers of an edited policy; it changes nothing."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from contracts.policy import Trigger
from services.console.domain.replay_screen import ReplayResult, check_work
from services.console.ports import Recorded, Replays
from shared.runtime.clock import Clock

LONGEST_H: Final = 48
"""Hours that a replay goes back; `slipway replay` takes any time."""
RETRY_AFTER_S: Final = 15


class ReplayRunningError(Exception):
    """Another replay is computed now."""

    def __init__(self) -> None:
        super().__init__(f"Another replay is computed now; one runs at a time. Try again in {RETRY_AFTER_S} s.")


class Replaying:
    """Runs one replay at a time: each takes a processor for up to 50 s.

    Args:
        recorded: The log.
        replays: Computes them.
        clock: Says what the last hours are.
    """

    def __init__(self, recorded: Recorded, replays: Replays, clock: Clock) -> None:
        self._recorded, self._replays, self._clock = recorded, replays, clock
        self._one_at_a_time = asyncio.Lock()

    async def run(self, model: str, triggers: Sequence[Trigger], hours: int) -> ReplayResult:
        """Return what the triggers would have done to the traffic of the last hours.

        Raises:
            ReplayRunningError: Another one is computed now.
            ReplayRefusedError: The traffic has too many requests for so many triggers, or it took too long.
            SlipwayError: The log cannot be read, or the replay cannot be computed.
        """
        if self._one_at_a_time.locked():
            raise ReplayRunningError
        async with self._one_at_a_time:
            since = self._clock.now() - timedelta(hours=hours)
            events = await self._recorded.read(model, since)
            check_work(model, triggers, events, since)
            return await self._replays.compute(model, triggers, events, since)
