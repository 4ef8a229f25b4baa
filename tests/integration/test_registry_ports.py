"""One suite per port of the registry, run on the fake and on the real server: a fake may not promise anything else."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.manifests import DeploymentRecord
from contracts.services import EVENTS, INBOX
from contracts.vocabulary import canonical_json, digest_of
from services.registry.adapters.inbox import StreamInbox
from services.registry.adapters.store import StoredArtifacts
from services.registry.domain import versions
from services.registry.domain.record import Input, Release
from services.registry.domain.releases import decide, open_release
from services.registry.domain.versions import ModelRecord
from shared.errors import Permanent
from shared.messaging.bus import CLOCK_SKEW, Bus, Emit, publish_event
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store
from shared.storage.kv import Bucket, Conflict
from testbed.attesters import attester, trust
from tests.kit import fakes_registry as k


@pytest.fixture(params=["fake", "real"])
def records(request):
    """Records of releases and of models in the same bucket."""
    if request.param == "fake":
        kept = {}
        return k.FakeRecords(kept), k.FakeRecords(kept)
    js = request.getfixturevalue("js")
    return Bucket(js, "releases", Release), Bucket(js, "releases", ModelRecord)


@pytest.fixture(params=["fake", "real"])
def inbox(request):
    """An inbox, and how a message gets into it: the sequence that it has there is given back."""
    if request.param == "fake":
        fake = k.FakeInbox()

        async def put_there(event):
            fake.stored[len(fake.stored) + 1] = event
            return len(fake.stored)

        return fake, put_there
    js = request.getfixturevalue("js")

    async def publish(event):
        await publish_event(js, event)
        return (await js.stream_info(INBOX)).state.last_seq

    return StreamInbox(js), publish


async def test_an_inbox_gives_back_what_was_stored_by_its_sequence(inbox):
    reader, put = inbox
    events = [k.event(k.ready(attempt=attempt), f"e{attempt}") for attempt in (1, 2)]
    sequences = [await put(event) for event in events]
    assert [await reader.read(sequence) for sequence in sequences] == events
    assert await reader.read(sequences[-1] + 1) is None


def a_release():
    opened = open_release(k.opened(), cause_id="e0", now=k.START).release
    return decide(opened, Input("e1", k.START, k.merged()), k.START).release


async def test_records_read_back_what_was_written(records):
    releases, models = records
    assert await releases.get("m.r-1") is None
    assert await releases.keys() == []
    revision = await releases.create("m.r-1", a_release())
    entry = await releases.get("m.r-1")
    assert (entry.value, entry.revision) == (a_release(), revision)
    await models.create("m.model", ModelRecord(model="m"))
    assert (await models.get("m.model")).value == ModelRecord(model="m")
    assert await models.keys() == ["m.model", "m.r-1"]


async def test_records_are_under_compare_and_set(records):
    _, models = records
    record = ModelRecord(model="m")
    first = await models.create("m.model", record)
    with pytest.raises(Conflict):
        await models.create("m.model", record)
    second = await models.update("m.model", record.model_copy(update={"next_version": 2}), first)
    with pytest.raises(Conflict):
        await models.update("m.model", record.model_copy(update={"next_version": 9}), first)
    entry = await models.get("m.model")
    assert (entry.value.next_version, entry.revision) == (2, second)
    await models.create("n.model", record)
    await models.update("m.model", record, second)


def stored(store, folder, roots=()):
    """Return a registry's artifacts in a real store, with keys in a folder."""
    return StoredArtifacts(store, attester(folder, "registry"), trust(folder), roots)


@pytest.fixture(params=["fake", "real"])
def artifacts(request):
    """Artifacts, with what a publisher and an import would have put there."""
    name = f"checkpoints/{k.MODEL}/manifests/folder/a.json"
    if request.param == "fake":
        return k.FakeArtifacts()
    store = Store(request.getfixturevalue("settings"))
    for key in store.keys("versions/"):
        store._client.remove_object(bucket_name=store.bucket, object_name=key)
    store.put_manifest(name, name.encode())
    store.put_manifest("bases/tiny/1.json", k.BASE)
    return stored(store, request.getfixturevalue("tmp_path"))


async def test_bases_are_found_by_their_key(artifacts):
    assert await artifacts.find_base("bases/tiny/1.json") == k.BASE
    assert await artifacts.find_base("bases/tiny/2.json") is None


async def test_artifacts_are_what_was_announced_or_refused(artifacts):
    ref = k.ready().weights.ref
    await artifacts.verify(ref)
    for changed, code in (
        ({"uri": ref.uri + "x"}, "artifact_not_found"),
        ({"digest": digest_of(b"other")}, "digest_mismatch"),
        ({"size_bytes": ref.size_bytes + 1}, "digest_mismatch"),
    ):
        with pytest.raises(Permanent) as caught:
            await artifacts.verify(ref.model_copy(update=changed))
        assert caught.value.code == code


async def test_the_first_manifest_of_a_version_stays(artifacts):
    release = a_release()
    for i, fact in enumerate((k.quantised("bf16"), k.quantised("int8"))):
        release = decide(release, Input(f"q{i}", k.START, fact), k.START).release
    first = versions.plan_manifest(release, k.START)
    ref = await artifacts.put_version(first)
    assert ref.uri == "s3://slipway/versions/support-bot/1/manifest.json"
    assert ref.digest == digest_of(canonical_json(first.model_dump(mode="json")))
    second = versions.plan_manifest(release, k.START + timedelta(hours=1))
    assert second != first
    assert await artifacts.put_version(second) == ref
    assert await artifacts.find_figures(k.MODEL, 1) == first.evals
    assert await artifacts.find_figures(k.MODEL, 99) is None


async def test_sizes_are_those_of_checkpoints_and_of_what_versions_have_each_once(artifacts):
    checkpoint = len(f"checkpoints/{k.MODEL}/manifests/folder/a.json")
    before = await artifacts.sizes(k.MODEL)
    assert sum(before.values()) >= checkpoint
    release = a_release()
    for i, fact in enumerate((k.quantised("bf16"), k.quantised("int8"))):
        release = decide(release, Input(f"q{i}", k.START, fact), k.START).release
    manifest = versions.plan_manifest(release, k.START)
    await artifacts.put_version(manifest)
    await artifacts.put_version(manifest.model_copy(update={"version": 2}))
    added = sum((await artifacts.sizes(k.MODEL)).values()) - sum(before.values())
    assert added == sum(each.weights_bytes for each in manifest.variants) > 0
    assert await artifacts.sizes("another-bot") == {}


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000])
async def test_a_manifest_that_cannot_be_read_counts_as_nothing(settings, tmp_path, data):
    store, model = Store(settings), f"unreadable-{len(data)}"
    store.put_manifest(f"versions/{model}/1/manifest.json", data)
    store.put_manifest(f"checkpoints/{model}/manifests/folder/a.json", b"12345")
    assert sum((await stored(store, tmp_path).sizes(model)).values()) == 5


async def test_deployment_records_are_only_ever_added(artifacts):
    record = DeploymentRecord(
        target=k.target("int8"), epoch=1, cause="promote", cause_id="c", weight_ratio=1.0, deployed_at=k.START
    )
    await artifacts.put_deployment(record)
    await artifacts.put_deployment(record.model_copy(update={"cause": "restore"}))
    key = "versions/support-bot/1/deployments/1.json"
    if isinstance(artifacts, StoredArtifacts):
        kept = DeploymentRecord.model_validate_json(artifacts._store.find(key))
    else:
        kept = artifacts.deployments[key]
    assert kept == record


async def test_a_deployment_under_a_number_that_was_used_before_an_epoch_reset_is_recorded_too(artifacts):
    old = DeploymentRecord(
        target=k.target("int8"), epoch=7, cause="promote", cause_id="old", weight_ratio=1.0, deployed_at=k.START
    )
    new = old.model_copy(update={"cause_id": "new", "deployed_at": k.START + timedelta(days=1)})
    for record in (old, new, new, old):
        await artifacts.put_deployment(record)
    prefix = "versions/support-bot/1/deployments/7"
    if isinstance(artifacts, StoredArtifacts):
        store = artifacts._store
        kept = [DeploymentRecord.model_validate_json(store.find(key)) for key in store.keys(prefix)]
    else:
        kept = [record for key, record in artifacts.deployments.items() if key.startswith(prefix)]
    assert sorted(kept, key=lambda record: record.deployed_at) == [old, new]


@pytest.fixture(params=["fake", "real"])
def publisher(request):
    """A publisher, to be entered."""
    if request.param == "fake":
        return contextlib.nullcontext(k.FakePublisher())
    request.getfixturevalue("js")
    return connected_publisher(request.getfixturevalue("settings"))


@contextlib.asynccontextmanager
async def connected_publisher(settings):
    bus = Bus(settings, "registry", SystemClock())
    await bus.connect()
    try:
        yield bus
    finally:
        await bus.broker.stop()


async def test_what_was_published_is_known_for_ever_and_nothing_else_is(publisher):
    now = SystemClock().now()
    target = k.target("int8")

    def emit(key, model=k.MODEL):
        fact = f.StageReleased(release_id=k.RELEASE, candidate=target)
        return Emit(fact, key=key, model=model, correlation_id=k.RELEASE, environment="production", cause_id="c")

    async with publisher as logged:
        assert not await logged.was_published(emit("a"), now)
        for key in ("a", "b", "c"):
            await logged.publish(emit(key))
            assert await logged.was_published(emit(key), now)
        await logged.publish(emit("d", "other-bot"))
        assert [await logged.was_published(emit(key), now) for key in ("a", "b", "c", "d")] == [
            True,
            True,
            True,
            False,
        ]
        assert await logged.was_published(emit("d", "other-bot"), now)


async def test_a_look_into_a_long_log_begins_when_the_fact_was_decided(js, settings):
    target, old = k.target("int8"), SystemClock().now() - timedelta(days=30)

    def emit(key):
        fact = f.StageReleased(release_id=k.RELEASE, candidate=target)
        return Emit(fact, key=key, model=k.MODEL, correlation_id=k.RELEASE, environment="production", cause_id="c")

    async with connected_publisher(settings) as publisher:
        subject = publisher.envelope(emit("x")).nats_subject
        await asyncio.gather(*(js.publish(subject, b"{}", headers={"Nats-Msg-Id": f"before-{n}"}) for n in range(2000)))
        decided_at = (await js.get_last_msg(EVENTS, subject)).time + timedelta(microseconds=1) + CLOCK_SKEW
        await publisher.publish(emit("a"))
        await publisher.publish(emit("b"))
        before = publisher.client.stats["out_msgs"]
        assert [await publisher.was_published(emit(key), decided_at) for key in ("a", "b", "never")] == [
            True,
            True,
            False,
        ]
        assert 3 <= publisher.client.stats["out_msgs"] - before <= 12
        assert await publisher.was_published(emit("a"), old), "decided long ago, published only now"
        assert not await publisher.was_published(emit("a"), decided_at + timedelta(hours=1))


async def test_folders_on_disk_are_looked_at_inside_the_allowed_roots_only(settings, tmp_path):
    root = tmp_path / "allowed"
    for name in ("good", "pickled", "leading-out"):
        (root / name).mkdir(parents=True)
    (tmp_path / "secret.json").write_bytes(b"{}")
    (root / "good" / "adapter_model.safetensors").write_bytes(b"a")
    (root / "pickled" / "adapter_model.bin").write_bytes(b"a")
    (root / "leading-out" / "adapter_model.safetensors").write_bytes(b"a")
    (root / "leading-out" / "adapter_config.json").symlink_to(tmp_path / "secret.json")
    (root / "link").symlink_to(tmp_path)
    artifacts = stored(Store(settings), tmp_path, (root,))

    def at(path):
        return k.ready().weights.ref.model_copy(update={"uri": path.as_uri()})

    await artifacts.verify(at(root / "good"))
    for given, code in (
        (at(root / "leading-out"), "uri_not_allowed"),
        (at(root / "link"), "uri_not_allowed"),
        (at(tmp_path), "uri_not_allowed"),
        (at(root / "none"), "artifact_not_found"),
        (at(root / "good" / "adapter_model.safetensors"), "artifact_not_found"),
        (at(root / "pickled"), "pickle_refused"),
    ):
        with pytest.raises(Permanent) as caught:
            await artifacts.verify(given)
        assert caught.value.code == code


async def test_the_registry_asks_no_hub(settings, tmp_path):
    """What a hub holds is verified where it is downloaded, by the merger."""
    await stored(Store(settings), tmp_path).verify(
        k.ready().weights.ref.model_copy(update={"uri": f"hf://acme/x@{'0' * 40}"})
    )
