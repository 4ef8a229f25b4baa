"""The audit log on a real bus and a real store: written once, whole after every kill, and what was changed is found."""

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from contracts import facts as cf
from contracts.provenance.audit import AuditTail
from contracts.services import FROM_OUTSIDE
from decisions.sealed_log import audit as domain
from services.registry.adapters.audit import LoggedMessages, StoreAlerts, StoredSegments
from services.registry.audit import AuditWriter
from shared.errors import Permanent
from shared.messaging.bus import Bus, publish_event
from shared.provenance.audit_log import export_log, read_export, read_log, segment_key
from shared.runtime.clock import SystemClock
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories as f
from testbed.attesters import attester, attester_keys, trust
from testbed.released import release
from testbed.services import stored_facts
from tests.integration.commands import slipway
from tests.integration.registry_process import stored_artifacts


def unlocked():
    """Return that a segment is not kept: the next test's log begins in the same bucket."""


class Killed(Exception):  # noqa: N818 - it stands for the end of a process
    """The process ended here."""


class EndingAlerts:
    """Alerts at which the process ends."""

    async def publish(self, _fact, _entry):
        raise Killed


class Log:
    """A bus, a store, and the writers of the log."""

    def __init__(self, js, store, keys, alerts) -> None:
        self.js, self.store, self.keys, self.alerts = js, store, keys, alerts
        self.bucket = Bucket(js, "audit", AuditTail)

    def writer(self):
        segments = StoredSegments(self.store, attester(self.keys, "registry"), trust(self.keys), unlocked)
        return AuditWriter(LoggedMessages(lambda: self.js), self.bucket, segments, self.alerts, SystemClock())

    async def write(self):
        await self.writer().sweep("tail")
        return await self.read()

    async def tail(self):
        return (await self.bucket.get("tail")).value

    async def read(self):
        return read_log(self.store, await self.tail(), trust(self.keys).keys())

    async def publish(self, fact, **changes):
        event = f.event(fact, **changes)
        await publish_event(self.js, event)
        return event


@pytest.fixture
async def log(js, settings, tmp_path):
    store = Store(settings)
    for key in {version.key for version in store.versions("audit/")}:
        store._erase(key)
    bus = Bus(settings, "registry", SystemClock())
    await bus.connect()
    yield Log(js, store, tmp_path, StoreAlerts(bus, stored_artifacts(settings)))
    await bus.broker.stop()


async def orders(log, count, prefix="o"):
    return [
        await log.publish(cf.SuspensionDecided, id=f"{prefix}-{number}", time=SystemClock().now())
        for number in range(count)
    ]


async def test_every_kind_of_order_announcement_change_and_result_is_there(log):
    outside = [fact for fact in cf.FACTS.values() if fact in FROM_OUTSIDE]
    for number, fact in enumerate(outside):
        await log.publish(fact, id=f"out-{number}")
    for number, fact in enumerate(domain.RESULTS):
        await log.publish(fact, id=f"res-{number}")
    reading = await log.write()
    assert reading.problems == []
    actions = [entry.action for entry in reading.entries if entry.kind in ("order", "announcement")]
    assert set(actions) == {fact.TYPE for fact in outside if fact is not cf.AuditRecorded}
    assert {entry.action for entry in reading.entries if entry.kind == "result"} == {
        fact.TYPE for fact in domain.RESULTS
    }
    again = await log.write()
    assert len(again.entries) == len(reading.entries), "a message is one entry"


async def test_what_is_no_event_is_an_entry_and_holds_nothing_up(log):
    await log.js.publish("slipway.rollback.ordered.v1.support-bot.ben", b"\xff{")
    (order,) = await orders(log, 1)
    reading = await log.write()
    assert [(entry.about, entry.result, entry.who) for entry in reading.entries] == [
        ("", "unreadable", "ben"),
        (order.id, "", order.sender),
    ]
    assert order.sender


async def test_messages_that_were_removed_before_they_were_read_are_named(log):
    await orders(log, 4)
    await log.js.delete_msg("SLIPWAY_ORDERS", 2)
    await log.js.delete_msg("SLIPWAY_ORDERS", 3)
    reading = await log.write()
    assert [(entry.kind, entry.source) for entry in reading.entries] == [
        ("order", "SLIPWAY_ORDERS/1"),
        ("missing", "SLIPWAY_ORDERS/2-3"),
        ("order", "SLIPWAY_ORDERS/4"),
    ]


@pytest.mark.parametrize("point", ["append", "mark", "segment"])
async def test_a_writer_that_is_killed_leaves_no_gap_and_no_double(log, monkeypatch, point):
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 3)
    published = await orders(log, 8)
    kills = 0

    def kill(name, *_):
        nonlocal kills
        if name == f"registry.audit_after_{point}":
            kills += 1
            raise Killed

    monkeypatch.setattr("services.registry.audit.failpoint", kill)
    for _ in range(6):  # each process dies at its first step of this kind; the next one continues
        with contextlib.suppress(Killed):
            await log.writer().sweep("tail")
    monkeypatch.setattr("services.registry.audit.failpoint", lambda *_: None)
    reading = await log.write()
    assert kills >= 1
    assert reading.problems == []
    assert [entry.about for entry in reading.entries] == [event.id for event in published]
    assert reading.segments >= 1


async def test_two_registries_write_each_message_once(log):
    await orders(log, 40)
    await asyncio.gather(*(log.writer().sweep("tail") for _ in range(4)))
    reading = await log.write()
    assert reading.problems == []
    assert sorted(entry.about for entry in reading.entries) == sorted(f"o-{number}" for number in range(40))


@pytest.fixture
async def whole(log, monkeypatch):
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 3)
    for batch in range(3):
        await orders(log, 3, prefix=f"b{batch}")
        await log.write()
    await orders(log, 2, prefix="last")
    reading = await log.write()
    assert reading.problems == []
    assert (reading.segments, len(reading.entries)) == (3, 11)
    return log


def overwrite(store, key, data):
    """Put other bytes in the place of a segment, in a store where nothing keeps what was there."""
    store._erase(key)
    store._client.write(store.bucket, key, memoryview(data))


def swap_lines(data):
    lines = data.split(b"\n")
    lines[0], lines[1] = lines[1], lines[0]
    return b"\n".join(lines)


TAMPERING = {
    "an altered entry": (lambda data: data.replace(b"b1-1", b"b1-9", 1), "audit/000002.jsonl"),
    "a removed entry": (lambda data: data.split(b"\n", 1)[1], "audit/000002.jsonl: Entry 5"),
    "moved entries": (swap_lines, "audit/000002.jsonl: Entry 5"),
    "a segment that was cut off": (lambda data: b"\n".join(data.split(b"\n")[:2]), "is no anchor"),
    "another anchor": (lambda data: data.replace(b'"sig":"M', b'"sig":"N', 1), "audit/000002.jsonl"),
}


@pytest.mark.parametrize("how", TAMPERING)
async def test_what_was_done_to_a_segment_is_found_and_named(whole, how):
    change, named = TAMPERING[how]
    key = segment_key(2)
    data = whole.store.find(key)
    assert change(data) != data
    overwrite(whole.store, key, change(data))
    assert named in (await whole.read()).problems[0]
    overwrite(whole.store, key, data)
    assert (await whole.read()).problems == []


@pytest.mark.parametrize(("number", "named"), [(1, "audit/000001.jsonl is missing"), (3, "segments are there")])
async def test_a_segment_that_was_removed_is_found(whole, number, named):
    whole.store._erase(segment_key(number))
    assert named in (await whole.read()).problems[0]


async def test_a_segment_that_something_hides_or_replaces_is_named_and_its_first_version_read(whole):
    whole.store._client.remove_object(bucket_name=whole.store.bucket, object_name=segment_key(3))
    reading = await whole.read()
    assert reading.problems == ["audit/000003.jsonl: a delete marker hides it; the version before the marker was read."]
    assert len(reading.entries) == 11
    whole.store._client.write(whole.store.bucket, segment_key(2), memoryview(b"{}"))
    reading = await whole.read()
    assert "audit/000002.jsonl: it was replaced" in reading.problems[0]
    assert len(reading.problems) == 2
    exported = export_log(whole.store, await whole.tail(), 3)
    assert read_export(exported, trust(whole.keys).keys()).problems == []


async def test_a_record_that_was_changed_is_found(whole):
    entry = await whole.bucket.get("tail")
    cut = entry.value.model_copy(update={"entries": entry.value.entries[:1]})
    assert "The log ends with entry 11" in read_log(whole.store, cut, trust(whole.keys).keys()).problems[0]
    altered = entry.value.entries[0].model_copy(update={"who": "another"})
    cut = entry.value.model_copy(update={"entries": (altered, *entry.value.entries[1:])})
    assert "Entry 11 follows" in read_log(whole.store, cut, trust(whole.keys).keys()).problems[0]


async def test_a_log_that_a_stranger_wrote_anew_is_found(whole, tmp_path):
    """With the store and the bus, and without the registry's key."""
    tail = await whole.tail()
    reading = read_log(whole.store, tail, trust(tmp_path / "of a stranger").keys())
    assert "not listed" in reading.problems[0]


async def test_segments_by_a_revoked_key_are_told_apart_from_tampering(whole):
    keys = attester_keys(whole.keys)
    keys.revoke("registry", SystemClock().now())
    await orders(whole, 1, prefix="after")  # the registry is restarted with its new key, and seals a segment
    await whole.write()
    reading = await whole.read()
    assert (reading.problems, reading.segments) == ([], 4)
    assert [each.split(" ")[0] for each in reading.distrusted] == [segment_key(number) for number in (1, 2, 3)]
    data = whole.store.find(segment_key(2))
    for change, named in TAMPERING.values():
        overwrite(whole.store, segment_key(2), change(data))
        assert named in (await whole.read()).problems[0]
    overwrite(whole.store, segment_key(2), data)
    assert read_export(export_log(whole.store, await whole.tail(), 4), trust(whole.keys).keys()).problems == []


async def test_a_segment_by_a_revoked_key_after_one_by_its_successor_is_tampering(whole, monkeypatch):
    old = attester(whole.keys, "registry")
    attester_keys(whole.keys).revoke("registry", SystemClock().now())
    await orders(whole, 1, prefix="after")
    await whole.write()
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 64)
    await orders(whole, 2, prefix="later")
    await whole.write()
    tail = await whole.tail()
    await StoredSegments(whole.store, old, trust(whole.keys), unlocked).put(
        tail.model_copy(update={"sealing": len(tail.entries)})
    )
    assert any("audit/000005.jsonl" in each and "revoked" in each for each in (await whole.read()).problems)


async def test_entries_that_are_not_sealed_cannot_be_written_with_the_bucket_alone(whole):
    keys = trust(whole.keys).keys()
    tail = await whole.tail()
    item = domain.missing_item(domain.SOURCES[0], 1, 1, SystemClock().now())
    sealed = tail.model_copy(update={"entries": (), "count": 9, "head": tail.entries[0].previous})
    for forged in (
        domain.append(tail, [item], {}),
        domain.append(sealed, [item], {}),
        sealed,
        tail.model_copy(update={"cursors": {**tail.cursors, "orders": 99}}),
        tail.model_copy(update={"signature": None}),
    ):
        assert "newest entries" in read_log(whole.store, forged, keys).problems[0]
        assert read_export(export_log(whole.store, forged, 3), keys).problems != [] or forged.head == tail.head
    stranger = StoredSegments(whole.store, attester(whole.keys, "merger"), trust(whole.keys), unlocked)
    signed = domain.append(tail, [item], {})
    signed = signed.model_copy(update={"signature": stranger.sign(signed)})
    assert "may not attest audit" in read_log(whole.store, signed, keys).problems[0]


async def test_another_segment_at_the_next_place_stops_the_log_instead_of_being_taken(whole, monkeypatch):
    overwrite(whole.store, segment_key(4), b'{"forged":1}\n{"anchor":{}}\n')
    await orders(whole, 1, prefix="next")
    with pytest.raises(Permanent, match="other entries"):
        await whole.write()
    whole.store._erase(segment_key(4))
    assert (await whole.write()).problems == []


async def alerts(log):
    """Return the facts of alerts on the bus, with their targets."""
    facts = await stored_facts(log.js, cf.AlertRaised), await stored_facts(log.js, cf.AlertResolved)
    return [[(event.data.alert_id, event.data.target) for event in events] for events in facts]


async def test_a_log_whose_record_was_lost_goes_on_behind_its_segments_and_says_what_is_missing(
    whole, settings, tmp_path, monkeypatch
):
    released = await asyncio.to_thread(release, whole.store, tmp_path, model="audited-bot")
    before = await whole.read()
    await whole.js.delete_msg("SLIPWAY_ORDERS", 10)  # of the two messages that were in no segment
    await whole.js.purge_stream("KV_audit")
    status, _, err = await asyncio.to_thread(slipway, whole, settings, "audit")
    assert (status, "tampered" in err, "after entry 9" in err) == (1, False, True)
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 64)
    reading = await whole.write()
    assert (reading.problems, reading.segments) == ([], 3)
    assert reading.entries[:9] == before.entries[:9]
    assert [(entry.kind, entry.source) for entry in reading.entries[9:]] == [
        ("missing", "KV_audit/tail"),
        ("missing", "SLIPWAY_ORDERS/10-10"),
        ("order", "SLIPWAY_ORDERS/11"),
    ]
    status, _, err = await asyncio.to_thread(slipway, whole, settings, "audit")
    assert (status, "tampered" in err, "Entry 10: The record" in err) == (0, False, True)
    raised, resolved = await alerts(whole)
    target = next(target for _, target in raised if target.model == "audited-bot")
    assert (target.version, resolved) == (released.manifest.version, [])
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 3)
    assert (await whole.write()).problems == []
    assert (await alerts(whole)) == [raised, raised]
    data = whole.store.find(segment_key(2))
    overwrite(whole.store, segment_key(2), data.replace(b"b1-1", b"b1-9", 1))
    status, _, err = await asyncio.to_thread(slipway, whole, settings, "audit")
    assert (status, "tampered" in err, segment_key(2) in err) == (1, True, True)


async def test_a_lost_record_and_a_missing_segment_end_the_log_with_an_alert_until_that_is_back(whole, tmp_path):
    await asyncio.to_thread(release, whole.store, tmp_path, model="stopped-bot")
    data = whole.store.find(segment_key(2))
    whole.store._erase(segment_key(2))
    await whole.js.purge_stream("KV_audit")
    with pytest.raises(Permanent, match=r"audit/000002\.jsonl is missing"):
        await whole.writer().sweep("tail")
    with pytest.raises(Permanent, match="Nothing is appended"):
        await whole.writer().sweep("tail")
    raised, resolved = await alerts(whole)
    assert ([target.model for _, target in raised].count("stopped-bot"), resolved) == (1, [])
    overwrite(whole.store, segment_key(2), data)
    assert (await whole.write()).problems == []
    _, resolved = await alerts(whole)
    assert set(raised) <= set(resolved)


async def test_a_writer_that_ended_before_it_raised_the_alert_of_a_lost_record_leaves_that_to_the_next(
    whole, tmp_path, monkeypatch
):
    await asyncio.to_thread(release, whole.store, tmp_path, model="ended-bot")
    await whole.js.purge_stream("KV_audit")
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 64)
    with pytest.raises(Killed):
        await replace(whole.writer(), alerts=EndingAlerts()).sweep("tail")
    assert await alerts(whole) == [[], []]
    await whole.write()
    await whole.write()
    raised, _ = await alerts(whole)
    assert [target.model for _, target in raised].count("ended-bot") == 1
    monkeypatch.setattr(domain, "SEGMENT_ENTRIES", 3)
    await whole.write()
    assert await alerts(whole) == [raised, raised]


async def test_an_export_is_verified_alone_and_what_was_changed_in_it_is_found(whole):
    tail, keys = await whole.tail(), trust(whole.keys).keys()
    data = export_log(whole.store, tail, 3)
    assert read_export(data, keys).problems == []
    assert len(read_export(data, keys).entries) == 11
    lines = data.rstrip(b"\n").split(b"\n")
    for number in range(len(lines) - 1):
        assert read_export(b"\n".join(lines[:number] + lines[number + 1 :]), keys).problems != [], number
    for number in range(1, len(lines)):
        assert read_export(b"\n".join(lines[:number]), keys).problems != [], number
    for at in range(0, len(data) - 1, 97):
        flipped = bytearray(data)
        flipped[at] ^= 1
        assert read_export(bytes(flipped), keys).problems != [], at


async def test_the_command_shows_filters_exports_and_names_what_is_wrong(whole, settings, tmp_path):
    def run(*arguments):
        return asyncio.to_thread(slipway, whole, settings, *arguments)

    status, out, err = await run("audit")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) in (11, 12)
    status, out, _ = await run("audit", "--model", "another", "--json")
    assert (status, json.loads(out)) == (0, [])
    file = tmp_path / "log.jsonl"
    status, out, _ = await run("audit", "--export", str(file))
    assert (status, "wrote 11 entries" in out) == (0, True)
    status, out, _ = await run("audit", "verify", str(file))
    assert (status, "11 entries in a whole chain, 3 signed segments" in out) == (0, True)
    Path(file).write_bytes(file.read_bytes().replace(b"b1-1", b"b1-9", 1))
    status, out, err = await run("audit", "verify", str(file))
    assert status == 1
    assert "was tampered with" in err
    overwrite(whole.store, segment_key(1), whole.store.find(segment_key(1)).replace(b"b0-1", b"b0-9", 1))
    status, _, err = await run("audit", "--since", "1h")
    assert status == 1
    assert "audit/000001.jsonl" in err
