"""Publishes facts as events, each stored exactly once in its stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck

from contracts.envelope import CONTENT_TYPE, Event, derived_id, plain, source_of
from contracts.facts import Fact, WorkAbandoned
from contracts.services import SERVICES
from contracts.vocabulary import Environment, canonical_json
from shared.errors import Permanent, Transient, translate
from shared.messaging.event_traces import EventTraces
from shared.messaging.patience import ELECTION_S, ask_again
from shared.messaging.refusals import NotPermitted
from shared.runtime.clock import Clock

PUBLISH_TIMEOUT_S = 10.0
PUBLISH_S = 45.0
"""How long a fact is published again, before its caller is told that the stream does not have it."""
_FRAME_BYTES = 64


@dataclass(frozen=True)
class Emit:
    """A fact to publish, with values that replace the defaults from its cause.

    `key` distinguishes several facts of one type with the same cause.
    """

    fact: Fact
    key: str = ""
    model: str | None = None
    correlation_id: str | None = None
    environment: Environment | None = None
    cause_id: str | None = None
    id: str | None = None


def envelope(
    emit: Emit, cause: Event[Any] | None = None, *, service: str, clock: Clock, traces: EventTraces | None = None
) -> Event[Any]:
    """Return the event of a fact. Its id follows from its cause, type and key, so that a second one is a duplicate.

    Raises:
        ValueError: The service does not declare that it emits it, or the fact lacks a model, or a cause and an id.
    """
    fact = emit.fact
    if type(fact) not in (*SERVICES[service].emits, WorkAbandoned):
        msg = f"{service} does not declare that it emits {fact.TYPE}; see contracts/services.py"
        raise ValueError(msg)
    cause_id = emit.cause_id or (cause.id if cause else None)
    model = emit.model or (cause.subject if cause else getattr(fact, "model", None))
    if model is None or (cause_id is None and emit.id is None):
        msg = f"{fact.TYPE} needs a model, and a cause or an id"
        raise ValueError(msg)
    correlation_id = emit.correlation_id or (cause.correlationid if cause else str(cause_id or emit.id))
    return Event[Any](
        id=emit.id or derived_id(str(cause_id), fact.TYPE, emit.key),
        source=source_of(service),
        type=fact.TYPE,
        subject=model,
        time=clock.now(),
        correlationid=correlation_id,
        causationid=cause_id,
        traceparent=traces.traceparent_of(fact, correlation_id, cause_id) if traces is not None else None,
        environment=emit.environment or (cause.environment if cause else "production"),
        data=fact,
    )


def message_of(
    event: Event[Any], headers: Mapping[str, str] | None = None, *, limit_bytes: int
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an event's message.

    Raises:
        Permanent: `internal_error` when it is larger than the bus allows.
    """
    all_headers = {"Nats-Msg-Id": event.id, "content-type": CONTENT_TYPE, **(headers or {})}
    if event.traceparent:
        all_headers["traceparent"] = event.traceparent
    body = canonical_json(plain(event))
    size = len(body) + sum(len(key) + len(value.encode()) + 4 for key, value in all_headers.items())
    if size + _FRAME_BYTES > limit_bytes:  # nats-py checks the body alone, the server also headers
        limit = f"the limit of the bus is {limit_bytes - _FRAME_BYTES:,}"
        raise Permanent("internal_error", f"{event.type} has {size:,} bytes; {limit}. Make it smaller.")
    return body, all_headers


async def publish_event(
    js: JetStreamContext, event: Event[Any], headers: Mapping[str, str] | None = None, *, random_id: bool = False
) -> bool:
    """Publish an event to its stream; retried with the same message id, so that it is stored once.

    A duplicate acknowledgement counts as success only when the stored message is the publisher's own. With a
    `random_id`, which no one else can know, it is: members of a team may not read a message by its number.

    Returns:
        Whether the stream did not have it before.

    Raises:
        Permanent: `internal_error` when the event is larger than the bus allows: the server would close the connection;
            `too_large` when it is larger than its stream takes.
        Transient: `bus_unavailable` when the stream does not have it after several attempts, or at once when the bus
            does not permit it; `stream_full` at once when the stream has reached its limit of size.
    """
    limit_bytes = js._nc.max_payload  # noqa: SLF001 - nats-py has no public name for it
    body, all_headers = message_of(event, headers, limit_bytes=limit_bytes)

    async def publish(limit_s: float) -> PubAck:
        try:
            return await js.publish(event.nats_subject, body, timeout=limit_s, headers=all_headers)
        except NatsError as error:
            if (refused := _refused(event, error)) is not None:
                raise refused from error
            raise

    async def is_own(_limit_s: float) -> bool:
        stored = await js.get_msg(ack.stream, ack.seq)
        return (stored.headers or {}).get("Nats-Msg-Id") == event.id and stored.subject == event.nats_subject

    try:
        ack = await ask_again(
            publish, within_s=PUBLISH_S, without_leader_s=ELECTION_S, repeated=(NatsError,), soon_s=ELECTION_S
        )
        own = not ack.duplicate or random_id or await ask_again(is_own, within_s=PUBLISH_S, without_leader_s=ELECTION_S)
    except (TimeoutError, NatsError) as error:
        raise Transient("bus_unavailable", f"{event.type} could not be published: {error!r}.") from error
    if not own:
        raise id_taken(event)
    return not ack.duplicate


def _refused(event: Event[Any], error: NatsError) -> Transient | Permanent | None:
    """Return the error of a refused publication that a retry would not help; None for any other answer."""
    known = translate(error)
    if known is not None and known.code == "stream_full":
        return Transient(known.code, f"{event.type} could not be published: {known.reason}")
    if known is not None and known.code == "too_large":
        return Permanent(known.code, f"{event.type} could not be published: {known.reason}")
    if isinstance(error, NotPermitted):
        return Transient("bus_unavailable", f"{event.type} could not be published: {error}.")
    return None


def id_taken(event: Event[Any]) -> Transient:
    """Return the error of an event with the id of another message within the stream's dedupe window."""
    reason = f"{event.type} could not be published: its id {event.id} is taken by another message."
    return Transient("bus_unavailable", f"{reason} It is tried again until the stream no longer compares the two.")
