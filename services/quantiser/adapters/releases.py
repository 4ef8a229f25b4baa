"""Learns from the log of facts how a release ended."""

from datetime import timedelta
from typing import Any

from nats.errors import Error as NatsError

from contracts.envelope import Event
from contracts.facts import ReleaseFinished, VariantRequested
from contracts.services import EVENTS
from shared.messaging.bus import Bus
from shared.messaging.events import parse_event

_CLOCK_SKEW = timedelta(minutes=5)


class EndOfRelease:
    """Looks for the end of the release that a request belongs to.

    The log itself is asked again and again, instead of a subscription: so every replica hears of every end, also of
    one that came before the work began, or while the bus was away.
    """

    def __init__(self, bus: Bus, request: Event[VariantRequested]) -> None:
        self._bus = bus
        self._release_id = request.data.release_id
        self._subject = f"{ReleaseFinished.TYPE}.{request.subject}"
        self._since = request.time - _CLOCK_SKEW
        self._seen: int | None = None

    async def look(self) -> ReleaseFinished | None:
        """Return the fact that ended the release; None when there is none, or when the bus does not answer now."""
        try:
            if self._seen is None:
                self._seen = await self._start()
            while True:
                message = await self._bus.js.get_msg(EVENTS, self._seen + 1, subject=self._subject, next=True)
                finished = parse_event(ReleaseFinished, self._subject, message.data or b"").data
                if finished.release_id == self._release_id:
                    return finished
                self._seen = message.seq or self._seen + 1
        except (TimeoutError, NatsError):  # also: there is no further one
            return None

    async def _start(self) -> int:
        """Return the sequence after which to look: the newest end if older than the request, else the beginning."""
        newest: Any = await self._bus.js.get_last_msg(EVENTS, self._subject)
        old = newest.time is not None and newest.time < self._since
        return int(newest.seq) if old else 0
