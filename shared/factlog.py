"""Looks up in the log whether a fact was said already, before it is said again."""

from datetime import datetime, timedelta
from typing import Any

from nats.js.errors import NotFoundError

from contracts.envelope import Event
from contracts.services import EVENTS
from shared.bus import Bus, Emit

_CLOCK_SKEW = timedelta(minutes=5)


class LoggedPublisher:
    """The bus, with the log of facts behind it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, emit: Emit) -> Event[Any]:
        """Publish a fact and return once the stream has it; raise Transient `bus_unavailable` when it has not."""
        return await self._bus.publish(emit)

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Tell whether the log has a fact of this id; only facts of the same type and model are read."""
        event = self._bus.envelope(emit)
        try:
            message = await self._bus.js.get_last_msg(EVENTS, event.nats_subject)
        except NotFoundError:
            return False
        if message.time is not None and message.time < since - _CLOCK_SKEW:
            return False
        sequence = 0
        while (message.headers or {}).get("Nats-Msg-Id") != event.id:
            try:
                message = await self._bus.js.get_msg(EVENTS, sequence + 1, subject=event.nats_subject, next=True)
            except NotFoundError:
                return False
            sequence = message.seq or sequence + 1
        return True
