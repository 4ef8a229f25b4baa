"""Reads stored `checkpoint.ready` and `release.opened` events from their streams, and counts dead letters."""

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import Event, nats_subject
from contracts.facts import CheckpointReady, ReleaseOpened
from contracts.services import DEADLETTER, EVENTS, INBOX
from shared.messaging.events import parse_event


class StreamInbox:
    """The streams `SLIPWAY_INBOX` and `SLIPWAY_EVENTS` (implements `ports.Inbox`)."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def last_opened(self, model: str) -> ReleaseOpened | None:
        """Return the model's newest `release.opened` in the event log; None if there is none."""
        subject = nats_subject(ReleaseOpened.TYPE, model, "registry")
        try:
            message = await self._js.get_msg(EVENTS, subject=subject)
        except NotFoundError:
            return None
        return parse_event(ReleaseOpened, message.subject or "", message.data or b"").data

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence number; None if it is missing or was removed."""
        try:
            message = await self._js.get_msg(INBOX, sequence)
        except NotFoundError:
            return None
        return parse_event(CheckpointReady, message.subject or "", message.data or b"")


async def count_dead_letters(js: JetStreamContext) -> int:
    """Return how many dead letters are stored."""
    return (await js.stream_info(DEADLETTER)).state.messages
