"""A sweep of a real store with real records: what is planned, what a worker finds in between and keeps, what is removed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.connection import StackAddress
from clients.cli.gc.roots import names_on_bus
from clients.cli.gc.store import StoredObjects
from clients.cli.gc.sweeping import Sweeper, Swept
from clients.cli.reading import read_messages
from contracts import facts as f
from contracts.envelope import nats_subject, plain
from contracts.garbage import PLAN, PREFIX
from contracts.manifests import FolderManifest
from contracts.services import stream_of
from contracts.vocabulary import canonical_json
from decisions.sealed_log.garbage import decision_key
from deploy.local.state import ADMIN
from shared.errors import Transient
from shared.messaging.provision import provision
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.object_lock import LockingStore
from shared.storage.objects import Retention
from testbed import factories
from testbed.servers import NatsServer, S3Server, running
from tests.kit.command import run_command
from tests.kit.conformance_sweep import SweepStoreConformance
from tests.kit.fakes_registry import FixedClock

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
    sweeper = Sweeper(store, lambda: asyncio.run(names_on_bus(stack, datetime.now(UTC))), NEVER_YOUNG, lambda: now)
    now = datetime.now(UTC) + timedelta(seconds=2)
    assert set(sweeper.unreferenced(now)) == {ended, reused, lost, *blobs[ended], *blobs[reused], *blobs[lost]}
    list(sweeper.plan_steps(WAIT))

    another = as_service(servers, "merger")  # its own look at the plan
    assert another.find_made(reused) is not None
    locking = LockingStore(stack.connection)
    locking.retain(
        blobs[lost][0], locking.latest_version(blobs[lost][0]), Retention("governance", now + timedelta(days=1))
    )
    plan = sweeper.find_plan()
    begun = sweeper.sweep_steps(plan, swept := Swept())
    while store.find(decision_key(plan.id, lost)) is None:
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


def test_the_command_plans_waits_and_removes_and_both_are_in_the_audit_log(servers, stack, monkeypatch):
    key = output(as_service(servers, "merger"), "e")
    blob = files_of(StoredObjects(stack.connection), key)[0]
    variables = as_variables(stack)
    now = [datetime.now(UTC) + timedelta(days=8)]
    monkeypatch.setattr("clients.cli.commands.gc.SystemClock", lambda: FixedClock(now[0]))

    def gc(*options: str) -> tuple[int, str, str]:
        return run_command(variables, "gc", *options)

    status, out, err = gc("--json")
    assert (status, err) == (0, "")
    assert {key, blob} <= set(json.loads(out)["unreferenced"])
    assert json.loads(out)["plan"] is None
    assert [gc("--yes", *short)[0] for short in (("--wait", "1m"), ("--older-than", "59m"), ("--dry-run",))] == [2] * 3
    assert audited(servers) == []

    status, out, _ = gc("--yes", "--wait", "2m")
    plan = Sweeper(StoredObjects(stack.connection), set, WAIT, lambda: now[0]).find_plan()
    assert status == 0
    assert f"planned to remove {len(plan.objects)} objects" in out
    assert {key, blob} <= set(plan.objects)
    status, _, err = gc("--yes")
    assert status == 1
    assert f"the plan {plan.id} with {len(plan.objects)} objects is carried out from" in err
    assert f"the plan {plan.id} waits until" in gc()[1]
    assert StoredObjects(stack.connection).find(key) is not None

    now[0] += timedelta(minutes=3)
    status, out, _ = gc("--yes", "--json")
    swept = json.loads(out)
    assert status == 0
    assert {key, blob} <= set(swept["removed"])
    assert StoredObjects(stack.connection).find(key) is None
    assert swept["overtaken"] is False
    size = sum(plan.objects.values())
    assert audited(servers) == [
        ("gc.planned", plan.id, {"objects": len(plan.objects), "bytes": size}),
        ("gc.swept", plan.id, {"planned": len(plan.objects)}),
    ]


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
