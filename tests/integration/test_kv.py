"""Records on a real server: compare-and-set has one winner, and a follower misses nothing."""

import asyncio
import contextlib
import shutil

import nats
import nats.errors
import pytest
from nats.js.errors import NotFoundError

from contracts.routes import Route
from shared.messaging.provision import provision
from shared.storage.kv import Bucket, Conflict
from testbed.factories import MODEL, route

WITHIN_S = 1.0


@pytest.fixture
def bucket(js):
    return Bucket(js, "routes", Route)


async def test_missing_record_is_none_and_an_empty_bucket_is_empty(bucket):
    assert await bucket.get(MODEL) is None
    assert await bucket.keys() == []
    assert await bucket.all() == {}


async def test_a_record_of_a_bucket_that_is_gone_is_not_taken_for_a_missing_one(js, bucket):
    await bucket.create(MODEL, route())
    await js.delete_key_value("routes")
    for read in (bucket.get, bucket.raw):
        with pytest.raises(NotFoundError):
            await read(MODEL)


async def test_second_create_and_stale_update_conflict_and_change_nothing(bucket):
    revision = await bucket.create(MODEL, route())
    with pytest.raises(Conflict):
        await bucket.create(MODEL, route(epoch=99))
    later = await bucket.update(MODEL, route(epoch=13), revision)
    for stale in (revision, later + 1, 0):
        with pytest.raises(Conflict):
            await bucket.update(MODEL, route(epoch=99), stale)
    assert (await bucket.get(MODEL)).value.epoch == 13


async def test_racing_writers_on_connections_of_their_own_lose_no_update(bucket, nats_server):
    """Eight writers raise the epoch by compare-and-set; the sum is exact only if every round has one winner."""
    await bucket.create(MODEL, route(epoch=0))
    rounds = 12

    async def write():
        client = await nats_server.connect()
        bucket = Bucket(client.jetstream(timeout=10), "routes", Route)
        done = 0
        while done < rounds:
            entry = await bucket.get(MODEL)
            with contextlib.suppress(Conflict):
                await bucket.update(MODEL, route(epoch=entry.value.epoch + 1), entry.revision)
                done += 1
        await client.close()

    await asyncio.gather(*(write() for _ in range(8)))
    assert (await bucket.get(MODEL)).value.epoch == 8 * rounds


class Follower:
    """Follows the routes on a connection of its own and keeps what it was told."""

    def __init__(self, client):
        self.client = client
        self.told = []
        self.changed = asyncio.Event()
        self.snapshots = []

    async def on_snapshot(self, snapshot):
        self.snapshots.append(snapshot)
        self.changed.set()

    async def until_snapshot(self, condition, within_s=5.0):
        async with asyncio.timeout(within_s):
            while not any(condition(snapshot) for snapshot in self.snapshots):
                self.changed.clear()
                await self.changed.wait()

    async def on_change(self, key, value, revision):
        self.told.append((key, value.epoch, revision))
        self.changed.set()

    async def until(self, key, epoch, within_s):
        async with asyncio.timeout(within_s):
            while not any((k, e) == (key, epoch) for k, e, _ in self.told):
                self.changed.clear()
                await self.changed.wait()

    def check(self):
        for key in {key for key, _, _ in self.told}:
            revisions = [revision for other, _, revision in self.told if other == key]
            assert revisions == sorted(set(revisions)), "revisions never go back and none is told twice"


@contextlib.asynccontextmanager
async def following(nats_server, *, again=False):
    """Follow the routes; `again` says that revisions may begin again, because the bucket is restored."""
    client = await nats_server.connect(
        max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet, connect_timeout=2
    )
    follower = Follower(client)
    routes = Bucket(client.jetstream(timeout=5), "routes", Route)
    task = asyncio.create_task(routes.follow(client, follower.on_change, follower.on_snapshot))
    try:
        yield follower
        assert not task.done(), "a follower never stops by itself"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()
        if not again:
            follower.check()


async def _quiet(_error):
    """Log none of the reconnects that the test causes."""


async def test_follower_sees_what_is_there_and_every_change(bucket, nats_server):
    revision = await bucket.create(MODEL, route(epoch=1))
    async with following(nats_server) as follower:
        await follower.until(MODEL, 1, 5)
        for epoch in range(2, 30):
            revision = await bucket.update(MODEL, route(epoch=epoch), revision)
        await follower.until(MODEL, 29, WITHIN_S)
        await bucket.create("other-bot", route(model="other-bot", epoch=1))
        await follower.until("other-bot", 1, WITHIN_S)
        assert [epoch for key, epoch, _ in follower.told if key == MODEL] == list(range(1, 30))


async def test_unreadable_record_does_not_hide_the_others(js, bucket, nats_server):
    raw = await js.key_value("routes")
    await raw.put("broken-bot", b"{not json")
    async with following(nats_server) as follower:
        await bucket.create(MODEL, route(epoch=1))
        await follower.until(MODEL, 1, 5)


async def test_deleted_record_is_no_change_and_may_come_back(js, bucket, nats_server):
    await bucket.create(MODEL, route(epoch=1))
    async with following(nats_server) as follower:
        await follower.until(MODEL, 1, 5)
        await (await js.key_value("routes")).delete(MODEL)
        assert await bucket.get(MODEL) is None
        await bucket.create(MODEL, route(epoch=2))
        await follower.until(MODEL, 2, WITHIN_S)


async def write_when_the_server_is_back(nats_server, epoch):
    """Write with a fresh connection, so that the time is the follower's alone."""
    client = await nats_server.connect(connect_timeout=2)
    try:
        bucket = Bucket(client.jetstream(timeout=5), "routes", Route)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                    entry = await bucket.get(MODEL)
                    await bucket.update(MODEL, route(epoch=epoch), entry.revision)
                    return
    finally:
        await client.close()


async def test_follower_sees_each_change_within_a_second_across_kill_9(bucket, nats_server):
    """The stock watcher stays silent for 8 to 19 s after a restart; this must not, round after round."""
    await bucket.create(MODEL, route(epoch=100))
    async with following(nats_server) as follower:
        await follower.until(MODEL, 100, 5)
        for epoch in range(101, 105):
            nats_server.kill()
            nats_server.start()  # from this thread: the server dies with the one that forked it
            await until_connected(follower.client)
            await write_when_the_server_is_back(nats_server, epoch)
            await follower.until(MODEL, epoch, WITHIN_S)


async def until_connected(client):
    """Wait until the client has noticed the kill and a round trip works again."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                await client.flush(timeout=1)
                return
            await asyncio.sleep(0.02)


async def test_a_bucket_that_was_made_anew_is_followed_though_its_revisions_begin_again(js, bucket, nats_server):
    revision = await bucket.create(MODEL, route(epoch=1))
    for epoch in range(2, 9):
        revision = await bucket.update(MODEL, route(epoch=epoch), revision)
    async with following(nats_server, again=True) as follower:
        await follower.until(MODEL, 8, 5)
        await js.delete_stream("KV_routes")
        await follower.until_snapshot(lambda snapshot: snapshot.identity is None)
        await provision(js)
        lower = await bucket.create(MODEL, route(epoch=5))
        assert lower < revision
        await follower.until(MODEL, 5, 5)
        await bucket.update(MODEL, route(epoch=9), lower)
        await follower.until(MODEL, 9, 5)


async def test_a_bucket_that_was_restored_in_place_is_followed(js, bucket, nats_server):
    """As when the server's files are replaced by older ones: same stream, same time of creation, lower revisions."""
    await bucket.create("other-bot", route(model="other-bot", epoch=1))
    revision = await bucket.create(MODEL, route(epoch=1))
    await bucket.create("zoo-bot", route(model="zoo-bot", epoch=1))
    store, backup = nats_server.folder / "js", nats_server.folder / "backup"
    async with following(nats_server, again=True) as follower:
        nats_server.stop()
        shutil.copytree(store, backup)
        nats_server.start()
        await until_connected(follower.client)
        await write_when_the_server_is_back(nats_server, 2)
        await follower.until(MODEL, 2, 5)
        nats_server.stop()
        shutil.rmtree(store)
        backup.rename(store)
        follower.told.clear()
        nats_server.start()
        await until_connected(follower.client)
        await follower.until(MODEL, 1, 5)
        await write_when_the_server_is_back(nats_server, 7)
        await follower.until(MODEL, 7, WITHIN_S)
        assert (await bucket.get(MODEL)).revision > revision


async def test_a_snapshot_lists_which_records_there_are(js, bucket, nats_server):
    """A deleted record hides none of the others, and an emptied bucket is told as empty."""
    for model in ("a-bot", "b-bot", "c-bot"):
        await bucket.create(model, route(model=model, epoch=1))
    async with following(nats_server) as follower:
        await (await js.key_value("routes")).delete("a-bot")
        await follower.until_snapshot(lambda snapshot: snapshot.keys == {"b-bot", "c-bot"})
        await js.purge_stream("KV_routes")
        await follower.until_snapshot(lambda snapshot: snapshot.identity is not None and not snapshot.keys)
