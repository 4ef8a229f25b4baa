"""One life of a service's process: everything that it asks of the outside is a step, at which it can die or wait."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from nats.errors import TimeoutError as NatsTimeoutError

from shared.errors import Transient
from shared.messaging.records import RecordStore
from shared.storage.kv import Bucket
from tests.kit.fake_bus import Life
from tests.kit.records import Killed
from tests.kit.virtual_time import VirtualClock
from tests.world.bus import WorldBus
from tests.world.jetstream import JetStream

if TYPE_CHECKING:
    from tests.world.world import World

STORE_ANSWERS_S = 5.0
_A_MOMENT_S = 1e-6
"""Virtual time moves by no less."""


class Process(Life):
    """A process (also `jetstream.Link`: its way to the bus)."""

    def __init__(self, world: "World", seat: str, number: int) -> None:
        super().__init__()
        service = world.fate.seats[seat]
        self.world, self.service, self.seat, self.number = world, service, seat, number
        self.clock: VirtualClock = world.clock_of(seat)
        self.js = JetStream(world.server, self)
        self.bus = WorldBus(service, world.consumers, self.js, self, self.clock)
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self.dead

    @property
    def name(self) -> str:
        """Its service, perhaps as the second process of it, and which life of it this is."""
        return f"{self.seat}#{self.number}"

    def pause(self, seconds: float) -> None:
        """Stop it where it is for a while, like SIGSTOP."""
        self._goes_on.clear()
        asyncio.get_running_loop().call_later(seconds, self._goes_on.set)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a part of it; what it raises is a defect."""
        task = super().spawn(work)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.violated(f"{self.name} raises {error!r}")

    def end(self, why: str) -> None:
        """Kill it."""
        if not self.dead:
            self.world.tell(f"{self.name} {why}")
            self.bus.close()
            self.kill()

    # -- the way to the bus ----------------------------------------------------------------------------------------

    async def ask(self, name: str, do: Callable[[], Any], *, changes: bool = False, limit_s: float = 10.0) -> Any:
        """Return what the bus answers; die, wait, or raise TimeoutError where its fate is so."""
        self._pass(name, changes=changes)
        await self._travel("bus", limit_s)
        if name.startswith("acknowledge") and self.world.fate.doubled():
            return None  # it is lost, and nothing says so: the message comes again
        answer = do()
        if changes:
            self.world.tell(f"{self.name}: {name}")
        self._pass(name, changes=changes)
        if changes and self.world.loses_answer(self.seat):
            self.world.tell(f"{self.name} gets no answer: {name}")
            await self._wait(limit_s)
            raise NatsTimeoutError
        return answer

    async def reached(self) -> None:
        """Return once something from the bus has arrived."""
        await self._travel("bus", float("inf"))

    def _pass(self, name: str, *, changes: bool) -> None:
        if self.dead:
            raise Killed
        if changes and self.world.kills(self.seat):
            self.end(f"dies: {name}")
            raise Killed

    async def _travel(self, place: str, limit_s: float) -> None:
        """Be on the way; raise TimeoutError if it is closed for longer than `limit_s`."""
        until_s = self.world.now_s + limit_s
        await self._wait(self.world.fate.latency_s())
        while (closed_s := self.world.closed_until_s(place, self.seat)) > (now_s := self.world.now_s):
            if until_s <= now_s:
                raise NatsTimeoutError
            await self._wait(min(closed_s, until_s) - now_s + _A_MOMENT_S)

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))
        if not self._goes_on.is_set():
            await self._goes_on.wait()
        if self.dead:
            raise Killed

    # -- other ports -----------------------------------------------------------------------------------------------

    def port(self, port: Any, *names: str, place: str = "store") -> Any:
        """Return a port whose named async methods are steps of this process."""
        return _Port(self, port, names, place)

    def calls(self, port: Any, *names: str, place: str = "store") -> Any:
        """Return a port whose named methods, which run in a thread elsewhere, are steps of this process."""
        return _CalledPort(self, port, names, place)

    def call(self, place: str, name: str, call: Callable[[], Any], *, changes: bool) -> Any:
        """Return what a port answers at once; raise Transient if its place is away."""
        self._pass(name, changes=changes)
        if self.world.closed_until_s(place, self.seat) > asyncio.get_running_loop().time():
            raise Transient("store_unavailable", f"{place}: no answer.")
        answer = call()
        if changes:
            self.world.tell(f"{self.name}: {name}")
        self._pass(name, changes=changes)
        return answer

    async def visit(self, place: str, name: str, call: Callable[[], Any], *, changes: bool) -> Any:
        """Return what a port answers; raise Transient if its place is away."""
        self._pass(name, changes=changes)
        try:
            await self._travel(place, STORE_ANSWERS_S)
        except TimeoutError as error:
            raise Transient("store_unavailable", f"{place}: no answer within {STORE_ANSWERS_S:g} s.") from error
        answer = await call()
        if changes:
            self.world.tell(f"{self.name}: {name}")
        self._pass(name, changes=changes)
        return answer

    # -- what services are made of ---------------------------------------------------------------------------------

    def store(self, name: str, kind: type, **more: Any) -> RecordStore[Any]:
        """Return the records of one kind in a bucket, as services build them."""
        jitter, now_s = self.world.fate.noise.random, asyncio.get_running_loop().time
        bucket = Bucket(self.js, name, kind, service=self.service)  # type: ignore[arg-type]
        return RecordStore(name, bucket, self.bus, service=self.service, jitter=jitter, boottime=now_s, **more)

    def run(self, *loops: Callable[[], Any]) -> None:
        """Begin to handle messages, and with what runs beside that."""
        for loop in loops:
            self.spawn(loop())
        self.bus.start()

    async def close(self) -> None:
        """Wait until nothing of it is left."""
        with contextlib.suppress(Exception):
            await super().close()


class _Port:
    def __init__(self, process: Process, port: Any, names: tuple[str, ...], place: str) -> None:
        self._process, self._port, self._names, self._place = process, port, names, place

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if name not in self._names:
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            changes = name.startswith(("put", "attest", "load", "unload"))
            return await self._process.visit(
                self._place, f"{self._place} {name}", lambda: attribute(*args, **kwargs), changes=changes
            )

        return call


class _CalledPort(_Port):
    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if name not in self._names:
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._process.call(
                self._place, f"{self._place} {name}", lambda: attribute(*args, **kwargs), changes=name == "commit"
            )

        return call
