"""Announced checkpoints, read again from the stream that keeps them; the number of dead letters."""

import contextlib
from datetime import datetime
from typing import Final

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import Event, nats_subject
from contracts.facts import CheckpointReady, ReleaseOpened
from contracts.services import DEADLETTER, EVENTS, INBOX, durable_name, filter_subject
from services.registry.ports import Backlog
from shared.errors import Permanent
from shared.messaging.events import model_in, parse_event

MOST_UNREADABLE: Final = 64
"""Messages of one model that cannot be read and are passed over at once."""


class StreamInbox:
    """The streams `SLIPWAY_INBOX` and `SLIPWAY_EVENTS` (implements `ports.Inbox`)."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def last_opened(self, model: str) -> ReleaseOpened | None:
        """Return the last release of a model that the event log has; None if it has none."""
        subject = nats_subject(ReleaseOpened.TYPE, model, "registry")
        try:
            message = await self._js.get_msg(EVENTS, subject=subject)
        except NotFoundError:
            return None
        return parse_event(ReleaseOpened, message.subject or "", message.data or b"").data

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence; None if it is not there (any more)."""
        try:
            message = await self._js.get_msg(INBOX, sequence)
        except NotFoundError:
            return None
        return parse_event(CheckpointReady, message.subject or "", message.data or b"")

    async def backlog(self) -> Backlog:
        """Return what waits behind other messages; one that waits is the next, and delayed by nothing."""
        info = await self._js.consumer_info(INBOX, durable_name("registry", CheckpointReady))
        settled = info.ack_floor.stream_seq if info.ack_floor is not None else 0
        if (info.num_pending or 0) <= 1:
            return Backlog(settled, ())
        state = (await self._js.stream_info(INBOX, subjects_filter=filter_subject(CheckpointReady))).state
        models = {model_in(subject) for subject in state.subjects or {}}
        return Backlog(settled, tuple(sorted(model for model in models if model is not None)))

    async def next_of(self, model: str, after: int) -> tuple[Event[CheckpointReady], int, datetime] | None:
        """Return a model's next readable announcement after a sequence; what cannot be read is left to its turn."""
        for _ in range(MOST_UNREADABLE):
            try:
                message = await self._js.get_msg(
                    INBOX, after + 1, subject=nats_subject(CheckpointReady.TYPE, model, "*"), next=True
                )
            except NotFoundError:
                return None
            after = message.seq or after + 1
            with contextlib.suppress(Permanent):
                event = parse_event(CheckpointReady, message.subject or "", message.data or b"")
                return (event, after, message.time) if message.time is not None else None
        return None


async def count_dead_letters(js: JetStreamContext) -> int:
    """Return how many dead letters are stored."""
    return (await js.stream_info(DEADLETTER)).state.messages
