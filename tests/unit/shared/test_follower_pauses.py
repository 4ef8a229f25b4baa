"""How often a follower of a bucket asks a bus that refuses at once."""

import asyncio
import contextlib
import itertools
import math

import nats.errors
import pytest
from nats.js.errors import NotFoundError

from shared.storage.kv import Bucket, Snapshot
from tests.kit.records import Tally
from tests.kit.virtual_time import virtual_time

SOON_S, REGULAR_S = 0.1, 2.0


class Refusing:
    """A bus without a connection: it fails at once, or has no bucket. Notes when it is asked, for a read and a watch."""

    def __init__(self):
        self.refuses, self.reads, self.watches = True, [], []

    async def stream_info(self, _name):
        self.reads.append(asyncio.get_running_loop().time())
        raise nats.errors.ConnectionClosedError if self.refuses else NotFoundError

    async def key_value(self, _name):
        self.watches.append(asyncio.get_running_loop().time())
        raise nats.errors.ConnectionClosedError


class Breaking:
    """A bus whose watches break after 5 s, up to a time; no watch can be made after it."""

    def __init__(self, until_s):
        self._until_s, self.watches = until_s, []

    async def stream_info(self, _name):
        raise NotFoundError

    async def key_value(self, _name):
        self.watches.append(asyncio.get_running_loop().time())
        if self.watches[-1] > self._until_s:
            raise nats.errors.ConnectionClosedError
        return self

    async def watchall(self):
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(5)
        raise nats.errors.ConnectionClosedError

    async def stop(self):
        """End the watch, of which nothing is kept."""


class Connected:
    """What a follower uses of a client: the callback after a reconnect."""

    def __init__(self):
        self._reconnected_cb = None

    async def reconnect(self):
        await self._reconnected_cb()


@contextlib.asynccontextmanager
async def following(bus, client, on_snapshot=None):
    bucket = Bucket(bus, "alerts", Tally)
    task = asyncio.create_task(bucket.follow(client, nothing, on_snapshot))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def nothing(_key, _record, _revision):
    """Take a change; there is none."""


def pauses(times):
    return [round(after - before, 2) for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("what", ["reads", "watches"])
@virtual_time
async def test_it_asks_a_bus_that_refuses_at_once_ever_more_rarely(what):
    bus = Refusing()
    async with following(bus, Connected()):
        await asyncio.sleep(3600)
    asked = getattr(bus, what)
    assert pauses(asked[:8]) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert set(pauses(asked[6:])) == {REGULAR_S}


@pytest.mark.parametrize("what", ["reads", "watches"])
@virtual_time
async def test_it_asks_soon_after_a_reconnect_and_then_ever_more_rarely_again(what):
    bus, client = Refusing(), Connected()
    async with following(bus, client):
        await asyncio.sleep(60.55)
        asked = getattr(bus, what)
        before = len(asked)
        await client.reconnect()
        await asyncio.sleep(10)
    later = asked[before:]
    assert later[0] - 60.55 <= SOON_S + 0.01
    assert later[1] - later[0] <= 2 * SOON_S + 0.01
    assert pauses(later)[-1] == REGULAR_S
    assert len(later) <= 10


@virtual_time
async def test_a_watch_that_was_made_ends_a_series_of_failures():
    bus = Breaking(until_s=30)
    async with following(bus, Connected()):
        await asyncio.sleep(40)
    assert pauses(bus.watches)[:10] == [5.1] * 6 + [0.2, 0.4, 0.8, 1.6]


@virtual_time
async def test_a_cancelled_callback_does_not_end_the_reads():
    bus = Refusing()
    bus.refuses = False

    async def cancelled(_snapshot):
        raise asyncio.CancelledError

    async with following(bus, Connected(), cancelled):
        await asyncio.sleep(9)
    assert bus.reads == [2.0, 4.0, 6.0, 8.0]


@virtual_time
async def test_an_answer_ends_a_series_of_failures():
    bus, snapshots = Refusing(), []

    async def keep(snapshot):
        snapshots.append(snapshot)

    async with following(bus, Connected(), keep):
        await asyncio.sleep(60)
        bus.refuses = False
        await asyncio.sleep(REGULAR_S)
        assert snapshots == [Snapshot(None, frozenset())]
        bus.refuses = True
        before = len(bus.reads)
        await asyncio.sleep(10)
    assert pauses(bus.reads[before - 1 :])[0] == REGULAR_S
    assert pauses(bus.reads[before:])[:3] == [0.1, 0.2, 0.4]


class Losing(Breaking):
    """A bus on which a watch loses its first cancellation while it is being made; counts the watches that have ended."""

    def __init__(self):
        super().__init__(until_s=math.inf)
        self.lost, self.ended = False, 0

    async def watchall(self):
        if not self.lost:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.lost = True
        return self

    async def __anext__(self):
        await asyncio.sleep(3600)

    async def stop(self):
        self.ended += 1


@virtual_time
async def test_a_watch_that_loses_its_cancellation_ends_all_the_same():
    bus, client = Losing(), Connected()
    async with following(bus, client):
        await asyncio.sleep(1)
        await client.reconnect()
        await asyncio.sleep(10)
        assert (bus.lost, len(bus.watches), bus.ended) == (True, 2, 1)
