"""A sweep of a real store with real records: what is planned, what a worker finds in between and keeps, what is removed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.connection import StackAddress
from clients.cli.gc.roots import names_on_bus
from clients.cli.gc.store import StoredObjects
from clients.cli.gc.sweeping import Sweeper, Swept
from contracts.garbage import PLAN, PREFIX
from contracts.manifests import FolderManifest
from contracts.vocabulary import canonical_json
from deploy.local.state import ADMIN
from shared.errors import Transient
from shared.messaging.provision import provision
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.object_lock import LockingStore
from shared.storage.objects import Retention
from testbed.servers import NatsServer, S3Server, running
from tests.kit.conformance_sweep import SweepStoreConformance

NEVER_YOUNG, WAIT = timedelta(seconds=-3600), timedelta(seconds=120)


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


def test_what_no_release_needs_is_removed_and_what_one_finds_meanwhile_stays(servers, stack):
    merger = as_service(servers, "merger")
    needed, ended, reused, lost = (output(merger, name) for name in "abcd")
    blobs = {key: files_of(merger, key) for key in (needed, ended, reused, lost)}
    record(servers, "tiny.r-1", {"merged": {"uri": f"s3://slipway/{needed}"}, "outbox": []})
    record(servers, "tiny.r-2", {"merged": {"uri": f"s3://slipway/{ended}"}, "finished": {"outcome": "rejected"}})
    store = StoredObjects(stack.connection)
    sweeper = Sweeper(store, lambda: asyncio.run(names_on_bus(stack, datetime.now(UTC))), NEVER_YOUNG)
    now = datetime.now(UTC) + timedelta(seconds=2)
    assert set(sweeper.unreferenced(now)) == {ended, reused, lost, *blobs[ended], *blobs[reused], *blobs[lost]}
    list(sweeper.plan_steps(now, WAIT))

    another = as_service(servers, "merger")  # its own look at the plan
    assert another.find_made(reused) is not None
    locking = LockingStore(servers[1].settings("registry"))
    locking.retain(
        blobs[lost][0], locking.latest_version(blobs[lost][0]), Retention("governance", now + timedelta(days=1))
    )
    begun = sweeper.sweep_steps(sweeper.find_plan(), swept := Swept())
    for _ in range(4):
        next(begun)
    with pytest.raises(Transient, match="is being removed"):
        as_service(servers, "merger").find_made(lost)
    list(begun)

    assert set(swept.removed) == {ended, *blobs[ended], lost}
    assert swept.locked == blobs[lost]
    assert set(swept.kept) == {reused, *blobs[reused]}
    for key in (needed, reused):
        assert all(store.find(blob) is not None for blob in (key, *blobs[key]))
    assert [key for key in store.listing() if key.startswith(PREFIX)] == []


def test_services_read_plans_and_write_claims_and_nothing_else_of_a_sweep(servers):
    for name in ("merger", "quantiser", "benchmarker", "registry", "monitor"):
        store = as_service(servers, name)
        assert store.find(PLAN) is None
        store.create(f"gc/decisions/x/{name}", b"kept")
        with pytest.raises(Exception, match="does not permit"):
            store.create(PLAN, b"{}")


class TestStoredObjects(SweepStoreConformance):
    @pytest.fixture
    def store(self, stack):
        store = StoredObjects(stack.connection)
        for key in ("sources/one", "sources/one-more", "gc/decisions/x/sources/one"):
            store.erase(key)
        return store

    @pytest.fixture
    def lock(self, store):
        def lock(key):
            until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
            store.retain(key, store.latest_version(key), Retention("governance", until))

        return lock
