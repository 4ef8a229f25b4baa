"""An entry of the log, parsed from a message: an event, or an unreadable message. Pure."""

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
    """A message that is no valid event: its position in the log, and model and sender from its subject."""

    stream: str
    sequence: int
    model: str
    sender: str


Logged = LoggedEvent | Unreadable


def read_logged(stream: str, sequence: int, subject: str, body: bytes) -> Logged:
    """Return the entry of a message. The sender in the subject is reliable: the bus checks it."""
    event = parse_message(subject, body)
    if event is not None:
        return LoggedEvent(stream, sequence, event)
    model, sender = subject.split(".")[-2:] if subject.count(".") else ("", "")
    return Unreadable(stream, sequence, model, sender)


def parse_message(subject: str, body: bytes) -> Event[Any] | None:
    """Return the event of a message; None if it is malformed, unknown, or names another sender than the subject."""
    event = parse_stored(body)
    return None if event is None or event.nats_subject != subject else event


def parse_stored(body: bytes | str) -> Event[Any] | None:
    """Return the event of a stored body, already compared with its subject; None if malformed or unknown."""
    try:
        plain = Event[Any].model_validate_json(body)
        fact = FACTS.get(plain.type)
        return None if fact is None else plain.model_copy(update={"data": fact.model_validate(plain.data)})
    except ValidationError:
        return None
