"""Delivery around a handler: heartbeat, retry with backoff, rejection fact, dead letter."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog
from faststream import BaseMiddleware
from faststream.exceptions import AckMessage, HandlerException, NackMessage, RejectMessage
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from contracts.codes import Code
from contracts.envelope import Event
from contracts.facts import Fact, WorkAbandoned
from contracts.services import INBOX, ORDERS, Stream, dead_letter_subject, stream_of
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.messaging.events import model_in, parse_event
from shared.messaging.publishing import Emit, publish_event
from shared.messaging.topology import HEARTBEAT_S

if TYPE_CHECKING:
    from shared.messaging.bus import Bus

UNKNOWN_ERROR_DELIVERIES = 5
_REASON_CHARS = 2000
_HEADERS_BYTES = 8192
"""Upper bound of a dead letter's headers, which count as part of the message."""
_KEPT_HEADERS = ("content-type", "traceparent")
"""Headers kept in a dead letter. Others may control the server (`Nats-Expected-Stream` …)."""
_BACKOFF_S = (0.2, 1.0, 3.0, 10.0, 30.0)
ITEM_LIMIT_S, OUTAGE_LIMIT_S = 6 * 3600.0, 7 * 86_400.0
"""Limits of one message's retries: the sum of the waits between its deliveries.

Time before the first delivery, and downtime of the service, are not included.
"""
OUTAGES: frozenset[Code] = frozenset(
    {
        "bus_unavailable",
        "store_unavailable",
        "hub_unavailable",
        "endpoint_unreachable",
        "disk_full",
        "stream_full",
        "record_version_unknown",
    }
)
"""Failures of shared dependencies, retried for `OUTAGE_LIMIT_S`, so that no outage ends good work.

`record_version_unknown` is included: the message is for a process of another version.
"""
OBJECT_TRIES, OBJECT_LIMIT_S = 5, 120.0
"""Failed reads in a row, and their duration, after which an unreadable object fails a message."""
RECORD_FAILURES: frozenset[Code] = frozenset(
    {"record_version_unknown", "too_large", "internal_error", "object_unreadable"}
)
"""Transient failures of one record or object; other messages of the consumer can be handled."""
RECORD_LIMIT_S = 60.0
"""Limit of such a failure for consumers that cannot wait: the admission of all models, and fresh telemetry."""


@dataclass(frozen=True)
class Consumption:
    """A durable consumer of a service, and its handling of permanent failures."""

    fact: type[Fact]
    stream: Stream
    durable: str
    failure: Callable[[Any, SlipwayError], Fact | Emit] | None
    perishable: bool = False


def backoff_s(deliveries: int) -> float:
    """Return the seconds to wait before delivery number `deliveries + 1`."""
    return _BACKOFF_S[min(max(deliveries, 1), len(_BACKOFF_S)) - 1]


def retried_s(deliveries: int) -> float:
    """Return the total backoff in seconds between the deliveries of a message, given their number."""
    listed = sum(_BACKOFF_S[: max(deliveries - 1, 0)])
    return listed + _BACKOFF_S[-1] * max(deliveries - 1 - len(_BACKOFF_S), 0)


def given_up(error: Transient, deliveries: int) -> Permanent | None:
    """Return the error that ends a message after too many transient failures; None while it is retried.

    A single unreadable object ends a message after `OBJECT_TRIES` and `OBJECT_LIMIT_S`.
    """
    tries, failing_s = (error.details.get(name, 0) for name in ("tries", "failing_s"))
    if error.code == "object_unreadable" and tries >= OBJECT_TRIES and failing_s >= OBJECT_LIMIT_S:
        return Permanent(error.code, error.reason, **error.details)
    waited, limit = retried_s(deliveries), OUTAGE_LIMIT_S if error.code in OUTAGES else ITEM_LIMIT_S
    if waited < limit:
        return None
    hours = f"{waited / 3600:.0f} h, the limit is {limit / 3600:.0f} h"
    return Permanent(
        "retries_exhausted",
        f"Tried again for {hours}; the last failure was {error.code}: {error.reason}",
        last_code=error.code,
        **error.details,
    )


def is_spoiled(error: SlipwayError, deliveries: int) -> bool:
    """Return whether to drop a perishable message: one record failed it for `RECORD_LIMIT_S` or longer."""
    of_one_record = isinstance(error, Transient) and error.code in RECORD_FAILURES
    return of_one_record and retried_s(deliveries) >= RECORD_LIMIT_S


class Delivery(BaseMiddleware[Any, Any]):
    """FastStream middleware with the delivery rules."""

    def __init__(self, msg: Msg | None, /, *, context: Any, bus: "Bus") -> None:
        super().__init__(msg, context=context)
        self._bus = bus
        self._beat: asyncio.Task[None] | None = None

    async def on_receive(self) -> None:
        """Send heartbeats to the bus while the message is handled."""
        if self.msg is not None:
            self._beat = asyncio.create_task(_keep_alive(self.msg))
        await super().on_receive()

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool | None:
        """Acknowledge, return, reject or dead-letter a failed message, then stop the heartbeats."""
        try:
            return await self._after(exc_type, exc_val, exc_tb)
        finally:
            if self._beat is not None:
                self._beat.cancel()

    async def _after(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        if exc_val is None or isinstance(exc_val, HandlerException) or self.msg is None:
            return await super().after_processed(exc_type, exc_val, exc_tb)
        if isinstance(exc_val, asyncio.CancelledError):
            with contextlib.suppress(NatsError):
                await asyncio.shield(self.msg.nak())
            return False
        await self._settle(self.msg, exc_val)
        return True

    async def _settle(self, message: Msg, error: BaseException) -> None:
        deliveries = message.metadata.num_delivered
        consumption = self._bus.consumptions[message.metadata.consumer]
        known = translate(error)
        log = structlog.get_logger().bind(fact=consumption.fact.TYPE, subject=message.subject, deliveries=deliveries)
        if known and consumption.perishable and is_spoiled(known, deliveries):
            log.error("dropped", code=known.code, reason=known.reason)
            self._bus.count(consumption.fact, "dropped")
            raise AckMessage from error
        if isinstance(known, Transient):
            known = given_up(known, deliveries) or known
        exhausted = known is None and deliveries >= UNKNOWN_ERROR_DELIVERIES
        if isinstance(known, Permanent) or exhausted:
            known = known or Permanent("internal_error", f"{type(error).__name__}: {error}."[:_REASON_CHARS])
            log.error("failed permanently", code=known.code, reason=known.reason, exc_info=error if exhausted else None)
            try:
                rejected = await self._reject_or_store(message, consumption, known)
            except (TimeoutError, NatsError, Transient) as bus_error:
                raise NackMessage(delay=backoff_s(deliveries)) from bus_error
            self._bus.count(consumption.fact, "rejected" if rejected else "dead_lettered")
            raise (AckMessage() if rejected else RejectMessage()) from error
        delay = backoff_s(deliveries)
        code = known.code if known else "unknown"
        log.warning(
            "will be tried again", code=code, error=repr(error), delay_s=delay, exc_info=None if known else error
        )
        self._bus.count(consumption.fact, "retried")
        raise NackMessage(delay=delay) from error

    async def _reject_or_store(self, message: Msg, consumption: Consumption, error: SlipwayError) -> bool:
        """Publish a rejection fact for a failed message, else store a dead letter; return whether it became a fact."""
        event = _parsed(message, consumption)
        source = f"{message.metadata.stream}:{message.metadata.sequence.stream}"
        published = await self._publish_failure(consumption, event, error, model_in(message.subject), source)
        if event is not None and not published:
            await self._abandon(event, error, await store_dead_letter(self._bus, message, error, consumption.durable))
        elif not published:
            await store_dead_letter(self._bus, message, error, consumption.durable)
        elif event is None:
            await self._keep_copy(message, consumption, error)
        return published

    async def _keep_copy(self, message: Msg, consumption: Consumption, error: SlipwayError) -> None:
        """Store a dead letter after the failure was published; if it is refused, log that and go on.

        Waiting for space would delay all later messages, and publish the failure again and again.
        """
        try:
            await store_dead_letter(self._bus, message, error, consumption.durable)
        except (TimeoutError, NatsError, Transient) as refusal:
            metadata = message.metadata
            structlog.get_logger().error(
                "no dead letter could be stored; the message is in its stream",
                fact=consumption.fact.TYPE,
                subject=message.subject,
                stream=metadata.stream,
                sequence=metadata.sequence.stream,
                error=repr(refusal),
            )
            self._bus.count(consumption.fact, "dead_letter_refused")

    async def _publish_failure(
        self, consumption: Consumption, event: Event[Any] | None, error: SlipwayError, model: str | None, source: str
    ) -> bool:
        """Publish the fact for a failure; return False if there is none, or it cannot be published.

        For a message that could not be parsed there is one only in the inbox.
        """
        if consumption.failure is None or model is None or (event is None and consumption.stream != INBOX):
            return False
        try:
            await self._bus.publish(answer(consumption.failure(event, error), source, event, model), cause=event)
        except (TimeoutError, NatsError, Transient):
            raise
        except Exception:  # noqa: BLE001 - a defect here must not bring the message back for ever
            structlog.get_logger().exception("failure could not be published", fact=consumption.fact.TYPE)
            return False
        return True

    async def _abandon(self, event: Event[Any], error: SlipwayError, sequence: int) -> None:
        abandoned = WorkAbandoned(
            service=self._bus.service,
            cause_type=event.type,
            cause_id=event.id,
            dead_letter_sequence=sequence,
            code=error.code,
            reason=error.reason[:_REASON_CHARS],
        )
        await publish_event(self._bus.js, self._bus.envelope(Emit(abandoned), event))


def answer(fact: Fact | Emit, source: str, event: Event[Any] | None, model: str | None) -> Emit:
    """Return the fact that answers a failed message.

    Outsiders may reuse an event id, so answers to messages from outside are keyed by the message's sequence too.
    """
    emit = fact if isinstance(fact, Emit) else Emit(fact)
    if event is None:
        return Emit(emit.fact, key=emit.key, model=model, cause_id=source, correlation_id=source)
    return replace(emit, key=f"{emit.key}{source}") if stream_of(type(event.data)) in (INBOX, ORDERS) else emit


def _parsed(message: Msg, consumption: Consumption) -> Event[Any] | None:
    try:
        return parse_event(consumption.fact, message.subject, message.data)
    except SlipwayError:
        return None


async def store_dead_letter(bus: "Bus", message: Msg, error: SlipwayError, durable: str) -> int:
    """Copy a message to the dead letters with the reason, once; return its sequence there.

    A message that does not fit beside the reason is truncated; its own stream still has it whole.
    """
    metadata = message.metadata
    kept = {key: header_safe(value) for key, value in (message.headers or {}).items() if key.lower() in _KEPT_HEADERS}
    limit = bus.client.max_payload - _HEADERS_BYTES
    if len(message.data) > limit:
        kept["Slipway-Truncated"] = str(len(message.data))
    headers = {
        **kept,
        "Nats-Msg-Id": f"{metadata.stream}:{metadata.sequence.stream}:{durable}",
        "Slipway-Code": error.code,
        "Slipway-Reason": header_safe(error.sentence()),
        "Slipway-Service": bus.service,
        "Slipway-Consumer": durable,
        "Slipway-Subject": header_safe(message.subject),
        "Slipway-Stream": metadata.stream,
        "Slipway-Sequence": str(metadata.sequence.stream),
        "Slipway-Deliveries": str(metadata.num_delivered),
        "Slipway-At": bus.clock.now().isoformat(),
    }
    body = message.data[:limit]
    ack = await bus.js.publish(dead_letter_subject(bus.service, message.subject), body, headers=headers, timeout=10)
    return ack.seq


def header_safe(text: str) -> str:
    """Return a text as a valid header value: one line of ASCII, shortened."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in " ".join(text.split()))
    return plain[:1000].rstrip()


async def _keep_alive(message: Msg) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        with contextlib.suppress(NatsError):
            await message.in_progress()
