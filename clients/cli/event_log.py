"""Read the event log: its history, then new events as they arrive."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StreamInfo
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from contracts.envelope import Event, nats_subject
from contracts.facts import FACTS, Fact, WorkProgressed
from contracts.services import EVENTS, INBOX, ORDERS, TELEMETRY
from contracts.vocabulary import Environment
from shared.errors import Transient

STREAMS = (INBOX, ORDERS, EVENTS)
BATCH = 200
WAIT_S = 1.0
RETRY_S = 0.2
MOST_FAILURES = 3
ANSWER_S = 5.0


@dataclass(frozen=True)
class LoggedEvent:
    """An event and its position in the log; sequence 0 marks a live event that is not stored."""

    stream: str
    sequence: int
    event: Event[Any]


@dataclass(frozen=True)
class EventFilter:
    """The events that a command needs: events of services by name, such as `alert.*`, of one environment.

    Events before `since` are not read.
    """

    names: tuple[str, ...]
    environment: Environment = "production"
    since: datetime | None = None

    def subjects(self, model: str | None) -> list[str]:
        """Return the subject filters."""
        return [nats_subject(f"slipway.{name}.v1", model or "*", "*", self.environment) for name in self.names]


def parse(subject: str, body: bytes) -> Event[Any] | None:
    """Return the event of a message, or None if it is malformed, of an unknown type, or names another sender."""
    try:
        plain = Event[Any].model_validate_json(body)
        fact = FACTS.get(plain.type)
        return (
            None
            if fact is None or plain.nats_subject != subject
            else plain.model_copy(update={"data": fact.model_validate(plain.data)})
        )
    except ValidationError:
        return None


def subject_filter(model: str | None) -> str:
    """Return the subject filter for one model or for all."""
    return ">" if model is None else f"slipway.*.*.*.{model}.*"


async def read_history(
    js: JetStreamContext, model: str | None = None, where: EventFilter | None = None
) -> list[LoggedEvent]:
    """Return the events of the log so far, or those that a filter selects, in the order of time."""
    history: list[LoggedEvent] = []
    for stream in streams_of(where):
        reader = _Reader(js, stream, model, where)
        last = await _last_sequence(js, stream, model, where)
        failures = 0
        while reader.next <= last:
            more = await reader.read(wait_s=ANSWER_S)
            failures = 0 if more or reader.moved else failures + 1
            if failures == MOST_FAILURES:
                raise Transient("bus_unavailable", f"The stream {stream} stopped answering at message {reader.next}.")
            history += more
        await reader.close()
    return sorted(history, key=lambda logged: (logged.event.time, logged.stream == EVENTS, logged.sequence))


async def last_sequences(js: JetStreamContext) -> dict[str, int]:
    """Return the last sequence of each stream now; `follow` returns the events after it."""
    return {stream: int((await js.stream_info(stream)).state.last_seq) for stream in STREAMS}


async def nearly_full(js: JetStreamContext) -> list[str]:
    """Return a warning for each stream and bucket that is at 90 % of its limit or more."""
    return [
        f"{info.config.name} holds {info.state.bytes} of {info.config.max_bytes} bytes; "
        f"{_when_full(info)}; see stream_full in docs/runbooks/serving.md"
        for info in await js.streams_info()
        if info.config.name != TELEMETRY
        and info.config.max_bytes
        and info.config.max_bytes > 0
        and info.state.bytes >= 0.9 * info.config.max_bytes
    ]


def _when_full(info: StreamInfo) -> str:
    if info.config.discard == DiscardPolicy.OLD:
        return "the oldest messages are dropped"
    limit = info.config.max_bytes or 0
    return "it accepts no more messages" if info.state.bytes > 0.99 * limit else "when full it accepts no more messages"


async def last_event(js: JetStreamContext, fact: type[Fact], model: str) -> Event[Any] | None:
    """Return the last event of a type about a model in production, or None if there is none."""
    try:
        message = await js.get_last_msg(EVENTS, nats_subject(fact.TYPE, model, "*"))
    except NotFoundError:
        return None
    return parse(message.subject or "", message.data or b"")


async def answer_to(js: JetStreamContext, fact: type[Fact], model: str, order_id: str, after: int) -> Event[Any] | None:
    """Return the event of a type that names an order, whatever other orders of the model were answered; None if none.

    Args:
        js: The bus.
        fact: A type with an `order_id`.
        model: The model of the order.
        order_id: The order.
        after: The last sequence of the events before the order was published.
    """
    while True:
        try:
            message = await js.get_msg(EVENTS, after + 1, subject=nats_subject(fact.TYPE, model, "*"), next=True)
        except NotFoundError:
            return None
        event = parse(message.subject or "", message.data or b"")
        if event is not None and event.data.order_id == order_id:
            return event
        after = message.seq or after + 1


def streams_of(where: EventFilter | None) -> tuple[str, ...]:
    """Return the streams to read: events of services are all in one."""
    return STREAMS if where is None else (EVENTS,)


async def _last_sequence(js: JetStreamContext, stream: str, model: str | None, where: EventFilter | None) -> int:
    if model is None and where is None:
        return int((await js.stream_info(stream)).state.last_seq)
    last = 0
    for subject in [subject_filter(model)] if where is None else where.subjects(model):
        with contextlib.suppress(NotFoundError):
            message = await js.get_last_msg(stream, subject)
            too_old = where is not None and where.since and message.time is not None and message.time < where.since
            last = last if too_old else max(last, int(message.seq or 0))
    return last


async def follow(
    client: Client, model: str | None = None, *, after: dict[str, int], where: EventFilter | None = None
) -> AsyncGenerator[LoggedEvent, None]:
    """Yield the events after these sequences as they arrive, without an end; survives restarts of the bus.

    Without a filter, live progress events are included.

    Close it (`contextlib.aclosing`) before the client.
    """
    queue: asyncio.Queue[LoggedEvent] = asyncio.Queue()

    async def on_progress(message: Msg) -> None:
        event = parse(message.subject, message.data)
        if event is not None:
            await queue.put(LoggedEvent("", 0, event))

    async def pump(stream: str) -> None:
        js = client.jetstream(timeout=ANSWER_S)
        reader = _Reader(js, stream, model, where, start=after.get(stream, 0) + 1)
        while not client.is_closed:  # nats-py turns a cancellation into an error once its connection is closed
            for logged in await reader.read(wait_s=WAIT_S):
                await queue.put(logged)

    live = None
    if where is None:
        live = await client.subscribe(nats_subject(WorkProgressed.TYPE, model or "*", "*"), cb=on_progress)
    pumps = [asyncio.create_task(pump(stream)) for stream in streams_of(where)]
    try:
        while True:
            yield await _next_of(queue, pumps)
    finally:
        for task in pumps:
            task.cancel()
        # awaited while the connection is open: once it is closed, nats-py answers a cancellation with its own error
        await asyncio.gather(*pumps, return_exceptions=True)
        with contextlib.suppress(nats.errors.Error):
            if live is not None:
                await live.unsubscribe()


async def _next_of(queue: asyncio.Queue[LoggedEvent], pumps: list[asyncio.Task[None]]) -> LoggedEvent:
    """Return the next event; raise the error of a pump that failed."""
    getting = asyncio.create_task(queue.get())
    try:
        await asyncio.wait([getting, *pumps], return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not getting.done():
            getting.cancel()
    for task in pumps:
        if task.done():
            task.result()
    return await getting


class _Reader:
    """Reads one stream from a sequence on, through a consumer that is created again whenever it is lost."""

    def __init__(
        self, js: JetStreamContext, stream: str, model: str | None, where: EventFilter | None = None, *, start: int = 1
    ) -> None:
        self.next = start
        self.moved = False
        self._js = js
        self._stream = stream
        self._subjects = [subject_filter(model)] if where is None else where.subjects(model)
        self._since = where.since if where is not None and start == 1 else None
        self._subscription: JetStreamContext.PullSubscription | None = None

    async def read(self, *, wait_s: float) -> list[LoggedEvent]:
        """Return the next events; none if no message arrived in time, or none that is an event (then `moved`)."""
        self.moved = False
        try:
            subscription = self._subscription or await self._subscribe()
            messages = await self._fetch(subscription, wait_s)
        except (TimeoutError, nats.errors.Error) as error:
            if not isinstance(error, TimeoutError):
                await self.close()
                await asyncio.sleep(RETRY_S)
            return []
        events = []
        for message in messages:
            sequence = message.metadata.sequence.stream
            self.next, self.moved = sequence + 1, True
            event = parse(message.subject, message.data)
            if event is not None:
                events.append(LoggedEvent(self._stream, sequence, event))
        return events

    async def _fetch(self, subscription: "JetStreamContext.PullSubscription", wait_s: float) -> list[Msg]:
        """Return all messages that are available, else wait for one."""
        first = await subscription.fetch(1, timeout=wait_s)
        if first[-1].metadata.num_pending == 0:
            return first
        return first + await subscription.fetch(min(first[-1].metadata.num_pending, BATCH), timeout=wait_s)

    async def _subscribe(self) -> "JetStreamContext.PullSubscription":
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self.next,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30.0,
            mem_storage=True,
        )
        if self._since is not None and self.next == 1:
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_TIME, None
            config.opt_start_time = self._since
        if len(self._subjects) > 1:
            config.filter_subjects = self._subjects
        self._subscription = await self._js.pull_subscribe(self._subjects[0], stream=self._stream, config=config)
        return self._subscription

    async def close(self) -> None:
        """Remove the consumer."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.unsubscribe()
