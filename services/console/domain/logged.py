"""An entry of the log, an event or an unreadable message, parsed from a message. Pure."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from contracts.envelope import Event
from contracts.facts import FACTS


@dataclass(frozen=True)
class LoggedEvent:
    """An event and its position in the log."""

    stream: str
    sequence: int
    event: Event[Any]


@dataclass(frozen=True)
class Unreadable:
    """A message that is no event: its position in the log, and the model and the sender in its subject."""

    stream: str
    sequence: int
    model: str
    sender: str


Logged = LoggedEvent | Unreadable


def read_logged(stream: str, sequence: int, subject: str, body: bytes) -> Logged:
    """Return the entry of a message; the bus permits a sender only subjects that end with its name."""
    event = parse_message(subject, body)
    if event is not None:
        return LoggedEvent(stream, sequence, event)
    model, sender = subject.split(".")[-2:] if subject.count(".") else ("", "")
    return Unreadable(stream, sequence, model, sender)


def parse_message(subject: str, body: bytes) -> Event[Any] | None:
    """Return the event of a message, or None if it is malformed, of an unknown type, or names another sender."""
    event = parse_stored(body)
    return None if event is None or event.nats_subject != subject else event


def parse_stored(body: bytes | str) -> Event[Any] | None:
    """Return the event of a body whose sender was compared with its subject; None if it is malformed or unknown."""
    try:
        plain = Event[Any].model_validate_json(body)
        fact = FACTS.get(plain.type)
        return None if fact is None else plain.model_copy(update={"data": fact.model_validate(plain.data)})
    except ValidationError:
        return None
