"""The monitor as a process on a real bus and store: telemetry in, alerts out, whatever happens to it in between."""

import asyncio
import json
from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.envelope import CONTENT_TYPE, nats_subject
from contracts.facts.watch import Features
from contracts.manifests import FolderManifest
from contracts.services import DEADLETTER
from services.monitor.adapters.store import StoredReferences
from services.monitor.domain import sketch
from services.monitor.domain.record import MonitorState
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.services import running_service, stored_facts, wait_for_fact
from tests.integration.monitor_process import (
    CLOCK,
    MODULE,
    QUICK,
    batch,
    envelope,
    for_seconds,
    go_live,
    keep_running,
    live,
    publish,
    record,
    settled_watch,
    slow,
)
from tests.kit.conformance_monitor import ReferencesConformance

WALKED = 80
"""Requests of a story."""
FACTS = (f.AlertRaised, f.AlertUpdated, f.AlertResolved, f.WindowSummarised, f.CanaryAssessed)


@pytest.fixture
def monitor(js, settings):
    with running_service(MODULE, settings, **QUICK) as process:
        yield process


async def test_telemetry_in_alert_out_resolved(js, monitor):
    await live(js)
    await publish(js, batch(for_seconds(record, 15, ago_s=20)))
    await publish(js, batch(for_seconds(slow, 20)))
    (event,) = await wait_for_fact(js, f.AlertRaised)
    alert = event.data
    assert (alert.kind, alert.trigger, alert.target) == ("latency", "slow-first-token", k.target(7))
    assert alert.alert_id.startswith(f"{k.target(7)}/slow-first-token/2")
    assert alert.value > alert.limit == 0.05
    assert alert.raised_at >= alert.first_bad_at
    assert alert.runbook == "docs/runbooks/latency.md"
    assert (event.correlationid, event.environment, event.source) == ("r-7", "production", "/slipway/monitor")
    async with asyncio.timeout(60):
        while not await stored_facts(js, f.AlertResolved):
            await publish(js, batch([record() for _ in range(20)]))
            await asyncio.sleep(0.3)
    (resolved,) = await stored_facts(js, f.AlertResolved)
    assert resolved.data.alert_id == alert.alert_id
    assert len(await stored_facts(js, f.AlertRaised)) == 1
    windows = [event.data for event in await wait_for_fact(js, f.WindowSummarised)]
    assert sum(sketch.count(window.ttft_histogram) for window in windows) == sum(window.requests for window in windows)


async def test_duplicated_reordered_and_malformed_telemetry_is_harmless(js, monitor):
    await live(js)
    records = [record(ago_s=n / 100) for n in range(100)]
    await publish(js, batch(records), event_id="one")
    await publish(js, batch(reversed(records)), event_id="two")
    await publish(
        js, batch([record(e2e_ms=-1.0), record(ttft_ms=1e12), record(scheduled_at=CLOCK.now() + timedelta(days=1))])
    )
    subject = nats_subject(f.InferenceBatch.TYPE, k.MODEL, "gateway")
    headers = {"content-type": CONTENT_TYPE}
    for body in (b"", b"\xff\xfe", b"[]", b'{"specversion": "1.0"}', json.dumps({"data": {"records": "x"}}).encode()):
        await js.publish(subject, body, headers=headers)
    broken = envelope(batch(records[:1])).model_dump(mode="json", exclude_none=True)
    broken["data"]["records"][0]["e2e_ms"] = "soon"
    await js.publish(subject, json.dumps(broken).encode(), headers=headers)
    await publish(js, batch([record()]), event_id="last")
    state = await settled_watch(js, "last")
    assert state.targets[str(k.target(7))].requests == 101
    assert state.implausible == 3
    async with asyncio.timeout(60):
        while (await js.stream_info(DEADLETTER)).state.messages < 6:
            await asyncio.sleep(0.1)
    assert await stored_facts(js, f.AlertRaised) == []
    assert monitor.process.poll() is None


async def walk(js):
    """Play one story: healthy, then slow, then out of traffic; wait until every request is in a summary."""
    await live(js)
    await publish(js, batch(for_seconds(record, 15, ago_s=25)), event_id="healthy")
    await settled_watch(js, "healthy")
    await publish(js, batch(for_seconds(slow, 20, ago_s=5)), event_id="slow")
    await settled_watch(js, "slow")
    await publish(js, batch(for_seconds(slow, 5)), event_id="more")
    await settled_watch(js, "more")
    await wait_for_fact(js, f.AlertRaised)
    await go_live(js, active=8, epoch=2)
    async with asyncio.timeout(240):  # each death costs the 12 s after which its message is delivered again
        while sum(event.data.requests for event in await stored_facts(js, f.WindowSummarised)) < WALKED:
            await asyncio.sleep(0.1)


async def test_killed_after_a_publish_it_says_everything_once(js, settings):
    """Other moments: `tests/world`."""
    deaths = []
    patient = QUICK | {"MONITOR_LATENESS_S": "600"}  # no death makes a batch late, on a slow machine either
    with running_service(MODULE, settings, **patient, SLIPWAY_FAILPOINT="monitor.after_publish") as process:
        keeper = asyncio.create_task(keep_running(process, deaths))
        try:
            await walk(js)
        finally:
            keeper.cancel()
    assert deaths == [-9]
    assert len(await stored_facts(js, f.AlertRaised)) == 1
    for fact in FACTS:
        ids = [event.id for event in await stored_facts(js, fact)]
        assert len(ids) == len(set(ids)), fact.TYPE
    windows = [event.data for event in await stored_facts(js, f.WindowSummarised)]
    assert sum(window.requests for window in windows) == WALKED
    assert len({window.window.from_ for window in windows}) == len(windows)


async def test_drift_is_told_with_evidently_as_evidence(js, settings, monitor):
    await live(js)

    def rows(prompt_chars):
        return batch(
            record(
                features=Features(
                    prompt_chars=prompt_chars(n),
                    output_chars=100 + n % 37,
                    non_letter_ratio=0.1 + n % 7 / 100,
                    repetition_ratio=n % 5 / 50,
                )
            )
            for n in range(200)
        )

    store = Store(settings)
    await publish(js, rows(lambda n: 100 + n % 83), event_id="reference")
    async with asyncio.timeout(60):
        while not store.keys(f"references/{k.MODEL}/"):
            await asyncio.sleep(0.1)
    bucket = Bucket(js, "alerts", MonitorState)

    async def drift_state():
        return (await bucket.get(f"production.{k.MODEL}")).value.targets[str(k.target(7))].drift

    async with asyncio.timeout(60):
        while (await drift_state()).reference is None:
            await asyncio.sleep(0.1)
    await publish(js, rows(lambda n: 101 + (n + 1) % 83), event_id="same")
    async with asyncio.timeout(60):
        while (await drift_state()).compared < 1:
            await asyncio.sleep(0.1)
    assert await stored_facts(js, f.AlertRaised) == []
    await publish(js, rows(lambda n: 400 + n % 83), event_id="other")
    (event,) = await wait_for_fact(js, f.AlertRaised)
    alert = event.data
    assert (alert.kind, alert.severity, alert.trigger) == ("drift", "warning", None)
    assert "prompt_chars" in alert.message
    assert alert.value == pytest.approx(1.0)
    manifest = FolderManifest.model_validate_json(store.get(alert.evidence))
    names = {file.path for file in manifest.files}
    assert names == {"report.html", "report.json", "rows.json", "verdict.json"}
    folder = settings.state_dir / "evidence"
    store.fetch_files(manifest.files, folder)
    theirs = {
        metric["config"]["column"]: metric["value"]
        for metric in json.loads((folder / "report.json").read_text())["metrics"]
    }
    ours = {
        column["column"]: column["p_value"] for column in json.loads((folder / "verdict.json").read_text())["columns"]
    }
    assert theirs == pytest.approx(ours, abs=1e-9)
    assert "<html" in (folder / "report.html").read_text().lower()


class TestStoredReferences(ReferencesConformance):
    @pytest.fixture
    def references(self, settings):
        store = Store(settings)
        for key in store.keys("references/"):
            store._client.remove_object(bucket_name=store.bucket, object_name=key)
        return StoredReferences(store)

    async def damage(self, references, reference):
        store = references._store
        key = reference.ref.uri.removeprefix(f"s3://{store.bucket}/")
        store._client.remove_object(bucket_name=store.bucket, object_name=key)
        store.put_manifest(key, b"{}")
