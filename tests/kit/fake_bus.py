"""A bus in memory: delivers facts to a service's handlers by the delivery rules, and can kill the service at any step."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from contracts.envelope import Event
from contracts.facts import Fact, WorkAbandoned
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.messaging.bus import Emit, Received
from shared.messaging.delivery import UNKNOWN_ERROR_DELIVERIES, answer, backoff_s, given_up, is_spoiled
from shared.messaging.topology import ACK_WAIT_S, HEARTBEAT_S
from tests.kit.records import Killed

_received: ContextVar[Received] = ContextVar("received")


class Life:
    """One life of a process: everything that it asks of the outside is a step, and at step `kill_at` it dies.

    A step is named by its number, or by its name: the first one of it.
    """

    def __init__(self, kill_at: int | str | None = None) -> None:
        self.kill_at = kill_at
        self.steps: list[str] = []
        self.dead = False
        self.ended = asyncio.Event()
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """In the order in which they began, so that a killed process ends the same way each time."""

    def step(self, name: str) -> None:
        """Count a step; raise Killed from the fatal one on."""
        if self.dead:
            raise Killed
        self.steps.append(name)
        if self.kill_at in (len(self.steps), name):
            self.kill()
            raise Killed

    def kill(self) -> None:
        """End it now, like SIGKILL: no clean-up of its own reaches the outside any more."""
        self.dead = True
        self.ended.set()
        for task in list(self.tasks):
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a part of the process."""

        async def run() -> None:
            with contextlib.suppress(Killed):
                await work

        task = asyncio.create_task(run())
        self.tasks[task] = None
        task.add_done_callback(lambda done: self.tasks.pop(done, None))
        task.add_done_callback(lambda _: work.close())  # it was never begun where the process died first
        return task

    def mortal(self, port: Any, *names: str) -> Any:
        """Return a port whose named async methods are two steps each: before its effect, and after."""
        return _Mortal(port, self, names)

    async def close(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self.kill()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class _Mortal:
    def __init__(self, port: Any, life: Life, names: tuple[str, ...]) -> None:
        self._port, self._life, self._names = port, life, names

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if name not in self._names:
            return attribute
        label = f"{type(self._port).__name__}.{name}"

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._life.step(f"before {label}")
            await asyncio.sleep(0)
            result = await attribute(*args, **kwargs)
            self._life.step(f"after {label}")
            return result

        return call


@dataclass(eq=False)
class Message:
    """A message of a stream, and what became of it at its consumer."""

    sequence: int
    event: Event[Any]
    stored_at: datetime
    deliveries: int = 0
    not_before: float = 0.0


@dataclass
class Streams:
    """What was published for a service and not acknowledged yet; outlives every process."""

    waiting: dict[tuple[type[Fact], str], list[Message]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: list[tuple[Event[Any], str]] = field(default_factory=list)
    dropped: list[Event[Any]] = field(default_factory=list)
    """What was perishable and failed at one record for too long."""
    defects: list[Exception] = field(default_factory=list)
    """What handlers raised that is no error of ours."""

    def put(self, message: Message) -> None:
        """Store a message for its consumer."""
        self.waiting[type(message.event.data), message.event.environment].append(message)

    def unacknowledged(self) -> list[Event[Any]]:
        """Return every event that no process has finished."""
        return [message.event for messages in self.waiting.values() for message in messages]


@dataclass(frozen=True)
class _Subscription:
    handler: Any
    failure: Any
    max_workers: int
    perishable: bool


class FakeBus:
    """The bus as a service's `build` sees it: `on`, `received` and `publish`.

    Attributes:
        ack_wait_s: Seconds after the last sign of life of its process in which a message is not delivered again.
    """

    def __init__(self, service: str, streams: Streams, log: Any, life: Life, *, ack_wait_s: float = ACK_WAIT_S) -> None:
        self.service = service
        self.ack_wait_s = ack_wait_s
        self._streams, self._log, self._life = streams, log, life
        self._subscriptions: dict[tuple[type[Fact], str], _Subscription] = {}
        self._running: dict[tuple[type[Fact], str], int] = defaultdict(int)
        self._in_flight: set[int] = set()

    def on(
        self,
        fact: type[Fact],
        *,
        failure: Any = None,
        max_workers: int = 1,
        environment: str = "production",
        perishable: bool = False,
    ) -> Any:
        """Subscribe a handler to a fact."""

        def register(handler: Any) -> Any:
            self._subscriptions[fact, environment] = _Subscription(handler, failure, max_workers, perishable)
            return handler

        return register

    @property
    def received(self) -> Received:
        """Where the message is stored whose handler asks."""
        return _received.get()

    async def publish(self, emit: Fact | Emit, cause: Event[Any] | None = None) -> Event[Any]:
        """Publish a fact and return once the log has it."""
        event: Event[Any] = await self._log.publish(_caused(emit if isinstance(emit, Emit) else Emit(emit), cause))
        return event

    async def progress(self, cause: Event[Any], progress: Fact) -> None:
        """Publish progress; live only, without a subscriber here."""

    def start(self) -> None:
        """Begin to deliver, also what an earlier process gave back to be delivered later."""
        loop = asyncio.get_running_loop()
        for messages in self._streams.waiting.values():
            for message in messages:
                loop.call_at(max(message.not_before, loop.time()), self.deliver)

    def deliver(self) -> None:
        """Begin with every message whose turn it is, each consumer's one after the other."""
        if self._life.dead:
            return
        now = asyncio.get_running_loop().time()
        for consumer, subscription in self._subscriptions.items():
            for message in list(self._streams.waiting[consumer]):
                if self._running[consumer] >= subscription.max_workers:
                    break
                if id(message) not in self._in_flight and message.not_before <= now:
                    self._in_flight.add(id(message))
                    self._running[consumer] += 1
                    message.deliveries += 1
                    message.not_before = round(now + self.ack_wait_s, 9)
                    self._life.spawn(self._handle(consumer, message))

    async def _handle(self, consumer: tuple[type[Fact], str], message: Message) -> None:
        _received.set(Received(message.sequence, message.stored_at))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            self._life.step(f"receive {message.event.type}")
            outcome = await self._subscriptions[consumer].handler(message.event)
            for fact in outcome if isinstance(outcome, list | tuple) else [outcome] if outcome is not None else []:
                await self.publish(fact, message.event)
            self._acknowledge(message)
        except Exception as error:  # noqa: BLE001 - the delivery rules decide
            await self._settle(message, self._subscriptions[consumer], error)
        finally:
            self._in_flight.discard(id(message))
            self._running[consumer] -= 1
            if self._life.dead:
                heartbeats = (loop.time() - begun) // HEARTBEAT_S
                message.not_before = round(begun + heartbeats * HEARTBEAT_S + self.ack_wait_s, 9)
            else:
                loop.call_soon(self.deliver)

    def _acknowledge(self, message: Message) -> None:
        self._life.step(f"acknowledge {message.event.type}")
        self._streams.waiting[type(message.event.data), message.event.environment].remove(message)

    async def _settle(self, message: Message, subscription: _Subscription, error: Exception) -> None:
        """Acknowledge, return, reject or dead-letter a failed message, like `shared.messaging.delivery.Delivery`."""
        known = translate(error)
        if known is None:
            self._streams.defects.append(error)
            if message.deliveries >= UNKNOWN_ERROR_DELIVERIES:
                known = Permanent("internal_error", f"{type(error).__name__}: {error}.")
        elif subscription.perishable and is_spoiled(known, message.deliveries):
            self._acknowledge(message)
            self._streams.dropped.append(message.event)
            return
        if isinstance(known, Transient):
            known = given_up(known, message.deliveries) or known
        if not isinstance(known, Permanent):
            self._retry(message)
            return
        try:
            await self._reject_or_store(message, subscription, known)
        except Transient:
            self._retry(message)
            return
        self._acknowledge(message)

    async def _reject_or_store(self, message: Message, subscription: _Subscription, error: SlipwayError) -> None:
        """Publish the fact that a failed message becomes; without one it is a dead letter, and its work abandoned."""
        event = message.event
        if subscription.failure is not None:
            fact = subscription.failure(event, error)
            await self.publish(answer(fact, f"{message.sequence}", event, event.subject), event)
            return
        if not any(letter is event for letter, _ in self._streams.dead_letters):
            self._streams.dead_letters.append((event, error.code))
        abandoned = WorkAbandoned(
            service=self.service,
            cause_type=event.type,
            cause_id=event.id,
            dead_letter_sequence=len(self._streams.dead_letters),
            code=error.code,
            reason=error.reason,
        )
        await self.publish(abandoned, event)

    def _retry(self, message: Message) -> None:
        """Deliver a message again after its backoff."""
        delay_s, loop = backoff_s(message.deliveries), asyncio.get_running_loop()
        message.not_before = round(loop.time() + delay_s, 9)  # as exact as virtual time
        loop.call_at(message.not_before, self.deliver)


def _caused(emit: Emit, cause: Event[Any] | None) -> Emit:
    """Return a fact with the defaults that it takes from its cause."""
    if cause is None:
        return emit
    return replace(
        emit,
        model=emit.model or cause.subject,
        correlation_id=emit.correlation_id or cause.correlationid,
        environment=emit.environment or cause.environment,
        cause_id=emit.cause_id or cause.id,
    )
