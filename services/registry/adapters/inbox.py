"""Announced checkpoints, read again from the stream that keeps them; the number of dead letters."""

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import Event
from contracts.facts import CheckpointReady
from contracts.services import DEADLETTER, INBOX
from shared.messaging.events import parse_event


class StreamInbox:
    """The stream `SLIPWAY_INBOX` (implements `ports.Inbox`)."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def read(self, sequence: int) -> Event[CheckpointReady] | None:
        """Return the announcement with this sequence; None if it is not there (any more)."""
        try:
            message = await self._js.get_msg(INBOX, sequence)
        except NotFoundError:
            return None
        return parse_event(CheckpointReady, message.subject or "", message.data or b"")


async def count_dead_letters(js: JetStreamContext) -> int:
    """Return how many dead letters are stored."""
    return (await js.stream_info(DEADLETTER)).state.messages
