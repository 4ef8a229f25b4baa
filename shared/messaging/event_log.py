"""Publishes facts, and looks up in the log whether a fact was published already."""

import json
from datetime import datetime, timedelta
from typing import Any

from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from contracts.envelope import Event
from contracts.services import EVENTS
from shared.messaging.bus import Bus, Emit

CLOCK_SKEW = timedelta(minutes=5)


class LoggedPublisher:
    """The bus, with the log of facts behind it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, emit: Emit) -> Event[Any]:
        """Publish a fact and return once the stream has it; raise Transient `bus_unavailable` when it has not."""
        return await self._bus.publish(emit)

    def count_unpublishable(self, fact_type: str) -> None:
        """Count a fact that was refused permanently in the service's metrics."""
        self._bus.count_unpublishable(fact_type)

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the log has a fact of this id.

        Only facts of the same type and model are read, and only those since it was decided: the number of requests does
        not grow with the log.
        """
        event, begin = self._bus.envelope(emit), since - CLOCK_SKEW
        try:
            message = await self._bus.js.get_last_msg(EVENTS, event.nats_subject)
        except NotFoundError:
            return False
        if message.time is not None and message.time < begin:
            return False
        sequence = None
        while not _has(message, event):
            try:
                sequence = await self._first(event.nats_subject, begin) if sequence is None else sequence + 1
                message = await self._bus.js.get_msg(EVENTS, sequence, subject=event.nats_subject, next=True)
            except NotFoundError:
                return False
            sequence = message.seq or sequence
        return True

    async def _first(self, subject: str, since: datetime) -> int:
        """Return the sequence of the first message on a subject since a time; the client has no call for it."""
        js = self._bus.js
        question = json.dumps({"next_by_subj": subject, "start_time": since.isoformat()}).encode()
        answer = await js._api_request(f"$JS.API.STREAM.MSG.GET.{EVENTS}", question)  # noqa: SLF001 - no public call
        return int(answer["message"]["seq"])


def _has(message: RawStreamMsg, event: Event[Any]) -> bool:
    return (message.headers or {}).get("Nats-Msg-Id") == event.id
