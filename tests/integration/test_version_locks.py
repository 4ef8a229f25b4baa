"""Promoted versions under lock on a real store: what is locked, what others can do to it, and what becomes of that."""

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from minio.error import S3Error

from contracts.facts import TrafficRequested
from contracts.manifests import FileEntry, LockedObject, VersionLock
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import ArtifactRef, Deployable, ServingSettings, Target
from services.registry.adapters.locks import StoredLocks
from services.registry.adapters.retentions import Retentions
from services.registry.adapters.store import StoredArtifacts
from services.registry.domain.locks import ModelLocks
from services.registry.settings import RegistrySettings
from services.registry.version_locks import VersionLocks, locks_key
from services.server_manager.adapters.artifact_cache import ArtifactCache
from services.server_manager.adapters.load_check import LoadCheck
from shared.errors import Permanent
from shared.messaging.records import RecordStore
from shared.provenance.verification import Verification
from shared.storage.blobs import Store, blob_key, manifest_bytes
from shared.storage.credentials import read_credential
from shared.storage.held_out import erase_text
from shared.storage.object_lock import LockingStore, lock_key, pin_version, read_locks
from testbed.attesters import attester, trust
from testbed.released import release
from testbed.servers import S3Server
from tests.kit.records import MemoryPublisher, MemoryRecords, no_wait


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A store with one more identity that may do everything, past governance too: no installation has it."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    store = server.keys.store
    config = json.loads(store.server_config.read_text())
    key = read_credential(store.credential("provisioner")).model_copy(update={"name": "root", "access_key": "root-1"})
    credential = {"accessKey": key.access_key, "secretKey": key.secret_key.get_secret_value()}
    config["identities"].append({"name": "root", "credentials": [credential], "actions": ["Admin"]})
    store.server_config.write_text(json.dumps(config))
    store.credential("root").write_text(key.text())
    server.start()
    yield server
    server.discard()


@pytest.fixture
def promoted(server, tmp_path, request):
    """A version of a model of the test's own, as an administrator, the registry and server-manager see it."""
    admin = Store(server.settings())
    model = f"bot-{abs(hash(request.node.name)) % 10**8}"
    released = release(admin, tmp_path, model=model)
    variant = next(each for each in released.manifest.variants if each.variant == "int8")
    target = Target(model=model, version=2, variant="int8")
    deployable = Deployable(target=target, manifest=variant.manifest, weights_bytes=1)
    return SimpleNamespace(
        admin=admin,
        registry=LockingStore(server.settings("registry")),
        reader=Store(server.settings("server-manager")),
        root=Store(server.settings("root")),
        folder=tmp_path,
        released=released,
        model=model,
        served=deployable,
    )


class Clock:
    """The time of the machine, shifted."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self):
        return datetime.now(UTC) + self.shift

    def monotonic(self):
        return self.now().timestamp()


class Registry:
    """A registry's locks, with its records in memory."""

    def __init__(self, store, route=None, owner="a", records=None, **settings) -> None:
        self.clock = Clock()
        self.settings = RegistrySettings(**settings)
        self.objects = StoredLocks(store, self.settings, self.clock)
        self.publisher = MemoryPublisher()
        self.memory = records or MemoryRecords(ModelLocks)
        self.records = RecordStore("releases", self.memory, self.publisher, service="registry", sleep=no_wait)
        self.route = route
        self.locks = VersionLocks(self.objects, self.records, self, self.settings, owner=owner, clock=self.clock)

    async def get(self, _model):
        return None if self.route is None else SimpleNamespace(value=self.route)

    async def record(self, model):
        return await self.records.read(locks_key(model))

    def alerts(self):
        return [(emit.fact.TYPE.split(".")[2], emit.fact.message) for emit in self.publisher.log]


def route_of(deployable, **changes):
    served = ServedTarget(**dict(deployable), endpoints=("127.0.0.1:1",))
    return Route(**{"model": deployable.target.model, "epoch": 1, "active": served, **changes})


def base_of(promoted):
    ref = promoted.admin.ref_to(promoted.admin.key_of(promoted.released.manifest.base.uri))
    return Deployable(target=Target(model=promoted.model, version=0, variant="bf16"), manifest=ref, weights_bytes=1)


def lock(promoted, **settings):
    return asyncio.run(Registry(promoted.registry, **settings).objects.lock([promoted.served]))


def mask(store, key):
    store._client.remove_object(bucket_name=store.bucket, object_name=key)


def replace(store, key, data=b"another"):
    store._client.write(store.bucket, key, memoryview(data))


def served_blob(promoted):
    return promoted.released.variants["int8"].files[0]


def remove_version(store, key, version, *, bypass=False):
    headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
    store._client._execute("DELETE", store.bucket, key, query_params={"versionId": version}, headers=headers)


def test_what_serves_and_proves_a_version_is_locked_and_texts_that_can_be_erased_are_not(promoted):
    kept = lock(promoted)
    assert (kept.version, kept.reason) == (2, "")
    pins = read_locks(promoted.reader, promoted.model, 2).pins
    registry, manifest = promoted.registry, promoted.released.manifest
    prefix = f"versions/{promoted.model}/2/"
    assert {key for key in pins if key.startswith(prefix)} == set(promoted.admin.keys(prefix))
    expected = {
        *(blob_key(file.digest) for file in promoted.released.variants["int8"].files),
        *(registry.key_of(each.manifest.uri) for each in manifest.variants),
        registry.key_of(manifest.merged.uri),
        registry.key_of(manifest.weights.ref.uri),
        registry.key_of(manifest.base.uri),
    }
    assert expected <= set(pins)
    for step in ("attestations/merge/", "attestations/quantise/", "attestations/benchmark/", "manifests/benchmark/"):
        assert any(key.startswith(step) for key in pins), step
    held_out = [each.held_out_text for each in promoted.released.variants.values()]
    assert not {blob_key(each.digest) for each in held_out} & set(pins)
    for key, versions in pins.items():
        until = registry.retention_of(key, versions[0]).until
        assert timedelta(days=29) < until - datetime.now(UTC) <= timedelta(days=30), key
    assert set(erase_text(registry, promoted.model, 2, "held-out")) == {each.digest for each in held_out}
    assert all(registry.versions(blob_key(each.digest)) == [] for each in held_out)
    assert lock(promoted).objects == kept.objects, "once is enough"
    assert read_locks(promoted.reader, promoted.model, 2).last == 1


def test_nobody_removes_what_is_locked_and_only_a_right_that_nobody_has_lifts_governance(promoted):
    lock(promoted)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    for store in (promoted.admin, promoted.registry):
        for bypass in (False, True):
            with pytest.raises(S3Error, match="AccessDenied"):
                remove_version(store, key, version, bypass=bypass)
    with pytest.raises(S3Error, match="AccessDenied"):
        remove_version(promoted.root, key, version)
    remove_version(promoted.root, key, version, bypass=True)
    assert promoted.admin.find(key) is None


def test_in_compliance_mode_not_even_the_root_of_the_store_removes_it_before_its_end(promoted):
    lock(promoted, lock_mode="compliance", lock_days=3 / 86400)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    until = promoted.registry.retention_of(key, version).until
    for store in (promoted.admin, promoted.root):
        with pytest.raises(S3Error, match="AccessDenied"):
            remove_version(store, key, version, bypass=True)
    assert promoted.admin.find(key) is not None
    while datetime.now(UTC) < until + timedelta(seconds=1):
        asyncio.run(asyncio.sleep(0.2))
    remove_version(promoted.admin, key, version)
    assert promoted.admin.find(key) is None


def test_what_is_put_over_a_locked_object_changes_nothing_that_is_served_or_proven(promoted, tmp_path):
    lock(promoted)
    keys = read_locks(promoted.reader, promoted.model, 2).pins
    assert len(keys) > 15
    for number, key in enumerate(keys):
        (mask if number % 2 else replace)(promoted.admin, key)
    checker = LoadCheck(promoted.reader, trust(promoted.folder), tmp_path / "repository")
    (tmp_path / "repository").mkdir()
    cache = ArtifactCache(promoted.reader, tmp_path / "cache", check=checker)
    folder = asyncio.run(cache.materialise(promoted.served))
    assert {path.name for path in folder.iterdir()} == {file.path for file in promoted.released.variants["int8"].files}
    pinned = pin_version(promoted.admin, promoted.model, 2)
    findings = Verification(pinned, trust(promoted.folder).keys()).version(promoted.model, 2, "int8")
    assert [each for each in findings if each.verdict == "failed"] == []


async def test_what_lies_over_a_locked_object_is_alerted_removed_and_resolved(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    assert registry.alerts() == []
    blob, manifest = blob_key(served_blob(promoted).digest), f"versions/{promoted.model}/2/manifest.json"
    record = lock_key(promoted.model, 2, 1)
    mask(promoted.admin, blob)
    replace(promoted.admin, manifest)
    replace(promoted.admin, manifest, b"once more")
    mask(promoted.admin, manifest)
    replace(promoted.admin, record)
    registry.clock.shift = timedelta(minutes=5)
    await registry.locks.sweep(promoted.model)
    (raised, message), (resolved, _) = registry.alerts()
    assert (raised, resolved) == ("raised", "resolved")
    assert all(f"{key} was deleted or overwritten" in message for key in (blob, manifest, record))
    for key in (blob, manifest, record):
        assert [each.latest for each in promoted.admin.versions(key)] == [True], key
    await registry.locks.sweep(promoted.model)
    assert len(registry.alerts()) == 2


async def test_what_cannot_be_removed_keeps_the_alert_open(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    until = datetime.now(UTC) + timedelta(seconds=3)
    headers = {"x-amz-object-lock-mode": "COMPLIANCE"}
    headers["x-amz-object-lock-retain-until-date"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    promoted.root._client.write(promoted.root.bucket, key, memoryview(b"mine"), headers=headers)
    for _ in range(2):
        await registry.locks.sweep(promoted.model)
        assert [kind for kind, _ in registry.alerts()] == ["raised"]
    assert pin_version(promoted.reader, promoted.model, 2).find(key) == promoted.reader.pinned(
        read_locks(promoted.reader, promoted.model, 2).pins
    ).find(key)
    assert read_locks(promoted.reader, promoted.model, 2).last == 1
    while datetime.now(UTC) < until + timedelta(seconds=1):
        await asyncio.sleep(0.2)
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]


async def test_an_object_that_is_lost_is_alerted_and_its_copy_takes_its_place(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    data = promoted.admin.find(key)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    remove_version(promoted.root, key, version, bypass=True)
    await registry.locks.sweep(promoted.model)
    assert [(kind, f"{key} is lost" in message) for kind, message in registry.alerts()] == [("raised", True)]
    assert f"{key} is not there" in (await registry.record(promoted.model)).versions[0].reason
    promoted.admin.put_blob(memoryview(b"x" * len(data)), "other")  # of the same size, under another name
    replace(promoted.admin, key, b"y" * len(data))
    replace(promoted.admin, key, data)
    await registry.locks.sweep(promoted.model)
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]
    assert (await registry.record(promoted.model)).versions[0].reason == ""
    assert pin_version(promoted.reader, promoted.model, 2).find(key) == data


async def test_locks_are_renewed_at_half_of_their_period_and_not_before(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served), lock_days=2)
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    until = promoted.registry.retention_of(key, version).until
    restarted = Registry(promoted.registry, route_of(promoted.served), lock_days=2)
    for shift, renewed in ((timedelta(hours=23), False), (timedelta(hours=25), True), (timedelta(hours=2), True)):
        restarted.clock.shift = shift
        await restarted.locks.sweep(promoted.model)
        assert (promoted.registry.retention_of(key, version).until > until) is renewed, shift
    own = lock_key(promoted.model, 2, 1)
    (first,) = read_locks(promoted.reader, promoted.model, 2).pins[own]
    assert promoted.registry.retention_of(own, first).until > until, "the record is renewed with what it names"


async def test_links_that_are_appended_later_are_locked_by_the_next_sweep(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = f"versions/{promoted.model}/2/deployments/9.json"
    promoted.admin.create(key, b"{}")
    await registry.locks.sweep(promoted.model)
    assert key in read_locks(promoted.reader, promoted.model, 2).pins
    assert read_locks(promoted.reader, promoted.model, 2).last == 2


async def test_a_base_model_that_serves_is_locked_as_version_0(promoted):
    base, fallback = promoted.released.manifest.base, base_of(promoted)
    registry = Registry(
        promoted.registry,
        route_of(promoted.served, previous=ServedTarget(**dict(fallback), endpoints=("127.0.0.1:1",))),
    )
    await registry.locks.sweep(promoted.model)
    pins = read_locks(promoted.reader, promoted.model, 0).pins
    assert promoted.admin.key_of(base.uri) in pins
    assert sum(key.startswith("blobs/") for key in pins) == 2
    assert [each.version for each in (await registry.record(promoted.model)).versions] == [0, 2]


def order_of(deployable):
    return TrafficRequested(release_id="r-1", target=deployable, weight_ratio=1.0, epoch=0)


async def test_a_promotion_goes_on_without_a_store_and_the_next_sweep_locks(promoted, server):
    registry = Registry(promoted.registry, route_of(promoted.served), lock_wait_s=1.0)
    real = registry.objects._store._client
    down = LockingStore(server.settings("registry").model_copy(update={"s3_endpoint": "127.0.0.1:1"}))
    registry.objects._store._client = down._client
    began = asyncio.get_running_loop().time()
    await registry.locks.before_traffic(order_of(promoted.served))
    assert asyncio.get_running_loop().time() - began < 3.0
    assert "Not locked at its promotion" in (await registry.record(promoted.model)).versions[0].reason
    registry.objects._store._client = real
    await registry.locks.sweep(promoted.model)
    (kept,) = (await registry.record(promoted.model)).versions
    assert (kept.reason, kept.objects > 15) == ("", True)


async def test_a_target_with_options_of_its_engine_is_locked_at_its_promotion(promoted):
    serving = ServingSettings(options={"enforce_eager": True})
    served = promoted.served.model_copy(update={"serving": serving})
    registry = Registry(promoted.registry, route_of(served))
    for _ in range(2):
        await registry.locks.before_traffic(order_of(served))
        (kept,) = (await registry.record(promoted.model)).versions
        assert (kept.reason, kept.objects > 15) == ("", True)
        await registry.locks.sweep(promoted.model)


async def test_without_object_lock_in_the_bucket_a_promotion_says_so_and_goes_on(promoted):
    store = Unlocked(promoted)
    registry = Registry(store)
    await registry.locks.before_traffic(order_of(promoted.served))
    (kept,) = (await registry.record(promoted.model)).versions
    assert "was made without object lock" in kept.reason
    assert registry.alerts() == []


class Unlocked(LockingStore):
    """The store of a bucket without object lock."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.locked = False

    def has_lock(self):
        return self.locked


class Killed(Exception):  # noqa: N818 - it stands for the end of a process
    """The process ended here."""


async def test_a_lock_that_was_killed_after_the_retentions_is_completed(promoted, monkeypatch):
    def kill(name):
        if name == "registry.lock_after_retention":
            raise Killed

    registry = Registry(promoted.registry, route_of(promoted.served))
    monkeypatch.setattr("services.registry.adapters.locks.failpoint", kill)
    with contextlib.suppress(Killed):
        await registry.objects.lock([promoted.served])
    assert read_locks(promoted.reader, promoted.model, 2).pins == {}
    monkeypatch.undo()
    await Registry(promoted.registry, route_of(promoted.served)).locks.sweep(promoted.model)
    assert len(read_locks(promoted.reader, promoted.model, 2).pins) > 15


async def test_two_registries_lock_a_version_once_and_look_at_it_in_turns(promoted, server):
    memory = MemoryRecords(ModelLocks)
    route = route_of(promoted.served)
    first = Registry(promoted.registry, route, "first", memory, lock_sweep_s=60)
    second = Registry(LockingStore(server.settings("registry")), route, "second", memory, lock_sweep_s=60)
    await asyncio.gather(*(each.locks.before_traffic(order_of(promoted.served)) for each in (first, second)))
    locks = read_locks(promoted.reader, promoted.model, 2)
    assert {len(versions) for versions in locks.pins.values()} == {1}
    await first.locks.sweep(promoted.model)
    mask(promoted.admin, blob_key(served_blob(promoted).digest))
    await second.locks.sweep(promoted.model)
    assert second.alerts() == [], "the first one has the lease"
    second.clock.shift = timedelta(minutes=3)
    await second.locks.sweep(promoted.model)
    assert [kind for kind, _ in second.alerts()] == ["raised", "resolved"]


def test_of_several_versions_the_one_with_the_digest_of_the_manifest_is_locked(promoted):
    """An attacker was there before the promotion, with the right to delete, too."""
    blob = served_blob(promoted)
    key = blob_key(blob.digest)
    data = promoted.admin.find(key)
    promoted.admin.erase_blob(FileEntry(path="x", digest=blob.digest, size_bytes=len(data)))
    replace(promoted.admin, key, b"z" * len(data))
    replace(promoted.admin, key, data)
    replace(promoted.admin, key, b"z" * len(data))
    assert lock(promoted).reason == ""
    assert pin_version(promoted.reader, promoted.model, 2).find(key) == data


def test_an_administrator_may_not_set_a_retention(promoted, server):
    lock(promoted)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    with pytest.raises(Permanent, match="does not permit"):
        LockingStore(server.settings()).retention_of(key, version)


async def test_a_version_that_lost_its_retention_is_locked_again(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    data = promoted.admin.find(key)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[key]
    remove_version(promoted.root, key, version, bypass=True)
    replace(promoted.admin, key, data)
    (unkept,) = promoted.admin.versions(key)
    assert promoted.registry.retention_of(key, unkept.version_id) is None
    retentions = Retentions(promoted.registry, registry.settings, registry.clock)
    assert retentions.keep(promoted.model, key, unkept.version_id) is None
    assert promoted.registry.retention_of(key, unkept.version_id).until > datetime.now(UTC) + timedelta(days=29)


@pytest.mark.parametrize(
    ("before", "after"),
    [({"lock_days": 30}, {"lock_days": 7}), ({"lock_days": 1, "lock_mode": "compliance"}, {"lock_days": 4})],
)
async def test_other_settings_shorten_and_weaken_no_lock_and_hold_up_no_sweep(promoted, before, after):
    await Registry(promoted.registry, route_of(promoted.served), **before).locks.sweep(promoted.model)
    base = promoted.admin.key_of(promoted.released.manifest.base.uri)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[base]
    earlier = promoted.registry.retention_of(base, version)
    previous = ServedTarget(**dict(base_of(promoted)), endpoints=("127.0.0.1:1",))
    for ordered in (True, False):
        registry = Registry(promoted.registry, route_of(promoted.served, previous=previous), **after)
        if ordered:
            await registry.locks.before_traffic(order_of(base_of(promoted)))
        else:
            await registry.locks.sweep(promoted.model)
        versions = (await registry.record(promoted.model)).versions
        assert [each.reason for each in versions] == [""] * len(versions)
        kept = promoted.registry.retention_of(base, version)
        assert kept.until >= earlier.until
        assert kept.mode == earlier.mode
        assert registry.alerts() == []


async def test_what_cannot_be_renewed_is_a_reason_and_an_alert_until_it_can(promoted):
    registry = Registry(Refusing(promoted), route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    registry.objects._store.refused = key = blob_key(served_blob(promoted).digest)
    registry.clock.shift = timedelta(days=16)
    for _ in range(2):
        await registry.locks.sweep(promoted.model)
        assert [(kind, f"{key} cannot be kept: refused" in message) for kind, message in registry.alerts()] == [
            ("raised", True)
        ]
        assert "cannot be kept: refused" in (await registry.record(promoted.model)).versions[0].reason
    other, until = lock_key(promoted.model, 2, 1), datetime.now(UTC) + timedelta(days=45)
    (version,) = read_locks(promoted.reader, promoted.model, 2).pins[other]
    assert promoted.registry.retention_of(other, version).until > until, "the others are renewed"
    registry.objects._store.refused = None
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]
    assert (await registry.record(promoted.model)).versions[0].reason == ""


class Refusing(LockingStore):
    """A store that refuses the retention of one object."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.refused = None

    def retain(self, key, version_id, retention):
        if key == self.refused:
            raise Permanent("uri_not_allowed", "refused")
        super().retain(key, version_id, retention)


async def test_one_limit_is_for_all_that_an_order_makes_active(promoted):
    registry = Registry(Slow(promoted), route_of(promoted.served), lock_wait_s=0.5)
    order = order_of(promoted.served).model_copy(update={"fallback": base_of(promoted)})
    began = asyncio.get_running_loop().time()
    await registry.locks.before_traffic(order)
    assert asyncio.get_running_loop().time() - began < 0.9
    versions = (await registry.record(promoted.model)).versions
    assert [(each.version, "within 0.5 s" in each.reason) for each in versions] == [(0, True), (2, True)]


class Slow(LockingStore):
    """A store that answers late."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))

    def has_lock(self):
        time.sleep(1.5)  # in a thread, as the store would
        return False


def test_a_bucket_that_could_not_lock_is_asked_again_later(promoted, monkeypatch):
    store = Unlocked(promoted)
    assert "was made without object lock" in store.why_unlocked()
    store.locked = True
    assert store.why_unlocked() is not None, "not before each request"
    monkeypatch.setattr("shared.storage.object_lock._ASKED_AGAIN_S", 0.0)
    assert store.why_unlocked() is None


async def test_what_is_not_kept_any_more_is_forgotten(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.before_traffic(order_of(promoted.served))
    assert registry.locks._locked == {promoted.model: [promoted.served]}
    registry.route = route_of(base_of(promoted))
    await registry.locks.sweep(promoted.model)
    await registry.locks.sweep(promoted.model)
    assert registry.locks._locked == {}
    pins = read_locks(promoted.reader, promoted.model, 0).pins
    ids = {(key, version) for key, versions in pins.items() for version in versions}
    assert set(registry.objects._retentions._known[promoted.model]) == ids


async def test_what_was_replaced_or_deleted_counts_for_the_quota_while_the_store_keeps_it(promoted, tmp_path):
    model = f"{promoted.model}-bytes"
    key = f"checkpoints/{model}/blobs/a"
    artifacts = StoredArtifacts(promoted.registry, attester(tmp_path, "registry"), trust(tmp_path))
    for size in (10, 20):
        replace(promoted.admin, key, b"x" * size)
        mask(promoted.admin, key)
    assert promoted.admin.find(key) is None
    assert sum((await artifacts.sizes(model)).values()) == 30


def forge(promoted, name, version, number=1):
    key = blob_key(served_blob(promoted).digest)
    named = (LockedObject(key=key, version_id=version),)
    now = datetime.now(UTC)
    record = VersionLock(
        model=promoted.model, version=2, number=number, mode="governance", objects=named, locked_at=now
    )
    promoted.admin.create(f"versions/{promoted.model}/2/locks/{name}.json", manifest_bytes(record))


async def test_a_record_that_was_there_before_the_promotion_keeps_nothing_from_being_locked(promoted):
    key = blob_key(served_blob(promoted).digest)
    (genuine,) = promoted.admin.versions(key)
    replace(promoted.admin, key, b"y" * genuine.size)
    other = next(each for each in promoted.admin.versions(key) if each.latest)
    forge(promoted, "000001", other.version_id)
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.before_traffic(order_of(promoted.served))
    assert read_locks(promoted.reader, promoted.model, 2).pins[key] == (genuine.version_id,)
    with pytest.raises(S3Error, match="AccessDenied"):
        remove_version(promoted.admin, key, genuine.version_id)


async def test_a_record_that_was_put_there_afterwards_changes_nothing_that_is_read(promoted):
    registry = Registry(promoted.registry, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    data = promoted.admin.find(key)
    replace(promoted.admin, key, b"y" * len(data))
    other = next(each for each in promoted.admin.versions(key) if each.latest)
    forge(promoted, "000000", other.version_id)
    forge(promoted, "000002", other.version_id, 2)
    assert pin_version(promoted.reader, promoted.model, 2).find(key) == data
    await registry.locks.sweep(promoted.model)
    assert pin_version(promoted.reader, promoted.model, 2).find(key) == data
    await registry.locks.sweep(promoted.model)
    assert [each.version_id for each in promoted.admin.versions(key) if each.latest] != [other.version_id]


def test_a_base_model_is_proven_whatever_hides_the_version_that_signs_it(promoted, tmp_path):
    lock(promoted)
    (tmp_path / "repository").mkdir()
    check = LoadCheck(promoted.reader, trust(promoted.folder), tmp_path / "repository")
    manifest = json.loads(promoted.admin.get(base_of(promoted).manifest))
    base = base_of(promoted).model_copy(update={"manifest": ArtifactRef.model_validate(manifest["folder"])})
    check.verify(base)
    mask(promoted.admin, f"versions/{promoted.model}/2/manifest.json")
    assert check._check(base) is None
