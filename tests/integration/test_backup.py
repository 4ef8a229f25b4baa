"""A backup of a real bus and store, restored into others: sequences, positions, versions, locks, interruption, refusals."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.backup.folder import Folder
from clients.cli.backup.objects import SourceStore
from clients.cli.backup.restoring import choose, put_back
from clients.cli.backup.taking import take
from clients.cli.connection import StackAddress
from clients.cli.gc.store import StoredObjects
from clients.cli.output import CommandError
from contracts.services import EVENTS
from deploy.local.state import ADMIN
from shared.messaging.provision import provision
from shared.runtime.clock import SystemClock
from shared.storage.objects import Retention
from testbed.servers import NatsServer, S3Server, running

ALERT, CONSUMER = "slipway.alert.raised.v1.tiny.monitor", "rollback-controller__alert-raised-v1"
DAMAGED = "blobs/sha256/ab/" + "ab" * 32
UNTIL = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)


class Installation:
    """A bus and a store without services."""

    def __init__(self, folder):
        folder.mkdir()
        self.nats, self.s3 = NatsServer(folder), S3Server(folder)

    @property
    def stack(self) -> StackAddress:
        store = self.s3.settings().model_dump(include={"s3_endpoint", "s3_credentials", "s3_ca"})
        bus = self.nats.settings(ADMIN).model_dump(include={"nats_url", "nats_credentials", "nats_ca"})
        return StackAddress(self.s3.settings().model_copy(update={**store, **bus}), None, "test")

    @property
    def store(self) -> SourceStore:
        return SourceStore(self.stack.connection)

    def take(self, location):
        return asyncio.run(take(self.stack, location, SystemClock()))

    def restore(self, location):
        return asyncio.run(put_back(self.stack, choose(location, None, None), SystemClock()))

    def on_bus(self, work):
        async def run():
            client = await self.nats.connect()
            try:
                return await work(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(run())


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backup")
    old, new = Installation(folder / "old"), Installation(folder / "new")
    with running(old.nats), running(old.s3), running(new.nats), running(new.s3):
        yield old, new


@pytest.fixture(scope="module")
def old(servers):
    """An installation with 30 alerts, of which a consumer acknowledged 20, and objects of every kind."""

    async def fill(js):
        await provision(js)
        for number in range(30):
            await js.publish(ALERT, str(number).encode())
        await js.purge_stream(EVENTS, seq=6)  # sequences do not begin at 1
        reading = await js.pull_subscribe_bind(CONSUMER, stream=EVENTS)
        for message in await reading.fetch(15):
            await message.ack_sync()
        record = {"next_version": 3}
        await (await js.key_value("releases")).put("tiny.model", json.dumps(record).encode())
        await (await js.key_value("audit")).put("tail", json.dumps({"segment": 2}).encode())

    servers[0].on_bus(fill)
    store = servers[0].store
    store.create("versions/tiny/2/manifest.json", b"two", Retention("governance", UNTIL))
    store.create("versions/tiny/3/manifest.json", b"reserved later")
    store.create("audit/000001.jsonl", b"sealed")
    store.create("audit/000002.jsonl", b"sealed later")
    store.create("manifests/merged/x.json", b"first")
    store.append("manifests/merged/x.json", 6, [memoryview(b"second")])
    store.create("manifests/merged/hidden.json", b"hidden")
    StoredObjects(servers[0].stack.connection).hide("manifests/merged/hidden.json")
    store.append("audit/000001.jsonl", 5, [memoryview(b"other")])
    store.create(DAMAGED, b"not that")
    store.put_blob(memoryview(bytes(range(256)) * 200_000), "weights")
    return servers[0]


@pytest.fixture(scope="module")
def location(old, tmp_path_factory):
    location = Folder(tmp_path_factory.mktemp("location"))
    old.take(location)
    return location


def test_a_second_backup_copies_no_object_again_and_names_what_is_damaged(old, location):
    taken = old.take(location)
    assert (taken.new_bytes, taken.manifest.damaged) == (0, (DAMAGED,))


class FullAtTheEnd(Folder):
    """A folder whose disk is full when the manifest is written."""

    def commit(self, _name, _manifest):
        raise OSError("no space left")


def test_what_was_not_whole_when_it_was_interrupted_is_no_backup(old, tmp_path):
    location = Folder(tmp_path / "interrupted")
    with pytest.raises(OSError, match="no space"):
        old.take(FullAtTheEnd(location.path))
    assert location.names() == []
    assert old.take(location).new_bytes == 0


def test_everything_is_there_again_with_its_sequences_versions_and_locks(old, servers, location):
    new = servers[1]
    new.restore(location)

    async def read(js):
        events, consumer = (await js.stream_info(EVENTS)).state, await js.consumer_info(EVENTS, CONSUMER)
        record = await (await js.key_value("releases")).get("tiny.model")
        return events, consumer, record.revision, (await js.get_msg(EVENTS, 21)).data

    events, consumer, revision, message = new.on_bus(read)
    assert (events.first_seq, events.last_seq, message, revision) == (6, 30, b"20", 1)
    assert (consumer.ack_floor.stream_seq, consumer.num_pending) == (20, 10)

    theirs, ours = old.store, new.store
    assert ours.find("versions/tiny/2/manifest.json") == b"two"
    assert ours.find("versions/tiny/3/manifest.json") is None
    assert (ours.find("audit/000001.jsonl"), ours.find("audit/000002.jsonl")) == (b"sealed", None)
    assert ours.find("manifests/merged/x.json") == b"second"
    version = ours.latest_version("versions/tiny/2/manifest.json")
    assert ours.retention_of("versions/tiny/2/manifest.json", version) == Retention("governance", UNTIL)
    (weights,) = [each.size for each in ours.versions("blobs/")]
    assert weights == 256 * 200_000
    assert {each.key for each in ours.versions("")} == {
        each.key
        for each in theirs.versions("")
        if each.key
        not in ("versions/tiny/3/manifest.json", "audit/000002.jsonl", "manifests/merged/hidden.json", DAMAGED)
    }


def test_a_position_is_that_of_before_the_records_were_copied(old, location, tmp_path):
    """What was acknowledged while the backup was taken is delivered again: its records may have been copied before."""
    chosen = choose(location, None, None)
    (position,) = [each for each in chosen.manifest.positions if each.consumer == CONSUMER]
    assert position.acknowledged == 20


def test_an_installation_that_holds_something_is_refused_and_says_what(old, location):
    with pytest.raises(CommandError, match=r"not empty.*the bucket audit has 1 messages up to sequence 1"):
        old.restore(location)
