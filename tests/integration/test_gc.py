"""A sweep of a real store with real records: what is hidden, what is shown again, what is erased."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.connection import StackAddress
from clients.cli.gc.roots import names_on_bus
from clients.cli.gc.store import StoredObjects, erase
from clients.cli.gc.sweeping import Sweeper
from clients.cli.reading import read_messages
from contracts import facts as f
from contracts.envelope import nats_subject, plain
from contracts.manifests import FolderManifest
from contracts.services import stream_of
from contracts.vocabulary import canonical_json
from deploy.local.state import ADMIN
from shared.messaging.provision import provision
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.object_lock import LockingStore
from shared.storage.objects import Retention
from testbed import factories
from testbed.servers import NatsServer, S3Server, running
from tests.kit.command import run_command
from tests.kit.conformance_sweep import SweepStoreConformance
from tests.kit.fakes_registry import FixedClock

GRACE = timedelta(hours=1)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gc")
    with running(NatsServer(folder)) as nats, running(S3Server(folder)) as s3:

        async def prepare():
            client = await nats.connect()
            await provision(client.jetstream(timeout=10))
            await client.close()

        asyncio.run(prepare())
        yield nats, s3


@pytest.fixture(scope="module")
def stack(servers):
    nats, s3 = servers
    bus = nats.settings(ADMIN).model_dump(include={"nats_url", "nats_credentials", "nats_ca"})
    return StackAddress(s3.settings().model_copy(update=bus), None, "test")


def as_service(servers, name) -> Store:
    return Store(servers[1].settings(name))


def output(store: Store, name: str) -> str:
    """Commit an output as a worker does; return the key of its manifest."""
    entry = store.put_blob(memoryview(f"weights of {name}".encode()), "model.safetensors")
    key = manifest_key("merged", "sha256:" + name * 64)
    store.commit(key, FolderManifest(files=(entry,)))
    return key


def files_of(store: Store, key: str) -> list[str]:
    return [blob_key(file["digest"]) for file in json.loads(store.find(key) or b"{}")["files"]]


def record(servers, key, value):
    async def write():
        client = await servers[0].connect()
        await (await client.jetstream().key_value("releases")).put(key, canonical_json(value))
        await client.close()

    asyncio.run(write())


def test_what_no_release_needs_is_hidden_and_erased_and_what_one_needs_again_is_shown(servers, stack):
    merger = as_service(servers, "merger")
    needed, ended, reused, lost = (output(merger, name) for name in "abcd")
    blobs = {key: files_of(merger, key) for key in (needed, ended, reused, lost)}
    record(servers, "tiny.r-1", {"merged": {"uri": f"s3://slipway/{needed}"}, "outbox": []})
    record(servers, "tiny.r-2", {"merged": {"uri": f"s3://slipway/{ended}"}, "finished": {"outcome": "rejected"}})
    store, now = StoredObjects(stack.connection), [datetime.now(UTC) + GRACE + timedelta(seconds=2)]
    sweeper = Sweeper(store, lambda: asyncio.run(names_on_bus(stack, datetime.now(UTC))), GRACE, lambda: now[0])
    unneeded = {ended, reused, lost, *blobs[ended], *blobs[reused], *blobs[lost]}
    assert set(sweeper.unreferenced()) == unneeded
    assert set(sweeper.sweep().hidden) == unneeded
    assert merger.find(reused) is None

    assert output(merger, "b") == ended, "it is made again"
    assert files_of(merger, ended) == blobs[ended]
    record(servers, "tiny.r-3", {"merged": {"uri": f"s3://slipway/{reused}"}, "outbox": []})
    locking = LockingStore(stack.connection)
    versions = [each for each in locking.versions(blobs[lost][0]) if not each.marker]
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    locking.retain(blobs[lost][0], versions[0].version_id, Retention("governance", until))
    now[0] += GRACE + timedelta(seconds=2)
    swept = sweeper.sweep()

    assert set(swept.shown) == {reused, *blobs[reused]}
    assert set(swept.erased) == {lost}
    assert swept.locked == blobs[lost]
    for key in (needed, reused):
        assert all(merger.find(blob) is not None for blob in (key, *blobs[key]))


def test_what_the_event_of_a_stage_names_is_held_in_production_and_in_staging(servers, stack):
    digests = {"production": "1" * 64, "staging": "2" * 64}

    async def publish():
        client = await servers[0].connect()
        for environment, digest in digests.items():
            event = factories.event(f.StageRequested, environment=environment)
            data = {**plain(event), "note": digest}
            await client.jetstream().publish(event.nats_subject, canonical_json(data))
        await client.close()

    begun = datetime.now(UTC) - timedelta(seconds=1)
    asyncio.run(publish())
    assert set(digests.values()) <= asyncio.run(names_on_bus(stack, begun))


def audited(servers) -> list[tuple[str, str, dict]]:
    """Return action, plan and details of what `slipway gc` published, in its order."""

    async def read():
        client = await servers[0].connect()
        subject = nats_subject(f.AuditRecorded.TYPE, "*", "*")
        messages = await read_messages(client.jetstream(), stream_of(f.AuditRecorded), subject)
        await client.close()
        return [json.loads(message.data)["data"] for message in messages]

    return [(data["action"], data["about"], data["details"]) for data in asyncio.run(read())]


def as_variables(stack) -> dict[str, str]:
    names = ("nats_url", "nats_credentials", "nats_ca", "s3_endpoint", "s3_credentials", "s3_ca")
    return {f"SLIPWAY_{name.upper()}": str(getattr(stack.connection, name)) for name in names}


def test_the_command_hides_then_erases_and_both_are_in_the_audit_log(servers, stack, monkeypatch):
    key = output(as_service(servers, "merger"), "e")
    blob = files_of(StoredObjects(stack.connection), key)[0]
    variables = as_variables(stack)
    now = [datetime.now(UTC) + timedelta(days=15)]
    monkeypatch.setattr("clients.cli.commands.installation.gc.SystemClock", lambda: FixedClock(now[0]))

    def gc(*options: str) -> tuple[int, str, str]:
        return run_command(variables, "gc", *options)

    status, out, err = gc("--json")
    assert (status, err) == (0, "")
    assert {key, blob} <= set(json.loads(out)["unreferenced"])
    assert gc("--yes", "--grace", "59m")[0] == 2
    assert audited(servers) == []

    status, out, _ = gc("--yes", "--json")
    assert status == 0
    assert {key, blob} <= set(json.loads(out)["hidden"])
    assert "nothing refers to 0 objects" in gc()[1]
    now[0] += timedelta(days=8)
    status, out, _ = gc("--yes", "--json")
    assert status == 0
    assert {key, blob} <= set(json.loads(out)["erased"])
    assert key not in StoredObjects(stack.connection).listing()
    assert audited(servers) == [("gc.swept", "slipway", {"grace_s": 7 * 86400.0})] * 2


class TestStoredObjects(SweepStoreConformance):
    @pytest.fixture
    def store(self, stack):
        store = StoredObjects(stack.connection)
        listed = store.listing()
        for key in ("sources/one", "sources/one-more"):
            if key in listed:
                erase(store, key, listed[key])
        return store

    @pytest.fixture
    def lock(self, store):
        def lock(key):
            until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
            store.retain(key, store.latest_version(key), Retention("governance", until))

        return lock
