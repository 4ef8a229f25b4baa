"""Read the event log: the events that a command needs, now and in the past."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from pydantic import ValidationError

from clients.cli.reading import ANSWER_S, Subscription, own_models, subscribe
from contracts.envelope import Event, nats_subject
from contracts.facts import FACTS
from contracts.services import EVENTS, INBOX, ORDERS
from contracts.vocabulary import ENVIRONMENTS, Environment
from decisions.access.bus_permissions import subjects_about
from shared.errors import Transient

STREAMS = (INBOX, ORDERS, EVENTS)
RETRY_S = 0.2
MOST_FAILURES = 3


@dataclass(frozen=True)
class LoggedEvent:
    """An event with its position in the log and its time of storage; sequence 0 for a live event that is not stored."""

    stream: str
    sequence: int
    event: Event[Any]
    stored_at: datetime | None = None


@dataclass(frozen=True)
class EventFilter:
    """A filter of the event log.

    Attributes:
        names: Names of services' events, such as `alert.*`.
        environment: The environment of these events; None for all.
        since: Time from which on events are read; None for all.
        with_orders: Whether announcements and orders are read as well.
    """

    names: tuple[str, ...]
    environment: Environment | None = "production"
    since: datetime | None = None
    with_orders: bool = False

    def subjects(self, models: Sequence[str] | None) -> list[str]:
        """Return the subject filters for models, or for all (None)."""
        named = ("*",) if models is None else models
        environments = ENVIRONMENTS if self.environment is None else (self.environment,)
        return [
            nats_subject(f"slipway.{name}.v1", model, "*", environment)
            for environment in environments
            for name in self.names
            for model in named
        ]


def parse(subject: str, body: bytes) -> Event[Any] | None:
    """Return the event of a message; None if it is malformed, of an unknown type, or names another sender."""
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
    """Return the subject filters of a stream for models, or for all (None)."""
    if where is not None and stream == EVENTS:
        return where.subjects(models)
    return [">"] if models is None else [each for model in models for each in subjects_about(stream, model)]


async def read_history(
    js: JetStreamContext,
    model: str | None = None,
    where: EventFilter | None = None,
    since: datetime | None = None,
) -> list[LoggedEvent]:
    """Return the logged events of a model, or of all models that this identity may read, in the order of time.

    Args:
        js: The bus.
        model: The model; None for all.
        where: The filter; None for all events.
        since: Time from which on events are read, unless the filter has one.
    """
    since = since if where is None else where.since or since
    history: list[LoggedEvent] = []
    own = await own_models(js)
    models = (model,) if model is not None else own
    for stream in streams_of(where):
        for subjects in by_consumer(stream, models, where, of_team=own is not None):
            history += await read_all(Reader(js, stream, subjects, since=since))
    return merge(history)


def merge(*histories: Iterable[LoggedEvent]) -> list[LoggedEvent]:
    """Return the events of several histories without duplicates, in the order of time."""
    known = {(each.stream, each.sequence): each for history in histories for each in history}
    return sorted(known.values(), key=lambda logged: (logged.event.time, logged.stream == EVENTS, logged.sequence))


def by_consumer(
    stream: str, models: Sequence[str] | None, where: EventFilter | None, *, of_team: bool
) -> list[tuple[str, ...]]:
    """Return the subjects of each consumer: all subjects in one consumer, or one per subject for a member of a team.

    The server checks the permissions of a member for one subject per consumer. Members therefore read all types of
    events with orders, instead of each type with its own consumer.
    """
    if not of_team:
        return [tuple(subjects_in(stream, models, where))]
    broad = None if where is not None and where.with_orders else where
    return [(subject,) for subject in subjects_in(stream, models, broad)]


async def read_all(reader: "Reader") -> list[LoggedEvent]:
    """Return the present events; raise Transient `bus_unavailable` if the stream stops answering."""
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


def streams_of(where: EventFilter | None) -> tuple[str, ...]:
    """Return the streams to read."""
    if where is None:
        return STREAMS
    return (*((INBOX, ORDERS) if where.with_orders else ()), *((EVENTS,) if where.names else ()))


class Reader:
    """Reads subjects of a stream from a sequence on; a lost consumer is created again."""

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
        """Whether all messages are read that the stream had when the consumer was created."""
        return self._subscription is not None and self._ahead <= 0

    async def read(self, *, wait_s: float, only_present: bool = False) -> list[LoggedEvent]:
        """Return the next events; with `only_present` without a wait at the end.

        The list is empty if no message arrives in time, or if no message is an event (then `moved` is set).
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
