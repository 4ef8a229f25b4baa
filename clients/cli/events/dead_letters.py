"""Read, list and requeue dead letters: messages that a service could not process."""

import json
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.reading import own_models, read_messages
from contracts.envelope import source_of
from contracts.services import DEADLETTER, DEADLETTER_PREFIX, FROM_OUTSIDE
from contracts.vocabulary import canonical_json
from decisions.access.bus_permissions import subjects_about
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


async def find(js: JetStreamContext, sequence: int) -> DeadLetter | None:
    """Return the dead letter of a number; None if there is none that this identity may read."""
    where: dict[str, Any] = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": max(sequence, 1)}
    letters = await _read(js, most=1, **where)
    return next((letter for letter in letters if letter.sequence == sequence), None)


async def list_all(js: JetStreamContext) -> list[DeadLetter]:
    """Return the dead letters of the models that this identity may read, oldest first."""
    return sorted(await _read(js, deliver_policy=DeliverPolicy.ALL), key=lambda letter: letter.sequence)


async def _read(js: JetStreamContext, **where: Any) -> list[DeadLetter]:
    models = await own_models(js)
    named = [each for model in models or () for each in subjects_about(DEADLETTER, model)]
    subjects = [f"{DEADLETTER_PREFIX}.>"] if models is None else named
    return [_letter(message) for each in subjects for message in await read_messages(js, DEADLETTER, each, **where)]


def _letter(message: Msg) -> DeadLetter:
    headers = dict(message.headers or {})
    return DeadLetter(
        sequence=message.metadata.sequence.stream,
        service=headers.get("Slipway-Service", ""),
        subject=headers.get("Slipway-Subject", ""),
        code=headers.get("Slipway-Code", ""),
        reason=headers.get("Slipway-Reason", ""),
        stream=headers.get("Slipway-Stream", ""),
        stream_sequence=int(headers.get("Slipway-Sequence", "0")),
        deliveries=int(headers.get("Slipway-Deliveries", "0")),
        at=headers.get("Slipway-At", ""),
        headers=headers,
        body=message.data,
    )


def repeated(letter: DeadLetter, administrator: str) -> tuple[str, bytes]:
    """Return subject and body of a dead letter that an administrator publishes again.

    An event of a service keeps its `source`. An order or an announcement gets the administrator as `source`.
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
    if "Slipway-Truncated" in letter.headers:  # its stream has the whole message
        raise Permanent("malformed_event", f"The message on {letter.subject} is larger than the bus can requeue.")
    keep = {key: value for key, value in letter.headers.items() if not key.startswith("Slipway-")}
    headers = {**keep, "Nats-Msg-Id": f"{DEADLETTER_PREFIX}:{letter.sequence}"}
    subject, body = repeated(letter, administrator)
    ack = await js.publish(subject, body, headers=headers, timeout=10)
    await js.delete_msg(DEADLETTER, letter.sequence)
    return ack.seq
