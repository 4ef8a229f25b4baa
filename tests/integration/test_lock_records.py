"""Records of locked objects on a real store: those that the registry did not sign for their key count for nothing."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from minio.error import S3Error

from contracts.manifests import LockedObject, VersionLock
from contracts.vocabulary import digest_of
from shared.errors import Permanent
from shared.provenance.envelopes import Subjects
from shared.provenance.lock_records import lock_key, lock_prefix, sign_lock
from shared.runtime.clock import SystemClock
from shared.storage.blobs import blob_key, manifest_bytes
from shared.storage.objects import Retention
from testbed.attesters import attester, attester_keys
from tests.kit.promoted import (
    Registry,
    mask,
    order_of,
    pin_version,
    read_locks,
    remove_version,
    replace,
    route_of,
    served_blob,
)


@pytest.fixture
def another(promoted):
    """Return the id of a version with other bytes of the file that serves; the version that was released is first."""
    key = blob_key(served_blob(promoted).digest)
    (genuine,) = promoted.admin.versions(key)
    replace(promoted.admin, key, b"y" * genuine.size)
    return next(each.version_id for each in promoted.admin.versions(key) if each.latest)


def record_of(promoted, named, number, **changes):
    objects = (LockedObject(key=blob_key(served_blob(promoted).digest), version_id=named),)
    fields = {"model": promoted.model, "version": 2, "mode": "governance", "locked_at": datetime.now(UTC)}
    return VersionLock(number=number, objects=objects, **{**fields, **changes})


def unsigned(promoted, named, number):
    return manifest_bytes(record_of(promoted, named, number))


def by_another_service(promoted, named, number):
    return sign_lock(attester(promoted.folder, "merger"), record_of(promoted, named, number))


def by_an_unlisted_key(promoted, named, number):
    return sign_lock(attester(promoted.folder / "elsewhere", "registry"), record_of(promoted, named, number))


def of_another_version(promoted, named, number):
    return sign_lock(attester(promoted.folder, "registry"), record_of(promoted, named, number, version=3))


def of_another_model(promoted, named, number):
    return sign_lock(attester(promoted.folder, "registry"), record_of(promoted, named, number, model="other"))


def of_another_number(promoted, named, number):
    return sign_lock(attester(promoted.folder, "registry"), record_of(promoted, named, number + 1))


def of_another_step(promoted, named, number):
    record = record_of(promoted, named, number)
    about = Subjects(named={"record": digest_of(manifest_bytes(record))}, number=number)
    details = {"record": record.model_dump(mode="json")}
    return attester(promoted.folder, "registry").sign("deploy", about, details)


def altered(promoted, named, number):
    """Return a signed record whose last digit of a digest is another one, and is no longer signed."""
    data = sign_lock(attester(promoted.folder, "registry"), record_of(promoted, named, number))
    return data.replace(b'"sig":"M', b'"sig":"N')


def about_another_record(promoted, named, number):
    record = record_of(promoted, named, number)
    about = Subjects(named={lock_key(promoted.model, 2, number): digest_of(b"another")}, number=number)
    return attester(promoted.folder, "registry").sign("lock", about, {"record": record.model_dump(mode="json")})


def no_record(_promoted, _named, _number):
    return b"\x00" * 100


FORGERIES = (
    unsigned,
    by_another_service,
    by_an_unlisted_key,
    of_another_version,
    of_another_model,
    of_another_number,
    of_another_step,
    altered,
    about_another_record,
    no_record,
)


def forge_all(promoted, named):
    """Put each forgery under a number of its own, from 1; return the keys."""
    for number, forgery in enumerate(FORGERIES, 1):
        promoted.admin.create(lock_key(promoted.model, 2, number), forgery(promoted, named, number))
    odd = [f"{lock_prefix(promoted.model, 2)}{name}" for name in ("1.json", "000001.json.bak", "a/000001.json")]
    for key in odd:
        promoted.admin.create(key, unsigned(promoted, named, 1))
    return [*(lock_key(promoted.model, 2, number) for number in range(1, len(FORGERIES) + 1)), *odd]


async def test_forged_records_that_were_there_before_the_promotion_keep_nothing_from_being_locked(promoted, another):
    key = blob_key(served_blob(promoted).digest)
    genuine = promoted.admin.versions(key)[0]
    forged = forge_all(promoted, another)
    promoted.admin.create(lock_key(promoted.model, 2, 999_999), unsigned(promoted, another, 999_999))
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.before_traffic(order_of(promoted.served))
    (kept,) = (await registry.record(promoted.model)).versions
    assert kept.reason == ""
    locks = read_locks(promoted)
    assert locks.pins[key] == (genuine.version_id,)
    assert list(locks.own) == [lock_key(promoted.model, 2, len(FORGERIES) + 1)]
    with pytest.raises(S3Error, match="AccessDenied"):
        remove_version(promoted.admin, key, genuine.version_id)
    await registry.locks.sweep(promoted.model)
    (raised, message), (resolved, _) = registry.alerts()
    assert (raised, resolved) == ("raised", "resolved")
    assert f"{forged[0]} is no record that the registry signed" in message
    assert {each.key for each in promoted.admin.versions(lock_prefix(promoted.model, 2))} == set(locks.own)


async def test_forged_records_that_are_put_there_afterwards_change_nothing_that_is_read(promoted, another):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    registry.publisher.log.clear()
    before = read_locks(promoted)
    key, own = blob_key(served_blob(promoted).digest), lock_key(promoted.model, 2, 1)
    for number, forgery in enumerate(FORGERIES, 1):
        replace(promoted.admin, own, forgery(promoted, another, 1))
        promoted.admin.create(lock_key(promoted.model, 2, number + 1), forgery(promoted, another, number + 1))
    mask(promoted.admin, own)
    promoted.admin.create(lock_key(promoted.model, 2, 0), unsigned(promoted, another, 1))
    assert read_locks(promoted).pins == before.pins
    assert digest_of(pin_version(promoted.reader, promoted).find(key)) == served_blob(promoted).digest
    await registry.locks.sweep(promoted.model)
    (raised, message), (resolved, _) = registry.alerts()
    assert (raised, resolved) == ("raised", "resolved")
    assert f"{own} was deleted or overwritten" in message
    assert "is no record that the registry signed" in message
    there = promoted.admin.versions(lock_prefix(promoted.model, 2))
    assert [(each.key, each.latest, each.marker) for each in there] == [(own, True, False)]


async def test_an_earlier_record_of_the_same_version_counts_for_nothing_beside_the_present_one(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    own = lock_key(promoted.model, 2, 1)
    earlier = promoted.admin.find(own)
    remove_version(promoted.root, own, read_locks(promoted).own[own], bypass=True)
    await registry.locks.sweep(promoted.model)
    present = read_locks(promoted)
    replace(promoted.admin, own, earlier)
    promoted.admin.create(lock_key(promoted.model, 2, 2), earlier)
    assert read_locks(promoted).own == present.own
    registry.publisher.log.clear()
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]
    assert [each.version_id for each in promoted.admin.versions(lock_prefix(promoted.model, 2))] == [present.own[own]]


async def test_a_forged_record_that_is_under_lock_from_the_start_is_ignored_alerted_and_removed_at_its_end(
    promoted, another
):
    """One request writes it and retains it in compliance mode: no identity removes it before its retention ends."""
    key = blob_key(served_blob(promoted).digest)
    until = datetime.now(UTC) + timedelta(seconds=4)
    retention = Retention("compliance", until)
    with pytest.raises(Permanent, match="does not permit"):
        promoted.reader.create(lock_key(promoted.model, 2, 1), unsigned(promoted, another, 1), retention)
    for number in (1, 2):
        data = FORGERIES[number](promoted, another, number)
        promoted.root.create(lock_key(promoted.model, 2, number), data, retention)
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.before_traffic(order_of(promoted.served))
    assert (await registry.record(promoted.model)).versions[0].reason == ""
    for _ in range(2):
        await registry.locks.sweep(promoted.model)
        assert [kind for kind, _ in registry.alerts()] == ["raised"]
        assert list(read_locks(promoted).own) == [lock_key(promoted.model, 2, 3)]
        assert digest_of(pin_version(promoted.reader, promoted).find(key)) == served_blob(promoted).digest
    while datetime.now(UTC) < until + timedelta(seconds=1):
        await asyncio.sleep(0.2)
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]
    assert {each.key for each in promoted.admin.versions(lock_prefix(promoted.model, 2))} == set(
        read_locks(promoted).own
    )


async def test_what_a_revoked_key_recorded_is_recorded_anew_by_its_successor_without_an_alert(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    before = read_locks(promoted).pins
    attester_keys(promoted.folder).revoke("registry", SystemClock().now())
    assert read_locks(promoted).pins == {}
    await registry.locks.sweep(promoted.model)
    (kept,) = (await registry.record(promoted.model)).versions
    assert "is not written" in kept.reason, "until it is restarted it has the revoked key"
    assert read_locks(promoted).pins == {}
    restarted = Registry(promoted, route_of(promoted.served))
    await restarted.locks.sweep(promoted.model)
    after = read_locks(promoted)
    assert list(after.own) == [lock_key(promoted.model, 2, 2)]
    assert {key: versions for key, versions in after.pins.items() if key in before and key not in after.own} == {
        key: versions for key, versions in before.items() if "/locks/" not in key
    }
    assert registry.alerts() == restarted.alerts() == []


async def test_without_the_list_of_keys_no_record_is_taken_for_a_forged_one(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    listing = attester_keys(promoted.folder).listing
    text, there = listing.read_bytes(), promoted.admin.versions(lock_prefix(promoted.model, 2))
    listing.write_bytes(b"[")
    with pytest.raises(Permanent, match="cannot be read"):
        await registry.locks.sweep(promoted.model)
    await registry.locks.before_traffic(order_of(promoted.served.model_copy(update={"weights_bytes": 2})))
    assert "cannot be read" in (await registry.record(promoted.model)).versions[0].reason
    listing.write_bytes(text)
    assert promoted.admin.versions(lock_prefix(promoted.model, 2)) == there
    assert registry.alerts() == []


async def test_more_records_than_are_read_hide_none_that_was_there_before(promoted, another, monkeypatch):
    await Registry(promoted, route_of(promoted.served)).locks.sweep(promoted.model)
    before = read_locks(promoted)
    for number in range(2, 6):
        promoted.admin.create(lock_key(promoted.model, 2, number), unsigned(promoted, another, number))
    monkeypatch.setattr("shared.provenance.lock_records.MOST_RECORDS", 2)
    monkeypatch.setattr("shared.provenance.lock_records.MOST_BYTES", 20_000)
    assert read_locks(promoted).pins == before.pins
    assert len(read_locks(promoted).foreign) == 4


async def test_more_records_than_are_read_that_were_there_before_hide_none_that_the_registry_writes(
    promoted, another, monkeypatch
):
    monkeypatch.setattr("shared.provenance.lock_records.MOST_RECORDS", 4)
    monkeypatch.setattr("shared.provenance.lock_records.RECORD_BYTES", 100_000)
    for number in range(1, 9):
        promoted.admin.create(lock_key(promoted.model, 2, number), unsigned(promoted, another, number))
    promoted.admin.create(lock_key(promoted.model, 2, 9), b"x" * 100_001)
    key = blob_key(served_blob(promoted).digest)
    genuine = promoted.admin.versions(key)[0]
    await Registry(promoted, route_of(promoted.served)).locks.before_traffic(order_of(promoted.served))
    locks = read_locks(promoted)
    assert locks.pins[key] == (genuine.version_id,)
    assert list(locks.own) == [lock_key(promoted.model, 2, 10)]
