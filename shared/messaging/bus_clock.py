"""The time, corrected by the message bus's clock if this machine's clock is wrong."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import nats.errors
import structlog
from nats.js import JetStreamContext

from decisions.clocks import is_wrong
from shared.runtime.clock import Boottime, Clock, boottime

_EVERY_S = 10.0
_SLOWEST_S = 2.0


class BusClock:
    """This machine's clock, corrected by the bus's if they differ by more than the transit time of messages.

    Between two comparisons the seconds since the machine's start show whether its clock was set.

    Attributes:
        offset_s: this machine's clock minus the bus's, in seconds, at the last comparison.
    """

    def __init__(
        self, clock: Clock, js: Callable[[], JetStreamContext], bucket: str, boottime: Boottime = boottime
    ) -> None:
        """Use this machine's clock, and a bucket of the service: requests about it return the bus's time."""
        self._clock, self._boottime = clock, boottime
        self._read_at, self._read_s = clock.now(), boottime()
        self._js = js
        self._question = f"$JS.API.STREAM.INFO.KV_{bucket}"
        self.offset_s = 0.0

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        now = self._clock.now()
        jumped_s = (now - self._read_at).total_seconds() - (self._boottime() - self._read_s)
        offset_s = self.offset_s + jumped_s
        return now - timedelta(seconds=offset_s) if is_wrong(offset_s) else now

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for durations."""
        return self._clock.monotonic()

    async def compare(self) -> None:
        """Update the offset from the bus's clock; a slow answer is ignored."""
        asked_at, asked_s, began_s = self._clock.now(), self._boottime(), self._clock.monotonic()
        answer = await self._js()._api_request(self._question)  # noqa: SLF001 - the client drops the server's time
        took_s = self._clock.monotonic() - began_s
        if took_s <= _SLOWEST_S:
            middle = asked_at + timedelta(seconds=took_s / 2)
            self.offset_s = (middle - datetime.fromisoformat(answer["ts"])).total_seconds()
            self._read_at, self._read_s = asked_at, asked_s

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
