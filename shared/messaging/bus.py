"""One service's connection to the bus: subscribes handlers under the delivery rules, and publishes."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from faststream import AckPolicy, ContextRepo
from faststream.exceptions import NackMessage
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.message import NatsMessage
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry

from contracts import metrics as m
from contracts.envelope import Event, plain
from contracts.facts import Fact, WorkProgressed
from contracts.identities import inbox_prefix
from contracts.services import EVENTS, SERVICES, durable_name, filter_subject
from contracts.vocabulary import Environment, canonical_json
from shared.errors import SlipwayError
from shared.messaging.credentials import identify
from shared.messaging.delivery import Consumption, Delivery
from shared.messaging.event_traces import EventTraces
from shared.messaging.events import parse_event
from shared.messaging.fact_metrics import FactMetrics
from shared.messaging.isolation import EVERY_S, Isolation, question
from shared.messaging.patience import PatientJetStream
from shared.messaging.publishing import PUBLISH_TIMEOUT_S, Emit, envelope, publish_event
from shared.messaging.refusals import NotPermitted, Refusals
from shared.messaging.running import report_running
from shared.messaging.topology import consumer
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.runtime.metrics import counter, histogram
from shared.runtime.settings import Connection
from shared.runtime.telemetry import tracer_provider

F = TypeVar("F", bound=Fact)
STOP_GRACE_S = 2.0
CLOCK_SKEW = timedelta(minutes=5)
_PULL_S = 5.0
_URGENT_PULL_S = 1.0
"""Duration of one pull request. In a cluster a pull is lost, unreported, with the server that leads the consumer: so
consumers that may lead to a rollback pull again sooner."""

__all__ = ["Bus", "Emit", "Outcome", "Received", "publish_event"]


@dataclass(frozen=True)
class Received:
    """Sequence in the stream, and storage time by the server's clock, of the message being handled."""

    sequence: int
    stored_at: datetime


_received: ContextVar[Received | None] = ContextVar("received", default=None)

Outcome = Fact | Emit | Sequence[Fact | Emit] | None
Handler = Callable[[Event[F]], Coroutine[Any, Any, Outcome]]


class Bus:
    """One service's connection to the bus."""

    def __init__(self, connection: Connection, service: str, clock: Clock) -> None:
        self.service = service
        self.clock = clock
        self.metrics = CollectorRegistry()
        self.consumptions: dict[str, Consumption] = {}
        self._running: set[asyncio.Future[Outcome]] = set()
        self._stopping = False
        self._contract = SERVICES[service]
        identity = identify(connection)
        self._inbox = inbox_prefix(identity.name or service).encode()
        self._refusals = Refusals(identity.name or service, _report_refusal)
        self._watching: tuple[asyncio.Task[None], ...] = ()
        self.tracing = tracer_provider(service, connection)
        self.is_traced = bool(connection.trace_file or connection.otlp_endpoint)
        self._traces = EventTraces(self.tracing)
        self._handled = counter(m.FACTS_HANDLED, self.metrics)
        self._unpublishable = counter(m.FACTS_UNPUBLISHABLE, self.metrics)
        self._seconds = histogram(m.HANDLING, self.metrics)
        self._facts = FactMetrics(service, self.metrics)
        for fact in self._contract.emits:
            self._unpublishable.labels(fact.TYPE)  # `increase` does not see a series that begins at 1
        self.broker = NatsBroker(
            connection.nats_url.split(","),
            name=service,
            security=identity.security(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=5,
            graceful_timeout=10,
            inbox_prefix=self._inbox,
            error_cb=self._refusals.note,
            reconnected_cb=self._refusals.accept,
            middlewares=[
                NatsTelemetryMiddleware(tracer_provider=self.tracing),
                self._delivery,
            ],
            logger=None,
        )

    def _delivery(self, msg: Any, /, *, context: ContextRepo) -> Delivery:
        return Delivery(msg, context=context, bus=self)

    @property
    def received(self) -> Received:
        """Return sequence and storage time of the message being handled; raise LookupError outside of handlers."""
        received = _received.get()
        if received is None:
            raise LookupError("no message is being handled")
        return received

    # -- connection -------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The NATS client, once connected."""
        return self.broker.config.broker_config.connection_state.connection

    @property
    def js(self) -> JetStreamContext:
        """The JetStream context, once connected."""
        return PatientJetStream(self.client, timeout=PUBLISH_TIMEOUT_S)

    async def connect(self) -> Client:
        """Connect to the bus and return the client."""
        await self.broker.connect()
        self.broker.config.broker_config.connection_state.connect(self.client, PatientJetStream(self.client))
        await self._refusals.accept()  # a key may have been refused at first, before the bus had read its keys again
        self._refusals.guard(self.client)
        ask = question(self.client.jetstream(timeout=EVERY_S), self._contract)
        watchers = Isolation(self.client, ask).watch(), report_running(self.client, self.service)
        self._watching = tuple(map(asyncio.create_task, watchers))
        return self.client

    async def check(self) -> None:
        """Raise if a consumer of this service does not exist, or the bus does not answer."""
        if self._refusals.rejected is not None:
            raise ConnectionError(self._refusals.rejected)
        for durable, consumption in self.consumptions.items():
            await self.js.consumer_info(consumption.stream, durable)
        if not self.consumptions:
            await self.client.flush(timeout=2)

    async def find_missing_consumer(self) -> str | None:
        """Return why a consumer cannot be used yet: it does not exist, or the bus does not answer."""
        for durable, consumption in self.consumptions.items():
            try:
                await self.js.consumer_info(consumption.stream, durable)
            except NotFoundError as error:
                return f"{durable} of {consumption.stream} has not been provisioned yet: {error.description}"
            except NotPermitted:
                raise
            except (NatsError, TimeoutError, OSError) as error:
                return f"the bus does not answer about {durable} of {consumption.stream}: {error!r}"
        return None

    # -- consuming --------------------------------------------------------------------------------------------------

    def on(
        self,
        fact: type[F],
        *,
        failure: Callable[[Any, SlipwayError], Fact | Emit] | None = None,
        max_workers: int = 1,
        environment: Environment = "production",
        perishable: bool = False,
    ) -> "Callable[[Handler[F]], Handler[F]]":
        """Subscribe a handler to a fact. Its returned facts are published, then the message is acknowledged.

        Args:
            fact: The type of the event's data.
            failure: Maps an event and a Permanent error to a fact; without it the message becomes a dead letter. In the
                inbox the event is None if it could not be parsed.
            max_workers: Messages handled concurrently; above 1, pulls are repeated sooner.
            environment: Production or staging.
            perishable: Drop a message that one record has failed for a minute.
        """
        if (fact, environment) not in self._contract.reads:
            raise ValueError(
                f"{self.service} does not declare that it reads {environment} {fact.TYPE}; see contracts.services"
            )
        durable = durable_name(self.service, fact, environment)
        where = "staging " if environment == "staging" else ""
        stream, _ = consumer(self.service, fact, environment)
        self.consumptions[durable] = Consumption(fact, stream, durable, failure, perishable)

        def register(handler: "Handler[F]") -> "Handler[F]":
            async def receive(event: Any) -> None:
                await self._handle(fact, handler, event)

            receive.__annotations__["event"] = Event[fact]  # type: ignore[valid-type]  # a class at run time
            receive.__name__ = getattr(handler, "__name__", "receive")
            subscriber = self.broker.subscriber(
                filter_subject(fact, environment),
                durable=durable,
                stream=JStream(stream, declare=False),
                pull_sub=PullSub(batch_size=1, timeout=_PULL_S if max_workers == 1 else _URGENT_PULL_S),
                max_workers=max_workers,
                ack_policy=AckPolicy.NACK_ON_ERROR,
                decoder=_decoder(fact),
                title=f"{self.service}: {where}{fact.TYPE}",
                inbox_prefix=self._inbox + b".",  # what follows is appended as it is, not as a token of its own
            )
            subscriber(receive)
            return handler

        return register

    async def _handle(self, fact: type[F], handler: "Handler[F]", event: Event[F]) -> None:
        with structlog.contextvars.bound_contextvars(
            release=event.correlationid, model=event.subject, fact=event.type, event_id=event.id
        ):
            self._traces.learn(event)
            started = self.clock.monotonic()
            outcome = await self._unless_stopping(handler(event))
            failpoint(f"{self.service}.after_act")
            for emit in _as_emits(outcome):
                await self.publish(emit, cause=event)
            failpoint(f"{self.service}.after_publish")
            self.count(fact, "handled")
            self._seconds.labels(fact.TYPE).observe(self.clock.monotonic() - started)
            failpoint(f"{self.service}.before_ack")

    async def _unless_stopping(self, handling: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Return the handler's result; cancel it and return its message if the service stops first."""
        if self._stopping:
            handling.close()
            raise NackMessage(delay=0)
        task = asyncio.ensure_future(handling)
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._stopping and task.cancelled():
                raise NackMessage(delay=0) from None
            task.cancel()
            raise
        finally:
            self._running.discard(task)

    async def stop(self) -> None:
        """Stop consuming: after 2 s, cancel running handlers and return their messages."""
        self._stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_GRACE_S)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.broker.stop()

    def count(self, fact: type[Fact], outcome: str) -> None:
        """Count a handled, retried, rejected, dropped or dead-lettered fact."""
        self._handled.labels(fact.TYPE, outcome).inc()

    def count_unpublishable(self, fact_type: str) -> None:
        """Count a permanently refused fact."""
        self._unpublishable.labels(fact_type).inc()

    # -- publishing -------------------------------------------------------------------------------------------------

    def envelope(self, emit: Emit, cause: Event[Any] | None = None) -> Event[Any]:
        """Return the event of a fact, with this service as its source."""
        return envelope(emit, cause, service=self.service, clock=self.clock, traces=self._traces)

    async def publish(self, emit: Fact | Emit, cause: Event[Any] | None = None) -> Event[Any]:
        """Publish a fact and wait until the stream has it; raise Transient `bus_unavailable` otherwise."""
        event = self.envelope(emit if isinstance(emit, Emit) else Emit(emit), cause)
        if await publish_event(self.js, event):
            self._facts.note(event)
            self._traces.record(event)
        structlog.get_logger().info("published", fact=event.type, model=event.subject, release=event.correlationid)
        return event

    async def was_published(self, emit: Emit, since: datetime) -> bool:
        """Return whether the log has a fact with this id.

        Reads only facts of the same type and model since the decision, so the cost does not grow with the log.
        """
        event, begin = self.envelope(emit), since - CLOCK_SKEW
        try:
            message = await self.js.get_last_msg(EVENTS, event.nats_subject)
        except NotFoundError:
            return False
        if message.time is not None and message.time < begin:
            return False
        sequence = None
        while not _has(message, event):
            try:
                sequence = await self._first(event.nats_subject, begin) if sequence is None else sequence + 1
                message = await self.js.get_msg(EVENTS, sequence, subject=event.nats_subject, next=True)
            except NotFoundError:
                return False
            sequence = message.seq or sequence
        return True

    async def _first(self, subject: str, since: datetime) -> int:
        """Return the sequence of the first message on a subject since a time."""
        asked = json.dumps({"next_by_subj": subject, "start_time": since.isoformat()}).encode()
        answer = await self.js._api_request(f"$JS.API.STREAM.MSG.GET.{EVENTS}", asked)  # noqa: SLF001 - no public call
        return int(answer["message"]["seq"])

    async def progress(self, cause: Event[Any], progress: WorkProgressed) -> None:
        """Publish the progress of work, unstored; errors are ignored."""
        event = self.envelope(Emit(progress, id=f"{cause.id}-{progress.step}-{progress.done}"), cause)
        with contextlib.suppress(NatsError, asyncio.TimeoutError):
            await self.client.publish(event.nats_subject, canonical_json(plain(event)))


def _has(message: RawStreamMsg, event: Event[Any]) -> bool:
    return (message.headers or {}).get("Nats-Msg-Id") == event.id


def _report_refusal(sentence: str) -> None:
    structlog.get_logger().error("not permitted", reason=sentence)


def _as_emits(outcome: Outcome) -> list[Emit]:
    if outcome is None:
        return []
    items: Sequence[Fact | Emit] = [outcome] if isinstance(outcome, Fact | Emit) else outcome
    return [item if isinstance(item, Emit) else Emit(item) for item in items]


def _decoder(fact: type[F]) -> Callable[..., Awaitable[Event[F]]]:
    async def decode(message: NatsMessage, _original: Any) -> Event[F]:
        raw = message.raw_message
        metadata = raw.metadata if isinstance(raw, Msg) else None
        _received.set(Received(metadata.sequence.stream, metadata.timestamp) if metadata else None)
        return parse_event(fact, message.raw_message.subject, message.body)

    return decode
