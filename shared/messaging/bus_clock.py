"""The time, corrected by the message bus's clock if this machine's clock is wrong."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import nats.errors
import structlog
from nats.js import JetStreamContext

from decisions.clocks import is_wrong
from shared.runtime.clock import Clock

_EVERY_S = 10.0
_SLOWEST_S = 2.0


class BusClock:
    """This machine's clock, corrected by the bus's if they differ by more than the transit time of messages.

    Attributes:
        offset_s: this machine's clock minus the bus's, in seconds, at the last comparison.
    """

    def __init__(self, clock: Clock, js: Callable[[], JetStreamContext], bucket: str) -> None:
        """Use this machine's clock, and a bucket of the service: requests about it return the bus's time."""
        self._clock = clock
        self._js = js
        self._question = f"$JS.API.STREAM.INFO.KV_{bucket}"
        self.offset_s = 0.0

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        now = self._clock.now()
        return now - timedelta(seconds=self.offset_s) if is_wrong(self.offset_s) else now

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for durations."""
        return self._clock.monotonic()

    async def compare(self) -> None:
        """Update the offset from the bus's clock; a slow answer is ignored."""
        asked_at, began_s = self._clock.now(), self._clock.monotonic()
        answer = await self._js()._api_request(self._question)  # noqa: SLF001 - the client drops the server's time
        took_s = self._clock.monotonic() - began_s
        if took_s <= _SLOWEST_S:
            middle = asked_at + timedelta(seconds=took_s / 2)
            self.offset_s = (middle - datetime.fromisoformat(answer["ts"])).total_seconds()

    async def try_comparing(self) -> None:
        """Compare the clocks; keep the last result if the bus does not answer."""
        was_wrong = is_wrong(self.offset_s)
        try:
            await self.compare()
        except (nats.errors.Error, TimeoutError) as error:
            structlog.get_logger().warning("the time of the bus could not be read", error=repr(error))
        if is_wrong(self.offset_s) and not was_wrong:
            structlog.get_logger().warning(
                "this machine's clock, or the bus's, is wrong: the bus's counts; check time synchronisation on both",
                ahead_s=round(self.offset_s, 1),
            )

    async def keep_comparing(self) -> None:
        """Compare every 10 s until cancelled."""
        while True:
            await self.try_comparing()
            await asyncio.sleep(_EVERY_S)
