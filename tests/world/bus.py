"""The real bus of a service on JetStream in memory: only the delivery of messages, which FastStream does, is ours.

What a handler's failure leads to, heartbeats, dead letters and publishing are `shared.messaging`'s own.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from faststream.exceptions import AckMessage, NackMessage, RejectMessage
from nats.js.api import RawStreamMsg

from contracts.facts import FACTS, CheckpointReady, Fact
from contracts.services import SERVICES, durable_name, stream_of
from shared.messaging import bus as real
from shared.messaging.bus import Bus, Received
from shared.messaging.delivery import Consumption, Delivery
from shared.messaging.events import parse_event
from shared.messaging.topology import ACK_WAIT_S
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection
from tests.kit.fake_bus import Life
from tests.kit.records import Killed
from tests.world.jetstream import Client, JetStream, Server

_CONNECTION = Connection()


@dataclass(eq=False)
class Pending:
    """A message that a consumer has not finished: how often it was delivered, and until when it is not again."""

    message: RawStreamMsg
    deliveries: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class Consumer:
    """A durable consumer, which outlives the processes that read it."""

    durable: str
    pending: list[Pending] = field(default_factory=list)
    readers: list["WorldBus"] = field(default_factory=list)

    def look_again(self, entry: Pending) -> None:
        """Let the readers look, unless the message is finished."""
        if entry in self.pending:
            for reader in self.readers:
                reader.wake()


class Consumers:
    """The consumers of all services on a server."""

    def __init__(self, server: Server, late_s: Callable[[], float] = lambda: 0.0) -> None:
        """Make them; `late_s` is how long one message is late at one consumer, behind those that came after it."""
        self.ack_wait_s, self._late_s = ACK_WAIT_S, late_s
        self.by_name: dict[str, Consumer] = {}
        self._of: dict[tuple[type[Fact], str], list[Consumer]] = {}
        for service in SERVICES.values():
            for fact, environment in service.reads:
                consumer = Consumer(durable_name(service.name, fact, environment))
                self.by_name[consumer.durable] = consumer
                self._of.setdefault((fact, environment), []).append(consumer)
        server.stored.append(self._note)

    def _note(self, message: RawStreamMsg) -> None:
        subject = message.subject or ""
        environment = "staging" if subject.startswith("slipway.staging.") else "production"
        kind = FACTS.get(subject.rsplit(".", 2)[0].replace("slipway.staging.", "slipway.", 1))
        for consumer in self._of.get((kind, environment), ()) if kind else ():
            loop, late_s = asyncio.get_running_loop(), self._late_s()
            entry = Pending(message, not_before=round(loop.time() + late_s, 9))
            consumer.pending.append(entry)
            if late_s:
                loop.call_at(entry.not_before, consumer.look_again, entry)
            else:
                consumer.look_again(entry)

    def unfinished(self, before: datetime) -> list[str]:
        """Return the consumers that are read and have messages of before a time."""
        read = {name: each.pending for name, each in self.by_name.items() if each.readers}
        return [
            name for name, pending in read.items() if any((each.message.time or before) < before for each in pending)
        ]


@dataclass(frozen=True)
class _Subscription:
    fact: type[Fact]
    handler: Any
    max_workers: int
    consumer: Consumer


class WorldBus(Bus):
    """The bus of one process.

    Attributes:
        defects: What handlers raised that is no error of ours.
    """

    def __init__(self, service: str, consumers: Consumers, js: JetStream, life: Life, clock: Clock) -> None:
        super().__init__(_CONNECTION, service, clock)
        self._consumers, self._js, self._life = consumers, js, life
        self._subscribed: list[_Subscription] = []
        self._handled_now: dict[str, int] = {}
        self._woken = False
        self.defects: list[BaseException] = []

    @property
    def js(self) -> Any:
        """JetStream in memory."""
        return self._js

    @property
    def client(self) -> Any:
        """The client of it."""
        return self._js._nc

    async def connect(self) -> Client:  # type: ignore[override]
        """Return the client."""
        return self._js._nc

    def on(  # type: ignore[override]
        self,
        fact: type[Fact],
        *,
        failure: Any = None,
        max_workers: int = 1,
        environment: Any = "production",
        perishable: bool = False,
    ) -> Callable[[Any], Any]:
        """Subscribe a handler to a fact, as the real bus does."""
        assert (fact, environment) in self._contract.reads
        durable, stream = durable_name(self.service, fact, environment), stream_of(fact)
        assert stream is not None
        self.consumptions[durable] = Consumption(fact, stream, durable, failure, perishable)

        def register(handler: Any) -> Any:
            consumer = self._consumers.by_name[durable]
            self._subscribed.append(_Subscription(fact, handler, max_workers, consumer))
            self._handled_now[durable] = 0
            return handler

        return register

    def start(self) -> None:
        """Begin to take messages."""
        for each in self._subscribed:
            each.consumer.readers.append(self)
        self.wake()

    def close(self) -> None:
        """Take none any more."""
        for each in self._subscribed:
            with contextlib.suppress(ValueError):
                each.consumer.readers.remove(self)

    def wake(self) -> None:
        """Look for messages soon."""
        if not self._woken and not self._life.dead:
            self._woken = True
            self._life.spawn(self._take())

    async def _take(self) -> None:
        """Begin with each message whose turn it is, once the way to the server is open."""
        await self._js.link.reached()
        self._woken = False
        for each in self._subscribed:
            pending = each.consumer.pending
            for entry in pending[:1] if each.fact is CheckpointReady else list(pending):
                if self._handled_now[each.consumer.durable] >= each.max_workers:
                    break
                if entry.not_before <= self._now_s():
                    self._handled_now[each.consumer.durable] += 1
                    entry.deliveries += 1
                    self.hold(each.consumer, entry, self._consumers.ack_wait_s)
                    self._life.spawn(self._receive(each, entry))

    def hold(self, consumer: Consumer, entry: Pending, seconds: float) -> None:
        """Let a message not be delivered again before some seconds have passed."""
        entry.not_before = round(self._now_s() + seconds, 9)
        asyncio.get_running_loop().call_at(entry.not_before, consumer.look_again, entry)

    async def _receive(self, subscription: _Subscription, entry: Pending) -> None:
        message = _Message(self, subscription.consumer, entry)
        stored_at = entry.message.time
        assert stored_at is not None
        real._received.set(Received(entry.message.seq or 0, stored_at))
        delivery = Delivery(message, context=None, bus=self)  # type: ignore[arg-type]
        await delivery.on_receive()
        try:
            await self._settle(subscription, message, delivery)
        except AckMessage:
            await message.ack()
        except NackMessage as error:
            await message.nak(**error.extra_options)
        except RejectMessage:
            await message.ack()
        finally:
            if delivery._beat is not None:
                delivery._beat.cancel()
            self._handled_now[subscription.consumer.durable] -= 1
            self.wake()

    async def _settle(self, subscription: _Subscription, message: "_Message", delivery: Delivery) -> None:
        try:
            event = _parsed(subscription.fact, message.subject, message.data)
            await self._handle(subscription.fact, subscription.handler, event)
        except Killed:
            raise
        except BaseException as error:
            if not self._life.dead:
                await delivery.after_processed(type(error), error, error.__traceback__)
            raise
        await message.ack()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


_PARSED: dict[tuple[type[Fact], str, bytes], Any] = {}


def _parsed(fact: type[Fact], subject: str, data: bytes) -> Any:
    """Return the event of a message; each is read by several consumers, and events cannot be changed."""
    key = (fact, subject, data)
    if key not in _PARSED:
        if len(_PARSED) > 200:
            _PARSED.clear()
        _PARSED[key] = parse_event(fact, subject, data)
    return _PARSED[key]


@dataclass(frozen=True)
class _Sequence:
    stream: int


@dataclass(frozen=True)
class _Metadata:
    stream: str
    consumer: str
    num_delivered: int
    sequence: _Sequence
    timestamp: datetime


class _Message:
    """A message as a consumer has it; acknowledging it may fail on its way, and nothing says so."""

    def __init__(self, bus: WorldBus, consumer: Consumer, entry: Pending) -> None:
        self._bus, self._consumer, self._entry = bus, consumer, entry
        stored = entry.message
        assert stored.time is not None
        self.subject, self.data = stored.subject or "", stored.data or b""
        self.headers = stored.headers or {}
        self.metadata = _Metadata(
            stored.stream or "", consumer.durable, entry.deliveries, _Sequence(stored.seq or 0), stored.time
        )

    async def ack(self) -> None:
        """Finish the message."""

        def remove() -> None:
            if self._entry in self._consumer.pending:
                self._consumer.pending.remove(self._entry)

        await self._tell("acknowledge", remove)

    async def nak(self, delay: float = 0.0) -> None:
        """Return the message for later."""
        await self._tell("return", lambda: self._bus.hold(self._consumer, self._entry, delay))

    async def in_progress(self) -> None:
        """Report that it is still handled."""
        wait_s = self._bus._consumers.ack_wait_s
        await self._tell("keep", lambda: self._bus.hold(self._consumer, self._entry, wait_s))

    async def _tell(self, word: str, do: Callable[[], None]) -> None:
        with contextlib.suppress(TimeoutError):
            await self._bus.js.link.ask(f"{word} {self.subject}", do, changes=word == "acknowledge")
