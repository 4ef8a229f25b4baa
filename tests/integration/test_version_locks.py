"""Promoted versions under lock on a real store: what is locked, what others can do to it, and what becomes of that."""

import asyncio
import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from minio.error import S3Error

from contracts.manifests import FileEntry
from contracts.vocabulary import ServingSettings
from services.registry.adapters.store import StoredArtifacts
from services.registry.domain.locks import ModelLocks
from services.server_manager.adapters.artifact_cache import ArtifactCache
from services.server_manager.adapters.load_check import LoadCheck
from shared.errors import Permanent
from shared.provenance.lock_records import lock_key
from shared.provenance.verification import Verification
from shared.storage.blobs import blob_key
from shared.storage.held_out import erase_text
from shared.storage.object_lock import LockingStore
from testbed.attesters import attester, trust
from tests.kit.promoted import (
    Registry,
    base_of,
    lock,
    mask,
    order_of,
    pin_version,
    read_locks,
    remove_version,
    replace,
    route_of,
    served_blob,
    serving,
)
from tests.kit.records import MemoryRecords


def test_what_serves_and_proves_a_version_is_locked_and_texts_that_can_be_erased_are_not(promoted):
    kept = lock(promoted)
    assert (kept.version, kept.reason) == (2, "")
    pins = read_locks(promoted).pins
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
    assert len(read_locks(promoted).records) == 1


def test_nobody_removes_what_is_locked_and_only_a_right_that_nobody_has_lifts_governance(promoted):
    lock(promoted)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted).pins[key]
    for store in (promoted.admin, promoted.registry):
        for bypass in (False, True):
            with pytest.raises(S3Error, match="AccessDenied"):
                remove_version(store, key, version, bypass=bypass)
    with pytest.raises(S3Error, match="AccessDenied"):
        remove_version(promoted.root, key, version)
    remove_version(promoted.root, key, version, bypass=True)
    assert promoted.admin.find(key) is None


def test_what_is_put_over_a_locked_object_changes_nothing_that_is_served_or_proven(promoted, tmp_path):
    lock(promoted)
    keys = read_locks(promoted).pins
    assert len(keys) > 15
    for number, key in enumerate(keys):
        (mask if number % 2 else replace)(promoted.admin, key)
    checker = LoadCheck(promoted.reader, trust(promoted.folder), tmp_path / "repository")
    (tmp_path / "repository").mkdir()
    cache = ArtifactCache(promoted.reader, tmp_path / "cache", check=checker)
    folder = asyncio.run(cache.materialise(promoted.served))
    assert {path.name for path in folder.iterdir()} == {file.path for file in promoted.released.variants["int8"].files}
    pinned = pin_version(promoted.admin, promoted)
    findings = Verification(pinned, trust(promoted.folder).keys()).version(promoted.model, 2, "int8")
    assert [each for each in findings if each.verdict == "failed"] == []


async def test_what_lies_over_a_locked_object_is_alerted_removed_and_resolved(promoted):
    registry = Registry(promoted, route_of(promoted.served))
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
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    until = datetime.now(UTC) + timedelta(seconds=3)
    headers = {"x-amz-object-lock-mode": "COMPLIANCE"}
    headers["x-amz-object-lock-retain-until-date"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    promoted.root._client.write(promoted.root.bucket, key, memoryview(b"mine"), headers=headers)
    for _ in range(2):
        await registry.locks.sweep(promoted.model)
        assert [kind for kind, _ in registry.alerts()] == ["raised"]
    assert pin_version(promoted.reader, promoted).find(key) == promoted.reader.pinned(read_locks(promoted).pins).find(
        key
    )
    assert len(read_locks(promoted).records) == 1
    while datetime.now(UTC) < until + timedelta(seconds=1):
        await asyncio.sleep(0.2)
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]


async def test_an_object_that_is_lost_is_alerted_and_its_copy_takes_its_place(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    data = promoted.admin.find(key)
    (version,) = read_locks(promoted).pins[key]
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
    assert pin_version(promoted.reader, promoted).find(key) == data


async def test_links_that_are_appended_later_are_locked_by_the_next_sweep(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = f"versions/{promoted.model}/2/deployments/9.json"
    promoted.admin.create(key, b"{}")
    await registry.locks.sweep(promoted.model)
    assert key in read_locks(promoted).pins
    assert len(read_locks(promoted).records) == 2


async def test_a_base_model_that_serves_is_locked_as_version_0(promoted):
    registry = Registry(promoted, route_of(promoted.served, previous=serving(base_of(promoted))))
    await registry.locks.sweep(promoted.model)
    pins = read_locks(promoted, 0).pins
    assert promoted.admin.key_of(base_of(promoted).manifest.uri) in pins
    assert sum(key.startswith("blobs/") for key in pins) == 2
    assert [(each.version, each.reason) for each in (await registry.record(promoted.model)).versions] == [
        (0, ""),
        (2, ""),
    ]


async def test_what_proves_a_base_model_is_kept_as_long_as_the_base_model(promoted, tmp_path):
    """Version 2 is not kept any more, its locks have ended, and what they kept was deleted; version 0 still serves."""
    first = Registry(promoted, route_of(promoted.served), lock_days=2 / 86400)
    await first.locks.sweep(promoted.model)
    serves = Registry(promoted, route_of(base_of(promoted)))
    await serves.locks.sweep(promoted.model)
    manifest, link = (f"versions/{promoted.model}/2/{name}" for name in ("manifest.json", "attestations/000001.json"))
    pins = read_locks(promoted, 0).pins
    assert {manifest, link} <= set(pins)
    await asyncio.sleep(3.0)  # the locks of version 2 end
    kept = {(key, version) for key, versions in pins.items() for version in versions}
    for each in promoted.admin.versions(f"versions/{promoted.model}/2/"):
        if (each.key, each.version_id) not in kept:
            remove_version(promoted.admin, each.key, each.version_id)
    for key in (manifest, link):
        with pytest.raises(S3Error, match="AccessDenied"):
            remove_version(promoted.admin, key, pins[key][0])
        replace(promoted.admin, key)
    assert read_locks(promoted).records == ()
    (tmp_path / "repository").mkdir()
    LoadCheck(promoted.reader, trust(promoted.folder), tmp_path / "repository").verify(base_of(promoted))
    serves.clock.shift = timedelta(days=16)
    await serves.locks.sweep(promoted.model)
    until = promoted.registry.retention_of(manifest, pins[manifest][0]).until
    assert until > datetime.now(UTC) + timedelta(days=45), "it is renewed with the base model"
    assert [each.latest for each in promoted.admin.versions(manifest)] == [True], "what lay over it was removed"


async def test_a_target_with_options_of_its_engine_is_locked_at_its_promotion(promoted):
    serving = ServingSettings(options={"enforce_eager": True})
    served = promoted.served.model_copy(update={"serving": serving})
    registry = Registry(promoted, route_of(served))
    for _ in range(2):
        await registry.locks.before_traffic(order_of(served))
        (kept,) = (await registry.record(promoted.model)).versions
        assert (kept.reason, kept.objects > 15) == ("", True)
        await registry.locks.sweep(promoted.model)


class Killed(Exception):  # noqa: N818 - it stands for the end of a process
    """The process ended here."""


async def test_a_lock_that_was_killed_after_the_retentions_is_completed(promoted, monkeypatch):
    def kill(name):
        if name == "registry.lock_after_retention":
            raise Killed

    registry = Registry(promoted, route_of(promoted.served))
    monkeypatch.setattr("services.registry.adapters.locks.failpoint", kill)
    with contextlib.suppress(Killed):
        await registry.objects.lock([promoted.served])
    assert read_locks(promoted).pins == {}
    monkeypatch.undo()
    await Registry(promoted, route_of(promoted.served)).locks.sweep(promoted.model)
    assert len(read_locks(promoted).pins) > 15


async def test_two_registries_lock_a_version_once_and_look_at_it_in_turns(promoted, locking_server):
    memory = MemoryRecords(ModelLocks)
    route = route_of(promoted.served)
    first = Registry(promoted, route, "first", memory, lock_sweep_s=60)
    second = Registry(
        promoted, route, "second", memory, LockingStore(locking_server.settings("registry")), lock_sweep_s=60
    )
    await asyncio.gather(*(each.locks.before_traffic(order_of(promoted.served)) for each in (first, second)))
    locks = read_locks(promoted)
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
    assert pin_version(promoted.reader, promoted).find(key) == data


def test_an_administrator_extends_a_retention_and_shortens_none_and_a_service_sets_none(promoted, locking_server):
    lock(promoted)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted).pins[key]
    admin, service = LockingStore(locking_server.settings()), LockingStore(locking_server.settings("quantiser"))
    before = admin.retention_of(key, version)
    later, earlier = (dataclasses.replace(before, until=before.until + timedelta(days=days)) for days in (1, -1))
    admin.retain(key, version, later)
    for wrong in (admin.retain, service.retain):
        with pytest.raises(Permanent):
            wrong(key, version, earlier)
    assert admin.retention_of(key, version) == later
    with pytest.raises(Permanent, match="does not permit"):
        service.retention_of(key, version)


async def test_what_is_not_kept_any_more_is_forgotten(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.before_traffic(order_of(promoted.served))
    assert registry.locks._locked == {promoted.model: [promoted.served]}
    registry.route = route_of(base_of(promoted))
    await registry.locks.sweep(promoted.model)
    await registry.locks.sweep(promoted.model)
    assert registry.locks._locked == {}
    pins = read_locks(promoted, 0).pins
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


def test_a_base_model_is_proven_whatever_hides_the_version_that_signs_it(promoted, tmp_path):
    lock(promoted)
    (tmp_path / "repository").mkdir()
    check = LoadCheck(promoted.reader, trust(promoted.folder), tmp_path / "repository")
    check.verify(base_of(promoted))
    mask(promoted.admin, f"versions/{promoted.model}/2/manifest.json")
    assert check._check(base_of(promoted)) is None
