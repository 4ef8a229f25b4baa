"""Replays recorded traffic with the triggers of an edited policy; it changes nothing."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from contracts.policy import Trigger
from decisions.replay.engine import replay
from services.console.domain.replay_screen import ReplayResult, result_of
from services.console.ports import Recorded
from shared.runtime.clock import Clock

LONGEST_H: Final = 48
"""Hours that a replay goes back; `slipway replay` takes any time."""


class Replaying:
    """Runs replays one after the other: each computes for some seconds.

    Args:
        recorded: The log.
        clock: Says what the last hours are.
    """

    def __init__(self, recorded: Recorded, clock: Clock) -> None:
        self._recorded, self._clock = recorded, clock
        self._one_at_a_time = asyncio.Semaphore(1)

    async def run(self, model: str, triggers: Sequence[Trigger], hours: int) -> ReplayResult:
        """Return what the triggers would have done to the traffic of the last hours."""
        since = self._clock.now() - timedelta(hours=hours)
        async with self._one_at_a_time:
            events = await self._recorded.read(model, since)
            return result_of(model, await asyncio.to_thread(partial(replay, triggers, events, since=since)), triggers)
