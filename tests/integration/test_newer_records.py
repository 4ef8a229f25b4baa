"""A service whose records a newer version wrote: it does not run, says why, and leaves them as they are."""

import asyncio

import httpx
import pytest

from clients.cli import dead_letters
from contracts.envelope import plain
from contracts.facts import AlertRaised, VariantFailed, VariantRequested
from contracts.routes import Route
from contracts.services import EVENTS, durable_name
from contracts.version import VERSION
from contracts.vocabulary import canonical_json
from services.notifier.domain.record import ModelNotices
from services.registry.domain.record import Release
from services.registry.main import kind_of
from shared.messaging.bus import publish_event
from shared.runtime.exits import NEWER_RECORDS
from shared.storage.kept_records import KeptRecords, NewerRecords
from shared.storage.kv import Bucket
from shared.storage.record_format import dump
from tests.integration.bus_process import facts, failed_fact, requested, running_bus
from tests.integration.notifier_process import alert, event, notifier, until

READS = durable_name("notifier", AlertRaised)


def status(settings):
    try:
        return httpx.get(f"http://127.0.0.1:{settings.http_port}/readyz", timeout=2).status_code
    except httpx.HTTPError:
        return None


async def test_it_ends_before_it_reads_a_message_and_changes_nothing(js, bus_settings):
    bucket, notices = await js.key_value("notifications"), Bucket(js, "notifications", ModelNotices)
    known = ModelNotices.SCHEMA_VERSION
    await bucket.put("cat", dump(ModelNotices(model="cat")))
    await bucket.put("bot", dump(ModelNotices(model="bot")).replace(b":%d," % known, b":%d," % (known + 1), 1))
    before = [await notices.raw(key) for key in ("bot", "cat")]
    await publish_event(js, event(alert()))
    statuses = set()
    with notifier(bus_settings, []) as process:
        while process.process.poll() is None:
            statuses.add(await asyncio.to_thread(status, bus_settings))
        assert process.wait_until_dead() == NEWER_RECORDS, process.log
        assert 200 not in statuses, "the replica that it would replace must stay"
        assert f"notifications/bot has schema version {known + 1}, and notifier {VERSION}" in process.log
        assert "record_too_new" in process.log
        assert "Traceback" not in process.log
    assert [await notices.raw(key) for key in ("bot", "cat")] == before
    assert (await js.consumer_info(EVENTS, READS)).delivered.stream_seq == 0

    await bucket.put("bot", dump(ModelNotices(model="bot")))  # as after a restored backup
    with notifier(bus_settings, []):
        await until(lambda: status(bus_settings) == 200, "the notifier being ready")


async def test_every_kind_of_a_bucket_is_compared_with_its_own_version(js):
    bucket = await js.key_value("releases")
    kept = KeptRecords("registry", {"releases": kind_of, "no-such-bucket": lambda _: Release})
    for number in range(130):
        await bucket.put(f"bot.r{number}", b'{"schema_version":%d,"model":"bot"}' % Release.SCHEMA_VERSION)
    await bucket.put("bot.damaged", b"{not json")
    await bucket.put("bot.old", b'{"model":"bot"}')
    await KeptRecords("registry", {"releases": kind_of}).refuse_newer(lambda: js)
    await bucket.put("bot.locks", b'{"schema_version":2}')
    with pytest.raises(NewerRecords, match=r"wrote 1 record: releases/bot\.locks has schema version 2"):
        await kept.refuse_newer(lambda: js)
    await bucket.delete("bot.locks")
    await kept.refuse_newer(lambda: js)
    await kept.check()
    assert not kept.has_older


async def test_records_of_an_older_version_are_noticed_also_in_buckets_that_others_write_too(js):
    releases, routes = await js.key_value("releases"), await js.key_value("routes")
    await releases.put("bot.r1", b'{"schema_version":%d,"model":"bot"}' % Release.SCHEMA_VERSION)
    await routes.put("bot", b'{"schema_version":%d,"model":"bot"}' % (Route.SCHEMA_VERSION - 1))
    buckets = {"kinds": {"releases": kind_of}, "shared": {"routes": lambda _: Route}}
    kept = KeptRecords("registry", **buckets)
    await kept.refuse_newer(lambda: js)
    assert kept.has_older
    await routes.put("bot", b'{"schema_version":%d,"model":"bot"}' % (Route.SCHEMA_VERSION + 1))
    kept = KeptRecords("registry", **buckets)
    await kept.refuse_newer(lambda: js)  # a newer record that it shares stops no service
    assert not kept.has_older


async def test_an_event_with_a_value_of_a_newer_version_waits_and_holds_up_no_other(js, bus_settings):
    newer = plain(requested("of a newer registry"))
    newer["data"]["variant"] = "int1"
    handled = []

    async def handler(event):
        handled.append(event.id)
        return failed_fact()

    async with running_bus(bus_settings, handler):
        await js.publish(requested("e1").nats_subject, canonical_json(newer))
        await publish_event(js, requested("e2"))
        await facts(js, VariantFailed)
        info = await js.consumer_info(EVENTS, durable_name("quantiser", VariantRequested))
        assert (info.num_ack_pending, info.ack_floor.stream_seq) == (1, 0), "it is for a newer replica"
        assert handled == ["e2"]
        assert await dead_letters.list_all(js) == []
