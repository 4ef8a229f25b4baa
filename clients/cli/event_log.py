"""Read the event log: its history, then new events as they arrive."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy, DiscardPolicy, StreamInfo
from pydantic import ValidationError

from clients.cli.reading import ANSWER_S, LastMessage, Subscription, last_message, own_models, read_messages, subscribe
from contracts.envelope import Event, nats_subject
from contracts.facts import (
    FACTS,
    AlertRaised,
    AlertResolved,
    AlertUpdated,
    Fact,
    WindowSummarised,
    WorkProgressed,
)
from contracts.services import EVENTS, INBOX, ORDERS, TELEMETRY, emitters, stream_of
from contracts.vocabulary import ENVIRONMENTS, Environment
from decisions.bus_permissions import subjects_about
from shared.errors import Transient
from shared.messaging.topology import consumer_limit
from shared.runtime.tasks import end_tasks

Subjects = list[tuple[str, ...]]
STREAMS = (INBOX, ORDERS, EVENTS)
WAIT_S = 1.0
RETRY_S = 0.2
MOST_FAILURES = 3
_AGAIN_S = 0.5


@dataclass(frozen=True)
class LoggedEvent:
    """An event, its position in the log, and when it was stored; sequence 0 marks a live event that is not stored."""

    stream: str
    sequence: int
    event: Event[Any]
    stored_at: datetime | None = None

    @property
    def dated(self) -> Event[Any]:
        """The event, an announcement with the time when the bus stored it: its publisher's clock may be wrong."""
        announced = self.stream == INBOX and self.stored_at is not None
        return self.event.model_copy(update={"time": self.stored_at}) if announced else self.event


Put = Callable[[LoggedEvent], Awaitable[None]]


@dataclass(frozen=True)
class EventFilter:
    """The events that a command needs: events of services by name, such as `alert.*`, of one environment or all (None).

    Events before `since` are not read. `with_orders` adds all announcements and orders.
    """

    names: tuple[str, ...]
    environment: Environment | None = "production"
    since: datetime | None = None
    with_orders: bool = False

    def subjects(self, models: Sequence[str] | None) -> list[str]:
        """Return the subject filters of some models, or of all (None)."""
        named = ("*",) if models is None else models
        environments = ENVIRONMENTS if self.environment is None else (self.environment,)
        return [
            nats_subject(f"slipway.{name}.v1", model, "*", environment)
            for environment in environments
            for name in self.names
            for model in named
        ]


OBSERVATIONS = (AlertRaised, AlertResolved, AlertUpdated, WindowSummarised)
"""What the monitor says of live traffic: nearly all events of a log, and no part of any release."""
OF_RELEASES = EventFilter(
    tuple(
        fact.TYPE.removeprefix("slipway.").rpartition(".")[0]
        for fact in FACTS.values()
        if stream_of(fact) == EVENTS and fact not in OBSERVATIONS
    ),
    with_orders=True,
)
"""What the progress of releases is computed from."""


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


def subjects_in(stream: str, models: Sequence[str] | None, where: EventFilter | None) -> list[str]:
    """Return the subject filters of a stream's events about some models, or about all (None)."""
    if where is not None and stream == EVENTS:
        return where.subjects(models)
    return [">"] if models is None else [each for model in models for each in subjects_about(stream, model)]


def subject_matches(pattern: str, subject: str) -> bool:
    """Return whether a subject is one of a filter's, which has `*` for any token."""
    tokens, named = pattern.split("."), subject.split(".")
    return len(tokens) == len(named) and all(a in ("*", b) for a, b in zip(tokens, named, strict=True))


async def log_begin(js: JetStreamContext) -> datetime | None:
    """Return when the first event of the log was stored, or the last one of an empty log; None if none was removed."""
    offset, total = 0, 1
    while offset < total:
        page = await js._api_request("$JS.API.STREAM.LIST", json.dumps({"offset": offset}).encode())  # noqa: SLF001 - the client leaves the times out
        for stream in page["streams"]:
            state = stream["state"]
            if stream["config"]["name"] == EVENTS:
                begin = state["first_ts"] if state["messages"] else state["last_ts"]
                return datetime.fromisoformat(begin) if state["first_seq"] > 1 else None
        total, offset = page["total"], offset + max(1, len(page["streams"]))
    return None


async def read_history(
    js: JetStreamContext,
    model: str | None = None,
    where: EventFilter | None = None,
    since: datetime | None = None,
    *,
    before_log: bool = False,
) -> list[LoggedEvent]:
    """Return the events of the log so far, or those that a filter selects, in the order of time.

    Without a model, they are about the models that this identity may read. Events before `since` are not read, nor
    announcements and orders from before the log begins, unless `before_log`: what came of them is in the archive
    (`archived_events`).
    """
    since = since if where is None else where.since or since
    begin = None if before_log else await log_begin(js)
    if begin is not None:
        since = begin if since is None else max(since, begin)
    history: list[LoggedEvent] = []
    own = await own_models(js)
    models = (model,) if model is not None else own
    for stream in streams_of(where):
        for subjects in _by_consumer(stream, models, where, of_team=own is not None):
            history += await _read_all(_Reader(js, stream, subjects, since=since))
    return merge(history)


def merge(*histories: Iterable[LoggedEvent]) -> list[LoggedEvent]:
    """Return the events of several histories, each once, in the order of time."""
    known = {(each.stream, each.sequence): each for history in histories for each in history}
    return sorted(known.values(), key=lambda logged: (logged.event.time, logged.stream == EVENTS, logged.sequence))


def _by_consumer(
    stream: str, models: Sequence[str] | None, where: EventFilter | None, *, of_team: bool
) -> list[tuple[str, ...]]:
    """Return the subjects that each consumer reads: one consumer all of them, but for members of teams.

    The server compares a member's filter with what the member may read, and it compares one per consumer. So members
    read events of all types instead of many types one by one.
    """
    if not of_team:
        return [tuple(subjects_in(stream, models, where))]
    broad = None if where is not None and where.with_orders else where
    return [(subject,) for subject in subjects_in(stream, models, broad)]


async def _read_all(reader: "_Reader") -> list[LoggedEvent]:
    """Return the events that are there now; raise Transient `bus_unavailable` if their stream stops answering."""
    history: list[LoggedEvent] = []
    failures = 0
    while True:
        more = await reader.read(wait_s=ANSWER_S, only_present=True)
        history += more
        if reader.is_at_end:
            break
        failures = 0 if more or reader.moved else failures + 1
        if failures == MOST_FAILURES:
            raise Transient("bus_unavailable", f"The stream {reader.stream} stopped answering at {reader.next}.")
        if failures:
            await reader.close()  # a new consumer counts anew what is there
    await reader.close()
    return history


async def last_sequences(js: JetStreamContext) -> dict[str, int]:
    """Return the last sequence of each stream now; `follow` returns the events after it."""
    last = {str(info.config.name): int(info.state.last_seq) for info in await js.streams_info()}
    return {stream: last[stream] for stream in STREAMS}


async def nearly_full(js: JetStreamContext) -> list[str]:
    """Return a warning for each stream and bucket that is at 90 % of its limit of bytes or of consumers, or more."""
    infos = await js.streams_info()
    return [
        f"{info.config.name} holds {info.state.bytes} of {info.config.max_bytes} bytes; "
        f"{_when_full(info)}; see stream_full in docs/runbooks/serving.md"
        for info in infos
        if info.config.name != TELEMETRY
        and info.config.max_bytes
        and info.config.max_bytes > 0
        and info.state.bytes >= 0.9 * info.config.max_bytes
    ] + [
        f"{info.config.name} has {info.state.consumer_count} of {consumer_limit(info.config)} consumers; "
        "when it has no more, nothing reads it with a new one; see `slipway doctor`"
        for info in infos
        if info.state.consumer_count >= 0.9 * consumer_limit(info.config)
    ]


def _when_full(info: StreamInfo) -> str:
    if info.config.discard == DiscardPolicy.OLD:
        return "the oldest messages are dropped"
    limit = info.config.max_bytes or 0
    return "it accepts no more messages" if info.state.bytes > 0.99 * limit else "when full it accepts no more messages"


async def last_event(js: JetStreamContext, fact: type[Fact], model: str) -> Event[Any] | None:
    """Return the last event of a type about a model in production, or None if there is none."""
    message = await _last_of(js, fact, model)
    return parse(message.subject, message.data) if message is not None else None


async def _last_of(js: JetStreamContext, fact: type[Fact], model: str) -> LastMessage | None:
    subjects = [nats_subject(fact.TYPE, model, sender) for sender in emitters(fact)]
    messages = await asyncio.gather(*(last_message(js, EVENTS, subject) for subject in subjects))
    return max(filter(None, messages), key=lambda message: message.sequence, default=None)


async def answer_to(js: JetStreamContext, fact: type[Fact], model: str, order_id: str, after: int) -> Event[Any] | None:
    """Return the event of a type that answers an order, whatever other orders of the model were answered; None if none.

    A consumer is needed only if another order of the model was answered after this one was given.

    Args:
        js: The bus.
        fact: A type with an `order_id` or a `cause_id`.
        model: The model of the order.
        order_id: The order.
        after: The last sequence of the events before the order was published.
    """
    last = await _last_of(js, fact, model)
    if last is None or last.sequence <= after:
        return None
    answer = _answer(last.subject, last.data, order_id)
    if answer is not None:
        return answer
    where: dict[str, Any] = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}
    messages = await read_messages(js, EVENTS, nats_subject(fact.TYPE, model, "*"), **where)
    answers = (_answer(message.subject, message.data, order_id) for message in messages)
    return next(filter(None, answers), None)


def _answer(subject: str, body: bytes, order_id: str) -> Event[Any] | None:
    event = parse(subject, body)
    named = event and (getattr(event.data, "order_id", None) or getattr(event.data, "cause_id", None))
    return event if named == order_id else None


def streams_of(where: EventFilter | None) -> tuple[str, ...]:
    """Return the streams to read: events of services are all in one."""
    if where is None:
        return STREAMS
    return (*((INBOX, ORDERS) if where.with_orders else ()), *((EVENTS,) if where.names else ()))


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

    own = await own_models(client.jetstream(timeout=ANSWER_S))
    models = (model,) if model is not None else own
    groups = {stream: _by_consumer(stream, models, where, of_team=own is not None) for stream in streams_of(where)}
    followed = [] if where is not None else ["*"] if models is None else models
    live = [await client.subscribe(nats_subject(WorkProgressed.TYPE, each, "*"), cb=on_progress) for each in followed]
    pumps = []
    for stream, subjects in groups.items():
        pump, js = _pump if len(subjects) == 1 else _take_turns, client.jetstream(timeout=ANSWER_S)
        pumps += [asyncio.create_task(pump(js, stream, subjects, after.get(stream, 0), queue.put))]
    try:
        while True:
            yield await _next_of(queue, pumps)
    finally:
        # while the connection is open: once it is closed, nats-py answers a cancellation with its own error
        await end_tasks(pumps, again_s=_AGAIN_S)
        with contextlib.suppress(nats.errors.Error):
            for subscription in live:
                await subscription.unsubscribe()


async def _pump(js: JetStreamContext, stream: str, subjects: Subjects, after: int, put: Put) -> None:
    """Put the events of a stream into a queue as they arrive, through one consumer."""
    reader = _Reader(js, stream, *subjects, start=after + 1)
    while not js._nc.is_closed:  # noqa: SLF001 - nats-py turns a cancellation into an error once its connection is closed
        for logged in await reader.read(wait_s=WAIT_S):
            await put(logged)


async def _take_turns(js: JetStreamContext, stream: str, subjects: Subjects, after: int, put: Put) -> None:
    """Do the same with a consumer at a time: there are more subjects than consumers that this identity may have."""
    read = dict.fromkeys(subjects, after)
    while not js._nc.is_closed:  # noqa: SLF001 - as above
        with contextlib.suppress(TimeoutError, nats.errors.Error, Transient):
            last = (await last_sequences(js))[stream]
            for each in subjects:
                if read[each] < last:
                    history = await _read_all(_Reader(js, stream, each, start=read[each] + 1))
                    read[each] = max(last, *(logged.sequence for logged in history), 0)
                    for logged in history:
                        await put(logged)
        await asyncio.sleep(WAIT_S)


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
    """Reads subjects of a stream from a sequence on, through a consumer that is made again whenever it is lost."""

    def __init__(
        self,
        js: JetStreamContext,
        stream: str,
        subjects: tuple[str, ...],
        *,
        since: datetime | None = None,
        start: int = 1,
    ) -> None:
        self.stream = stream
        self.next = start
        self.moved = False
        self._js = js
        self._subjects = subjects
        self._since = since
        self._ahead = 0
        self._subscription: Subscription | None = None

    @property
    def is_at_end(self) -> bool:
        """Whether all is read that was there when the consumer was made."""
        return self._subscription is not None and self._ahead <= 0

    async def read(self, *, wait_s: float, only_present: bool = False) -> list[LoggedEvent]:
        """Return the next events; none if no message arrived in time, or none that is an event (then `moved`).

        With `only_present` it does not wait at the end.
        """
        self.moved = False
        try:
            subscription = self._subscription or await self._subscribe()
            if only_present and self.is_at_end:
                return []
            messages = await subscription.fetch(wait_s)
        except (TimeoutError, nats.errors.Error) as error:
            if not isinstance(error, TimeoutError):
                await self.close()
                await asyncio.sleep(RETRY_S)
            return []
        events = []
        for message in messages:
            metadata = message.metadata
            self.next, self.moved = metadata.sequence.stream + 1, True
            event = parse(message.subject, message.data)
            if event is not None:
                events.append(LoggedEvent(self.stream, metadata.sequence.stream, event, metadata.timestamp))
        self._ahead -= len(messages)
        return events

    async def _subscribe(self) -> Subscription:
        first: dict[str, Any] = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self.next}
        if self._since is not None and self.next == 1:
            first = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": self._since}
        self._subscription = await subscribe(self._js, self.stream, *self._subjects, **first)
        self._ahead = self._subscription.ahead
        return self._subscription

    async def close(self) -> None:
        """Remove the consumer."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.close()
