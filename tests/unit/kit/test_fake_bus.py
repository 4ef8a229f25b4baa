"""The bus in memory keeps the delivery rules of the real one; in virtual time."""

import pytest

from contracts.facts import FACTS
from testbed import factories as f
from tests.kit.conformance_bus import SERVICE, BusConformance
from tests.kit.fake_bus import FakeBus, Life, Message, Streams
from tests.kit.fakes_rollback import FakeLog
from tests.kit.virtual_time import VirtualClock, VirtualTimePolicy


@pytest.fixture(scope="module")
def event_loop_policy():
    return VirtualTimePolicy()


class World:
    """The bus in memory with its streams and its log."""

    def __init__(self) -> None:
        self.clock = VirtualClock(f.START)
        self.streams, self.log = Streams(), FakeLog(self.clock)
        self.count = 0
        self.ack_wait_s = 2.0
        self.begin()

    def begin(self):
        self.life = Life()
        self.bus = FakeBus(SERVICE, self.streams, self.log, self.life, ack_wait_s=self.ack_wait_s)

    async def kill(self):
        await self.life.close()
        self.begin()

    async def start(self):
        self.bus.start()

    async def put(self, event):
        self.count += 1
        self.streams.put(Message(self.count, event, self.clock.now()))
        self.bus.deliver()

    async def facts(self, kind):
        assert kind in FACTS.values()
        return [stored.event for stored in self.log.stored if isinstance(stored.event.data, kind)]

    async def dead_letters(self):
        return [code for _, code in self.streams.dead_letters]

    async def unacknowledged(self):
        return len(self.streams.unacknowledged())


class TestFakeBus(BusConformance):
    @pytest.fixture
    async def world(self):
        world = World()
        yield world
        await world.life.close()
