"""How long promoted versions are kept, in which mode, and how long a promotion waits for that, on a real store."""

import asyncio
import base64
import hashlib
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from minio.error import S3Error

from services.registry.adapters.retentions import Retentions
from shared.provenance.lock_records import lock_key
from shared.storage.blobs import blob_key
from shared.storage.object_lock import LockingStore
from shared.storage.objects import Retention
from tests.kit.promoted import (
    Refusing,
    Registry,
    Unlocked,
    base_of,
    lock,
    order_of,
    read_locks,
    remove_version,
    replace,
    route_of,
    served_blob,
    serving,
)


async def test_locks_are_renewed_at_half_of_their_period_and_not_before(promoted):
    registry = Registry(promoted, route_of(promoted.served), lock_days=2)
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted).pins[key]
    until = promoted.registry.retention_of(key, version).until
    restarted = Registry(promoted, route_of(promoted.served), lock_days=2)
    for shift, renewed in ((timedelta(hours=23), False), (timedelta(hours=25), True), (timedelta(hours=2), True)):
        restarted.clock.shift = shift
        await restarted.locks.sweep(promoted.model)
        assert (promoted.registry.retention_of(key, version).until > until) is renewed, shift
    own = lock_key(promoted.model, 2, 1)
    (first,) = read_locks(promoted).pins[own]
    assert promoted.registry.retention_of(own, first).until > until, "the record is renewed with what it names"


async def test_a_promotion_goes_on_without_a_store_and_the_next_sweep_locks(promoted, locking_server):
    registry = Registry(promoted, route_of(promoted.served), lock_wait_s=1.0)
    real = registry.objects._store._client
    down = LockingStore(locking_server.settings("registry").model_copy(update={"s3_endpoint": "127.0.0.1:1"}))
    registry.objects._store._client = down._client
    await registry.locks.before_traffic(order_of(promoted.served))
    assert "Not locked at its promotion" in (await registry.record(promoted.model)).versions[0].reason
    registry.objects._store._client = real
    await registry.locks.sweep(promoted.model)
    (kept,) = (await registry.record(promoted.model)).versions
    assert (kept.reason, kept.objects > 15) == ("", True)


async def test_without_object_lock_in_the_bucket_a_promotion_says_so_and_goes_on(promoted):
    store = Unlocked(promoted)
    registry = Registry(promoted, store=store)
    await registry.locks.before_traffic(order_of(promoted.served))
    (kept,) = (await registry.record(promoted.model)).versions
    assert "was made without object lock" in kept.reason
    assert registry.alerts() == []


async def test_a_version_that_lost_its_retention_is_locked_again(promoted):
    registry = Registry(promoted, route_of(promoted.served))
    await registry.locks.sweep(promoted.model)
    key = blob_key(served_blob(promoted).digest)
    data = promoted.admin.find(key)
    (version,) = read_locks(promoted).pins[key]
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
    await Registry(promoted, route_of(promoted.served), **before).locks.sweep(promoted.model)
    base = promoted.admin.key_of(promoted.released.manifest.base.uri)
    (version,) = read_locks(promoted).pins[base]
    earlier = promoted.registry.retention_of(base, version)
    previous = serving(base_of(promoted))
    for ordered in (True, False):
        registry = Registry(promoted, route_of(promoted.served, previous=previous), **after)
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


async def test_compliance_mode_is_set_by_the_first_sweep_where_the_store_allows_it(promoted):
    await Registry(promoted, route_of(promoted.served), lock_days=2).locks.sweep(promoted.model)
    before = modes(promoted)
    assert set(before.values()) == {"governance"}
    store = Allowing(promoted)
    restarted = Registry(promoted, route_of(promoted.served), store=store, lock_days=2, lock_mode="compliance")
    await restarted.locks.sweep(promoted.model)
    assert modes(promoted) == dict.fromkeys(before, "compliance")
    for key, (version,) in read_locks(promoted).pins.items():
        with pytest.raises(S3Error, match="AccessDenied"):
            remove_version(promoted.root, key, version, bypass=True)


async def test_a_store_that_lets_no_lock_become_stricter_renews_it_in_its_mode_and_says_so(promoted):
    """SeaweedFS, for one: that takes the right to bypass governance, which no identity has. The operator's key may."""
    await Registry(promoted, route_of(promoted.served)).locks.sweep(promoted.model)
    registry = Registry(promoted, route_of(promoted.served), lock_mode="compliance")
    for shift in (timedelta(), timedelta(minutes=5), timedelta(days=16)):
        registry.clock.shift = shift
        await registry.locks.sweep(promoted.model)
        assert registry.alerts() == []
    (kept,) = (await registry.record(promoted.model)).versions
    assert "stay in governance mode" in kept.reason
    assert set(modes(promoted).values()) == {"governance"}
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted).pins[key]
    until = promoted.registry.retention_of(key, version).until
    assert until > datetime.now(UTC) + timedelta(days=45), "it is renewed all the same"
    promoted.admin.create(f"versions/{promoted.model}/2/deployments/9.json", b"{}")
    await registry.locks.sweep(promoted.model)
    assert Counter(modes(promoted).values())["compliance"] == 2, "what is locked from now on, and the record of it"
    for key, mode in modes(promoted).items():
        if mode == "governance":
            (version,) = read_locks(promoted).pins[key]
            Allowing(promoted).retain(key, version, Retention("compliance", until))
    restarted = Registry(promoted, route_of(promoted.served), lock_mode="compliance")
    await restarted.locks.sweep(promoted.model)
    assert (await restarted.record(promoted.model)).versions[0].reason == ""


def modes(promoted):
    pins = read_locks(promoted).pins
    return {key: promoted.registry.retention_of(key, version).mode for key, (version,) in pins.items()}


class Allowing(LockingStore):
    """A store that lets a lock in governance mode become one in compliance mode: with the operator's key and header."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.root = promoted.root

    def retain(self, key, version_id, retention):
        until = f"{retention.until:%Y-%m-%dT%H:%M:%SZ}"
        mode = f"<Mode>{retention.mode.upper()}</Mode>"
        body = f"<Retention>{mode}<RetainUntilDate>{until}</RetainUntilDate></Retention>".encode()
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"x-amz-bypass-governance-retention": "true", "Content-MD5": checksum}
        query = {"versionId": version_id, "retention": ""}
        self.root._client._execute("PUT", self.bucket, key, body=body, headers=headers, query_params=query)


async def test_what_cannot_be_renewed_is_a_reason_and_an_alert_until_it_can(promoted):
    store = Refusing(promoted)
    registry = Registry(promoted, route_of(promoted.served), store=store)
    await registry.locks.sweep(promoted.model)
    store.refused = key = blob_key(served_blob(promoted).digest)
    registry.clock.shift = timedelta(days=16)
    for _ in range(2):
        await registry.locks.sweep(promoted.model)
        assert [(kind, f"{key} cannot be kept: refused" in message) for kind, message in registry.alerts()] == [
            ("raised", True)
        ]
        assert "cannot be kept: refused" in (await registry.record(promoted.model)).versions[0].reason
    other, until = lock_key(promoted.model, 2, 1), datetime.now(UTC) + timedelta(days=45)
    (version,) = read_locks(promoted).pins[other]
    assert promoted.registry.retention_of(other, version).until > until, "the others are renewed"
    store.refused = None
    await registry.locks.sweep(promoted.model)
    assert [kind for kind, _ in registry.alerts()] == ["raised", "resolved"]
    assert (await registry.record(promoted.model)).versions[0].reason == ""


async def test_one_limit_is_for_all_that_an_order_makes_active(promoted):
    """The store answers the first time late, and then at once: no time is left."""
    registry = Registry(promoted, route_of(promoted.served), store=Slow(promoted), lock_wait_s=0.5)
    order = order_of(promoted.served).model_copy(update={"fallback": base_of(promoted)})
    await registry.locks.before_traffic(order)
    versions = (await registry.record(promoted.model)).versions
    assert [(each.version, "within 0.5 s" in each.reason) for each in versions] == [(0, True), (2, True)]


class Slow(LockingStore):
    """A store whose first answer is late."""

    def __init__(self, promoted) -> None:
        vars(self).update(vars(promoted.registry))
        self.late = [True]

    def has_lock(self):
        if self.late and self.late.pop():
            time.sleep(1.5)  # in a thread, as the store would
        return super().has_lock()


def test_a_bucket_that_could_not_lock_is_asked_again_later(promoted, monkeypatch):
    store = Unlocked(promoted)
    assert "was made without object lock" in store.why_unlocked()
    store.locked = True
    assert store.why_unlocked() is not None, "not before each request"
    monkeypatch.setattr("shared.storage.object_lock._ASKED_AGAIN_S", 0.0)
    assert store.why_unlocked() is None


def test_in_compliance_mode_not_even_the_root_of_the_store_removes_it_before_its_end(promoted):
    lock(promoted, lock_mode="compliance", lock_days=3 / 86400)
    key = blob_key(served_blob(promoted).digest)
    (version,) = read_locks(promoted).pins[key]
    until = promoted.registry.retention_of(key, version).until
    for store in (promoted.admin, promoted.root):
        with pytest.raises(S3Error, match="AccessDenied"):
            remove_version(store, key, version, bypass=True)
    assert promoted.admin.find(key) is not None
    while datetime.now(UTC) < until + timedelta(seconds=1):
        asyncio.run(asyncio.sleep(0.2))
    remove_version(promoted.admin, key, version)
    assert promoted.admin.find(key) is None
