"""Publishes facts as events, each stored exactly once in its stream."""

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
"""Time limit of repeated publication."""
_FRAME_BYTES = 64


@dataclass(frozen=True)
class Emit:
    """A fact to publish; the other fields replace defaults from its cause.

    `key` distinguishes facts of one type with one cause.
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
    """Return the event of a fact. Its id is derived from cause, type and key, so a repetition is a duplicate.

    Raises:
        ValueError: The service does not declare the fact, or the fact has no model, or neither cause nor id.
    """
    fact = emit.fact
    if type(fact) not in (*SERVICES[service].emits, WorkAbandoned):
        raise ValueError(f"{service} does not declare that it emits {fact.TYPE}; see contracts/services.py")
    cause_id = emit.cause_id or (cause.id if cause else None)
    model = emit.model or (cause.subject if cause else getattr(fact, "model", None))
    if model is None or (cause_id is None and emit.id is None):
        raise ValueError(f"{fact.TYPE} needs a model, and a cause or an id")
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


def message_of(event: Event[Any], *, limit_bytes: int) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an event's message.

    Raises:
        Permanent: `internal_error` when it is larger than the bus allows.
    """
    headers = {"Nats-Msg-Id": event.id, "content-type": CONTENT_TYPE}
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    body = canonical_json(plain(event))
    size = len(body) + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items())
    if size + _FRAME_BYTES > limit_bytes:  # nats-py checks the body alone, the server also headers
        limit = f"the limit of the bus is {limit_bytes - _FRAME_BYTES:,}"
        raise Permanent("internal_error", f"{event.type} has {size:,} bytes; {limit}. Make it smaller.")
    return body, headers


async def publish_event(js: JetStreamContext, event: Event[Any], *, random_id: bool = False) -> bool:
    """Publish an event to its stream; retried with the same message id, so that it is stored once.

    After a duplicate acknowledgement the stored message is compared, unless the id is random (`random_id`): members
    of a team may not read messages by sequence.

    Returns:
        Whether the event is new in the stream.

    Raises:
        Permanent: `internal_error` above the bus's message limit (the server would close the connection); `too_large`
            above the stream's limit.
        Transient: `bus_unavailable` after several attempts, or at once without permission; `stream_full` at once.
    """
    limit_bytes = js._nc.max_payload  # noqa: SLF001 - nats-py has no public name for it
    body, headers = message_of(event, limit_bytes=limit_bytes)

    async def publish(limit_s: float) -> PubAck:
        try:
            return await js.publish(event.nats_subject, body, timeout=limit_s, headers=headers)
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
    """Return the error for a refusal that a retry would not change; None for other errors."""
    known = translate(error)
    if isinstance(known, Transient | Permanent) and known.code in ("stream_full", "too_large"):
        return type(known)(known.code, f"{event.type} could not be published: {known.reason}")
    if isinstance(error, NotPermitted):
        return Transient("bus_unavailable", f"{event.type} could not be published: {error}.")
    return None


def id_taken(event: Event[Any]) -> Transient:
    """Return the error of an event with the id of another message within the stream's dedupe window."""
    return Transient(
        "bus_unavailable",
        f"{event.type} could not be published: its id {event.id} is taken by another message. It is tried again until "
        "the stream no longer compares the two.",
    )
