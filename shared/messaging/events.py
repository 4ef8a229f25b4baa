"""Parses a message into an event, or raises an error that names the fault."""

import json
import re
from typing import Any, TypeVar

from pydantic import ValidationError

from contracts.envelope import Event, nats_subject
from contracts.facts import Fact
from contracts.identities import PROVISIONER
from contracts.limits import TooLarge, event_too_large, too_large
from contracts.services import FROM_OUTSIDE, SERVICES, emitters
from contracts.vocabulary import MODEL_NAME_PATTERN, canonical_json
from shared.errors import Permanent, problems_of

F = TypeVar("F", bound=Fact)
_PROBLEM_CHARS = 300
"""Length of one problem, which may quote input: the answer must fit into a message."""
_SUBJECT = re.compile(
    r"^slipway\.(?:staging\.)?(?P<name>[a-z]+(?:\.[a-z]+)*)\.(?P<version>v[0-9]+)\.(?P<model>[^.]*)\.[^.]+$"
)


def model_in(subject: str) -> str | None:
    """Return the model name in a NATS subject, if it is valid."""
    parts = _SUBJECT.fullmatch(subject)
    model = parts["model"] if parts else ""
    return model if re.fullmatch(MODEL_NAME_PATTERN, model) else None


def parse_event(fact: type[F], subject: str, body: bytes) -> Event[F]:
    """Parse a message of a fact's type.

    Raises:
        Permanent: `malformed_event`, `unknown_event_version`, `invalid_model_name`, `subject_mismatch`,
            `sender_mismatch`, `policy_invalid`; `too_large` for events from outside.
    """
    outside = fact in FROM_OUTSIDE
    if outside:
        _refuse(event_too_large(body))
    envelope = _load(body)
    _check_type(fact, envelope, subject)
    _check_model(envelope, subject)
    try:
        event = Event[fact].model_validate(envelope)  # type: ignore[valid-type]  # a class at run time
    except ValidationError as error:
        raise _explain(error) from error
    sender = subject.rpartition(".")[2]
    expected = nats_subject(event.type, event.subject, sender, event.environment)
    if subject != expected:
        raise Permanent("subject_mismatch", f"Published on {subject}, but the envelope says {expected}.")
    _check_sender(fact, event, sender)
    model = getattr(event.data, "model", event.subject)
    if model != event.subject:
        raise Permanent("subject_mismatch", f"The envelope is about {event.subject}, its data about {model}.")
    if outside:
        _refuse(too_large(event.data))
    return event


def _check_sender(fact: type[Fact], event: Event[Any], sender: str) -> None:
    """Refuse an event unless its sender published it, and may.

    The bus lets each identity publish only on subjects that end with its own name. A service's fact is accepted from a
    service that declares it, or from a user as a repetition (`requeuedby`), which only administrators can send. An
    event from outside needs its sender as `source`, also as a repetition.
    """
    if event.sender != sender:
        named = f"the envelope names {event.sender or 'no identity'}"
        raise Permanent("sender_mismatch", f"{event.type} was published by {sender}, {named}: {_source(event)}.")
    if fact in FROM_OUTSIDE and event.origin != sender:
        named = f"the envelope names source {event.source!r}"
        raise Permanent("sender_mismatch", f"{event.type} was published by {sender}, {named}.")
    allowed = emitters(fact)
    is_user = sender not in SERVICES and sender != PROVISIONER
    if is_user if fact in FROM_OUTSIDE else sender in allowed or (is_user and event.requeuedby is not None):
        if fact in FROM_OUTSIDE or event.origin in allowed:
            return
        raise Permanent("sender_mismatch", f"{event.type} comes from {' or '.join(allowed)}, not from {event.source}.")
    expected = "a user, no service" if fact in FROM_OUTSIDE else " or ".join(allowed)
    raise Permanent("sender_mismatch", f"{event.type} was published by {sender}; it comes from {expected}.")


def _source(event: Event[Any]) -> str:
    return f"source {event.source!r}" if event.requeuedby is None else f"requeuedby {event.requeuedby!r}"


def _refuse(excess: TooLarge | None) -> None:
    if excess is not None:
        raise Permanent("too_large", excess.reason, **excess.details)


def _load(body: bytes) -> dict[str, Any]:
    try:
        envelope = json.loads(body)
        canonical_json(envelope)  # Python also reads NaN, 1e999 and lone surrogates; none can be published again
    except (ValueError, RecursionError) as error:
        raise Permanent("malformed_event", f"The message is not JSON: {error}.") from error
    if not isinstance(envelope, dict):
        raise Permanent("malformed_event", f"The message is a JSON {type(envelope).__name__}, not an object.")
    return envelope


def _check_type(fact: type[Fact], envelope: dict[str, Any], subject: str) -> None:
    type_ = envelope.get("type")
    if type_ == fact.TYPE:
        return
    name = fact.TYPE.rsplit(".", 1)[0]
    if isinstance(type_, str) and re.fullmatch(re.escape(name) + r"\.v[0-9]+", type_):
        raise Permanent("unknown_event_version", f"The event is {type_}; this system reads {fact.TYPE}.")
    if type_ is None:
        raise Permanent("malformed_event", "The message has no CloudEvents attribute `type`.")
    raise Permanent("subject_mismatch", f"A message of type {str(type_)[:100]} was published on {subject}.")


def _check_model(envelope: dict[str, Any], subject: str) -> None:
    data = envelope.get("data")
    names = [envelope.get("subject"), data.get("model") if isinstance(data, dict) else None]
    for name in names:
        if isinstance(name, str) and not re.fullmatch(MODEL_NAME_PATTERN, name):
            raise Permanent("invalid_model_name", f"{name[:80]!r} is not a valid model name.", subject=subject)


_UNITS = {"string_too_long": "characters", "too_long": "entries"}


def _explain(error: ValidationError) -> Permanent:
    sizes = [
        TooLarge(".".join(map(str, item["loc"])), len(item["input"]), item["ctx"]["max_length"], _UNITS[item["type"]])
        for item in error.errors()
        if item["type"] in _UNITS
    ]
    if len(sizes) == error.error_count():
        return Permanent("too_large", sizes[0].reason[:_PROBLEM_CHARS], **sizes[0].details)
    problems = [problem[:_PROBLEM_CHARS] for problem in problems_of(error)]
    in_policy = all(item["loc"][:2] == ("data", "policy") for item in error.errors())
    return Permanent(
        "policy_invalid" if in_policy else "malformed_event",
        "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "") + ".",
        problems=problems[:20],
    )
