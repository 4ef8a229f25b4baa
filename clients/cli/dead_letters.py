"""Read, list and requeue dead letters: messages that a service could not process."""

import json
from dataclasses import dataclass
from typing import Final

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from contracts.envelope import source_of
from contracts.services import DEADLETTER, DEADLETTER_PREFIX, FROM_OUTSIDE
from contracts.vocabulary import canonical_json
from shared.errors import Permanent

_OUTSIDE: Final = {fact.TYPE for fact in FROM_OUTSIDE}


@dataclass(frozen=True)
class DeadLetter:
    """A message that a service gave up on, with the reason and its origin."""

    sequence: int
    service: str
    subject: str
    code: str
    reason: str
    stream: str
    stream_sequence: int
    deliveries: int
    at: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_truncated(self) -> bool:
        """Return whether the message was too large to be copied whole; its stream holds all of it."""
        return "Slipway-Truncated" in self.headers


async def find(js: JetStreamContext, sequence: int) -> DeadLetter | None:
    """Return one dead letter, or None if there is none with this number."""
    try:
        raw = await js.get_msg(DEADLETTER, sequence)
    except NotFoundError:
        return None
    headers = dict(raw.headers or {})
    return DeadLetter(
        sequence=sequence,
        service=headers.get("Slipway-Service", ""),
        subject=headers.get("Slipway-Subject", ""),
        code=headers.get("Slipway-Code", ""),
        reason=headers.get("Slipway-Reason", ""),
        stream=headers.get("Slipway-Stream", ""),
        stream_sequence=int(headers.get("Slipway-Sequence", "0")),
        deliveries=int(headers.get("Slipway-Deliveries", "0")),
        at=headers.get("Slipway-At", ""),
        headers=headers,
        body=raw.data or b"",
    )


async def list_all(js: JetStreamContext) -> list[DeadLetter]:
    """Return all dead letters, oldest first."""
    state = (await js.stream_info(DEADLETTER)).state
    letters = [await find(js, sequence) for sequence in range(max(state.first_seq, 1), state.last_seq + 1)]
    return [letter for letter in letters if letter is not None]


def repeated(letter: DeadLetter, administrator: str) -> tuple[str, bytes]:
    """Return the subject and the body with which an administrator publishes a dead letter again, under their own name.

    A service's event keeps its `source`. What comes from outside, an order or an announcement, becomes the
    administrator's own: its `source` is the administrator, too.
    """
    subject = f"{letter.subject.rpartition('.')[0]}.{administrator}"
    try:
        envelope = json.loads(letter.body)
        own = {"source": source_of(administrator)} if envelope.get("type") in _OUTSIDE else {}
        return subject, canonical_json({**envelope, **own, "requeuedby": administrator})
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # no JSON object: it is refused again, with the same reason
        return subject, letter.body


async def requeue(js: JetStreamContext, letter: DeadLetter, administrator: str) -> int:
    """Publish a dead letter again as an administrator, then remove it; return its new sequence.

    It gets a new message id, so that the deduplication window does not drop it. Consumers that handled the original
    ignore it: events are applied once per event id.

    Raises:
        Permanent: `malformed_event` if the message is too large to be published again.
    """
    if letter.is_truncated:
        raise Permanent("malformed_event", f"The message on {letter.subject} is larger than the bus can requeue.")
    keep = {key: value for key, value in letter.headers.items() if not key.startswith("Slipway-")}
    headers = {**keep, "Nats-Msg-Id": f"{DEADLETTER_PREFIX}:{letter.sequence}"}
    subject, body = repeated(letter, administrator)
    ack = await js.publish(subject, body, headers=headers, timeout=10)
    await js.delete_msg(DEADLETTER, letter.sequence)
    return ack.seq
