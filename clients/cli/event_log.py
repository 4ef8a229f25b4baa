"""Reads the event log: what was said so far, then what is said from now on."""

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
class Said:
    """An event and where it lies in the log; sequence 0 is live only."""

    stream: str
    sequence: int
    event: Event[Any]


@dataclass(frozen=True)
class Part:
    """The part of the log that a command needs: facts of services by name, such as `alert.*`, of one environment.

    What lies before `since` is not read at all.
    """

    names: tuple[str, ...]
    environment: Environment = "production"
    since: datetime | None = None

    def subjects(self, model: str | None) -> list[str]:
        """Return the subject filters."""
        return [nats_subject(f"slipway.{name}.v1", model or "*", self.environment) for name in self.names]


def parse(body: bytes) -> Event[Any] | None:
    """Parse an event of any known type; None for what is none, such as a malformed or unknown one."""
    try:
        plain = Event[Any].model_validate_json(body)
        fact = FACTS.get(plain.type)
        return None if fact is None else plain.model_copy(update={"data": fact.model_validate(plain.data)})
    except ValidationError:
        return None


def subject_filter(model: str | None) -> str:
    """Return the subject filter for one model or for all."""
    return ">" if model is None else f"slipway.*.*.*.{model}"


async def read_history(js: JetStreamContext, model: str | None = None, part: Part | None = None) -> list[Said]:
    """Read everything that was said so far, or a part of it, in the order of time."""
    said: list[Said] = []
    for stream in streams_of(part):
        reader = _Reader(js, stream, model, part)
        last = await _last_sequence(js, stream, model, part)
        failures = 0
        while reader.next <= last:
            more = await reader.read(wait_s=ANSWER_S)
            failures = 0 if more or reader.moved else failures + 1
            if failures == MOST_FAILURES:
                raise Transient("bus_unavailable", f"The stream {stream} stopped answering at message {reader.next}.")
            said += more
        await reader.close()
    return sorted(said, key=lambda one: (one.event.time, one.stream == EVENTS, one.sequence))


async def newest(js: JetStreamContext) -> dict[str, int]:
    """Return where the log ends now: what is said after that, `follow` gives."""
    return {stream: int((await js.stream_info(stream)).state.last_seq) for stream in STREAMS}


async def nearly_full(js: JetStreamContext) -> list[str]:
    """Return a sentence about each stream and bucket that holds nine tenths of what it may hold, or more."""
    return [
        f"{one.config.name} holds {one.state.bytes} of {one.config.max_bytes} bytes; "
        f"{_when_full(one)}: see stream_full in docs/runbooks/serving.md"
        for one in await js.streams_info()
        if one.config.name != TELEMETRY
        and one.config.max_bytes
        and one.config.max_bytes > 0
        and one.state.bytes >= 0.9 * one.config.max_bytes
    ]


def _when_full(one: StreamInfo) -> str:
    if one.config.discard == DiscardPolicy.OLD:
        return "the oldest are dropped"
    most = one.config.max_bytes or 0
    return "nothing more can be published to it" if one.state.bytes > 0.99 * most else "it fills up"


async def last_said(js: JetStreamContext, fact: type[Fact], model: str) -> Event[Any] | None:
    """Return the last fact of a kind that a service said about a model in production."""
    try:
        message = await js.get_last_msg(EVENTS, nats_subject(fact.TYPE, model))
    except NotFoundError:
        return None
    return parse(message.data or b"")


def streams_of(part: Part | None) -> tuple[str, ...]:
    """Return the streams that hold a part of the log: facts of services lie in one."""
    return STREAMS if part is None else (EVENTS,)


async def _last_sequence(js: JetStreamContext, stream: str, model: str | None, part: Part | None) -> int:
    if model is None and part is None:
        return int((await js.stream_info(stream)).state.last_seq)
    last = 0
    for subject in [subject_filter(model)] if part is None else part.subjects(model):
        with contextlib.suppress(NotFoundError):
            message = await js.get_last_msg(stream, subject)
            too_old = part is not None and part.since and message.time is not None and message.time < part.since
            last = last if too_old else max(last, int(message.seq or 0))
    return last


async def follow(
    client: Client, model: str | None = None, *, after: dict[str, int], part: Part | None = None
) -> AsyncGenerator[Said, None]:
    """Return what is said after these sequences, for ever; survives restarts of the bus.

    Of the whole log (no `part`), live progress comes between.

    Close it (`contextlib.aclosing`) before the client.
    """
    queue: asyncio.Queue[Said] = asyncio.Queue()

    async def on_progress(message: Msg) -> None:
        event = parse(message.data)
        if event is not None:
            await queue.put(Said("", 0, event))

    async def pump(stream: str) -> None:
        js = client.jetstream(timeout=ANSWER_S)
        reader = _Reader(js, stream, model, part, start=after.get(stream, 0) + 1)
        while not client.is_closed:  # nats-py turns a cancellation into an error once its connection is closed
            for one in await reader.read(wait_s=WAIT_S):
                await queue.put(one)

    live = None
    if part is None:
        live = await client.subscribe(f"{WorkProgressed.TYPE}.{model or '*'}", cb=on_progress)
    pumps = [asyncio.create_task(pump(stream)) for stream in streams_of(part)]
    try:
        while True:
            yield await _next_of(queue, pumps)
    finally:
        for task in pumps:
            task.cancel()
        # awaited while the connection lives: once it is closed, nats-py answers a cancellation with an error of its own
        await asyncio.gather(*pumps, return_exceptions=True)
        with contextlib.suppress(nats.errors.Error):
            if live is not None:
                await live.unsubscribe()


async def _next_of(queue: asyncio.Queue[Said], pumps: list[asyncio.Task[None]]) -> Said:
    """Wait for the next thing said; a pump that failed fails here."""
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
    """Reads one stream from a sequence on, through a consumer that is made anew whenever it got lost."""

    def __init__(
        self, js: JetStreamContext, stream: str, model: str | None, part: Part | None = None, *, start: int = 1
    ) -> None:
        self.next = start
        self.moved = False
        self._js = js
        self._stream = stream
        self._subjects = [subject_filter(model)] if part is None else part.subjects(model)
        self._since = part.since if part is not None and start == 1 else None
        self._subscription: JetStreamContext.PullSubscription | None = None

    async def read(self, *, wait_s: float) -> list[Said]:
        """Return the next messages; none when nothing came in time, or nothing that is an event (then `moved`)."""
        self.moved = False
        try:
            subscription = self._subscription or await self._subscribe()
            messages = await self._fetch(subscription, wait_s)
        except (TimeoutError, nats.errors.Error) as error:
            if not isinstance(error, TimeoutError):
                await self.close()
                await asyncio.sleep(RETRY_S)
            return []
        said = []
        for message in messages:
            sequence = message.metadata.sequence.stream
            self.next, self.moved = sequence + 1, True
            event = parse(message.data)
            if event is not None:
                said.append(Said(self._stream, sequence, event))
        return said

    async def _fetch(self, subscription: "JetStreamContext.PullSubscription", wait_s: float) -> list[Msg]:
        """Take all that is there at once, else wait for one message."""
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
        """Return the consumer back."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await subscription.unsubscribe()
