"""Checks in the event log whether a release has finished."""

from datetime import timedelta
from typing import Any

from nats.errors import Error as NatsError

from contracts.envelope import Event, nats_subject
from contracts.facts import ReleaseFinished, VariantRequested
from contracts.services import EVENTS
from shared.messaging.bus import Bus
from shared.messaging.events import parse_event

_CLOCK_SKEW = timedelta(minutes=5)


class LoggedRelease:
    """Watches a request's release (implements `ports.ReleaseWatch`).

    Polling the log, instead of subscribing, finds releases that finished before the work began or while the bus was
    down.
    """

    def __init__(self, bus: Bus, request: Event[VariantRequested]) -> None:
        self._bus = bus
        self._release_id = request.data.release_id
        self._subject = nats_subject(ReleaseFinished.TYPE, request.subject, "*")
        self._since = request.time - _CLOCK_SKEW
        self._sequence: int | None = None

    async def finished(self) -> ReleaseFinished | None:
        """Return the release's `release.finished`; None if there is none or the bus does not answer."""
        try:
            if self._sequence is None:
                self._sequence = await self._start()
            while True:
                message = await self._bus.js.get_msg(EVENTS, self._sequence + 1, subject=self._subject, next=True)
                finished = parse_event(ReleaseFinished, message.subject or "", message.data or b"").data
                if finished.release_id == self._release_id:
                    return finished
                self._sequence = message.seq or self._sequence + 1
        except (TimeoutError, NatsError):  # includes: no further message
            return None

    async def _start(self) -> int:
        """Return where to start: after the model's last `release.finished` before the request, else at 0."""
        newest: Any = await self._bus.js.get_last_msg(EVENTS, self._subject)
        old = newest.time is not None and newest.time < self._since
        return int(newest.seq) if old else 0
