"""The quantiser as a process of its own on real NATS and a real S3 server: facts in, variants and facts out."""

import asyncio
import contextlib
import json
import uuid
from datetime import UTC, datetime

import psutil
import pytest
from nats.js.errors import NotFoundError

from contracts.envelope import Event
from contracts.facts import (
    ReleaseFinished,
    VariantFailed,
    VariantQuantised,
    VariantRequested,
)
from contracts.facts import WorkProgressed as Progressed
from contracts.manifests import MergedManifest, VariantManifest
from contracts.policy import QualityGate
from contracts.services import EVENTS, durable_name
from contracts.vocabulary import ServingSettings, digest_of
from services.quantiser.app import CHECK_INTERVAL_S
from shared.messaging.bus import publish_event
from shared.runtime.process import memory_bytes
from shared.storage.blobs import Store, manifest_key
from shared.storage.held_out import read_held_out
from testbed import factories
from testbed.models import tiny_base
from testbed.quantiser import QuantiserService, request, stored_merged
from testbed.servers import running, wait_until

pytestmark = [pytest.mark.real]


@pytest.fixture
def store(settings):
    return Store(settings)


@pytest.fixture
def merged(store, tmp_path):
    """The ref of a merged tiny model in the store."""
    return stored_merged(store, tiny_base(tmp_path / "merged", seed=uuid.uuid4().int % 1000))


@pytest.fixture
def service(js, settings, tmp_path):
    with running(QuantiserService(tmp_path, settings)) as service:
        yield service


@pytest.fixture
def stubbed(js, settings, tmp_path):
    """The service with children that compute nothing, where only processes and facts matter."""
    with running(QuantiserService(tmp_path, settings, module="tests.kit.stubs.quantiser")) as service:
        yield service


async def answers(js, fact, count=1, timeout_s=120.0):
    """Wait for stored facts of one type."""
    sub = await js.pull_subscribe(f"{fact.TYPE}.>", stream=EVENTS)
    events = []
    async with asyncio.timeout(timeout_s):
        while len(events) < count:
            with contextlib.suppress(TimeoutError):
                events += [
                    Event[fact].model_validate_json(message.data) for message in await sub.fetch(count, timeout=1)
                ]
    await sub.unsubscribe()
    return events


async def until(condition, timeout_s=60.0):
    return await asyncio.to_thread(wait_until, condition, timeout_s=timeout_s)


async def test_int8_is_made_committed_measured_and_found_again(js, store, merged, service, tmp_path):
    live = await js._nc.subscribe(f"{Progressed.TYPE}.{factories.MODEL}.*")
    first = request(merged)
    await publish_event(js, first)
    (answer,) = await answers(js, VariantQuantised)
    assert answer.causationid == first.id
    made = answer.data
    manifest = VariantManifest.model_validate_json(store.get(made.manifest))
    assert manifest.merged == merged
    assert manifest.quality == made.quality
    assert manifest.quality.tokens == 5 * 255
    assert manifest.settings["method"] == "smoothquant-gptq"
    assert manifest.settings["calibration_tokens_used"] == 512
    assert manifest.engine.name == "llmcompressor"
    assert manifest.calibration_digest != manifest.held_out_digest
    assert made.size_ratio < 1
    assert manifest.peak_rss_bytes > 100_000_000
    store.fetch_files(manifest.files, tmp_path / "fetched")
    assert "quantization_config" in json.loads((tmp_path / "fetched" / "config.json").read_text())
    steps = set()
    with contextlib.suppress(TimeoutError):
        while True:
            event = Event[Progressed].model_validate_json((await live.next_msg(timeout=0.2)).data)
            steps.add((event.data.step, event.data.done, event.data.total, event.data.unit))
            assert event.data.variant == "int8"
    assert {("quantise", 1.0, 2.0, "layers"), ("quantise", 2.0, 2.0, "layers")} <= steps
    reported = {step for step, *_ in steps} - {"check precision"}  # on a CPU with products of bfloat16 only
    assert reported == {"download", "load", "smooth", "quantise", "evaluate", "evaluate merged model", "upload"}
    work_log = service.folder / "work" / "quantiser" / "work.log"
    size = work_log.stat().st_size
    await publish_event(js, request(merged))  # another event, the same work
    _, again = await answers(js, VariantQuantised, count=2)
    assert again.data == made
    assert work_log.stat().st_size == size  # no child was started
    assert not list((service.folder / "work" / "quantiser" / "scratch").iterdir())


async def test_bf16_is_the_merged_files_and_other_serving_settings_another_variant_of_them(js, store, merged, service):
    first = MergedManifest.model_validate_json(store.get(merged))
    settings = ServingSettings(tool_parser="hermes")
    update = {"output_key": digest_of(uuid.uuid4().bytes), "serving": settings, "settings_of": merged}
    derived = first.model_copy(update=update)
    ref, _ = store.put_manifest(manifest_key("merged", derived.output_key), derived)
    for asked in (merged, ref, ref):
        await publish_event(js, request(asked, variant="bf16", gate=QualityGate(max_perplexity_ratio=1.0)))
    plain, other, again = (event.data for event in await answers(js, VariantQuantised, 3))
    manifests = [VariantManifest.model_validate_json(store.get(fact.manifest)) for fact in (plain, other)]
    assert [manifest.serving for manifest in manifests] == [None, settings]
    assert [manifest.merged for manifest in manifests] == [merged, ref]
    assert manifests[0].files == manifests[1].files
    assert manifests[0].held_out_text == manifests[1].held_out_text is not None, "it was measured once"
    assert manifests[0].files == first.files
    assert (plain.size_ratio, plain.settings["dtype"]) == (1.0, "bfloat16")
    assert (plain.quality.perplexity_ratio, plain.quality.mean_kl) == (1.0, 0.0)
    windows = read_held_out(store, plain.manifest, manifests[0])
    assert sum(len(window.token_ids) - 1 for window in windows) == plain.quality.tokens > 0
    assert plain.manifest.digest != other.manifest.digest
    assert again.manifest == other.manifest


async def test_what_cannot_be_made_ends_as_a_fact_before_the_work_begins_and_the_next_meets_its_gate_or_not(
    js, store, merged, stubbed
):
    unreadable = store.create(
        f"checkpoints/support-bot/{uuid.uuid4().hex}.jsonl",
        b'"fine"\n{"messages": [{"role": "user", "content": [1]}]}\n',
    )
    nowhere = factories.ref("no calibration", "checkpoints/support-bot")
    expected = {}
    for event, code in (
        (request(merged, variant="gptq-int4"), "group_size_impossible"),
        (request(factories.ref("nowhere")), "artifact_not_found"),
        (request(merged, calibration=nowhere), "artifact_not_found"),
        (request(merged, evaluation=unreadable), "evaluation_invalid"),
    ):
        expected[event.id] = code
        await publish_event(js, event)
    failed = {event.causationid: event.data for event in await answers(js, VariantFailed, len(expected))}
    assert {event_id: fact.code for event_id, fact in failed.items()} == expected
    (reason,) = [fact.reason for fact in failed.values() if fact.code == "evaluation_invalid"]
    assert "line 2: the content of a message must be a string" in reason
    assert not (stubbed.folder / "work" / "quantiser" / "work.log").exists()  # no child was started
    lines = "\n".join(json.dumps({"prompt": f"Question {n}: why is the slipway greased?"}) for n in range(30))
    calibration = store.create(f"checkpoints/support-bot/{uuid.uuid4().hex}.jsonl", lines.encode())
    await publish_event(js, request(merged, calibration=calibration, gate=QualityGate(max_mean_kl=0.0)))
    *_, answer = await answers(js, VariantFailed, len(expected) + 1)
    assert (answer.data.code, answer.data.step, answer.data.variant) == ("quality_gate_failed", "quantise", "int8")
    assert "mean KL" in answer.data.reason
    kept = VariantManifest.model_validate_json(store.find(store.key_of(answer.data.manifest.uri)))
    assert kept.calibration_digest == calibration.digest  # kept for inspection, with what it was made of


async def test_kill_of_the_service_kills_the_child_and_a_new_one_finishes(js, store, merged, stubbed):
    await publish_event(js, request(merged))
    (worker,) = await until(stubbed.workers)
    worker.suspend()  # so that it cannot finish first
    assert worker.rlimit(psutil.RLIMIT_DATA) == (memory_bytes(), memory_bytes())
    stubbed.kill()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, timeout_s=60)
    stubbed.start()
    (answer,) = await answers(js, VariantQuantised)
    assert len(store.keys("manifests/variant/")) >= 1
    assert store.find(store.key_of(answer.data.manifest.uri)) is not None
    scratch = stubbed.folder / "work" / "quantiser" / "scratch"
    await until(lambda: not list(scratch.iterdir()))  # also what the killed one left


async def test_work_that_takes_too_long_ends_as_a_fact(js, merged, settings, tmp_path):
    service = QuantiserService(tmp_path, settings, module="tests.kit.stubs.quantiser", QUANTISER_TIMEOUT_S="0.5")
    service.start()
    try:
        await publish_event(js, request(merged))
        (answer,) = await answers(js, VariantFailed)
        assert (answer.data.step, answer.data.code) == ("quantise", "deadline_passed")
        assert "QUANTISER_TIMEOUT_S" in answer.data.reason
        assert await acknowledged(js, 1) == 0
    finally:
        service.stop()


def finished(release_id: str, outcome: str) -> Event[ReleaseFinished]:
    fact = ReleaseFinished(
        release_id=release_id, model=factories.MODEL, version=1, outcome=outcome, reason="The test says so."
    )
    return Event[ReleaseFinished](
        id=str(uuid.uuid4()),
        source="/slipway/registry",
        type=ReleaseFinished.TYPE,
        subject=factories.MODEL,
        time=datetime(2026, 11, 24, tzinfo=UTC),
        correlationid=release_id,
        data=fact,
    )


async def acknowledged(js, count):
    """Wait until so many requests are done with, and give the facts that came of them."""
    durable = durable_name("quantiser", VariantRequested)
    async with asyncio.timeout(60):
        while (info := await js.consumer_info(EVENTS, durable)).ack_floor.consumer_seq < count or info.num_ack_pending:
            await asyncio.sleep(0.1)
    return info.num_redelivered


async def test_end_of_the_release_ends_the_child_and_the_work_is_done_with(js, merged, stubbed):
    await publish_event(js, request(merged))
    (worker,) = await until(stubbed.workers)
    worker.suspend()  # so that it cannot finish first
    await publish_event(js, finished("r-0", "rejected"))  # another release
    await asyncio.sleep(1.5 * CHECK_INTERVAL_S)  # within it the child would be ended
    assert worker.is_running()
    await publish_event(js, finished("r-2", "aborted"))
    await publish_event(js, request(merged, release_id="r-2"))
    await publish_event(js, finished("r-1", "rejected"))
    assert await acknowledged(js, 2) == 0
    assert not worker.is_running()
    assert not list((stubbed.folder / "work" / "quantiser" / "scratch").iterdir())
    await publish_event(js, request(merged, release_id="r-3", variant="bf16"))
    (answer,) = await answers(js, VariantQuantised)
    assert answer.data.variant == "bf16"  # the others left no fact: their releases are over
    with pytest.raises(NotFoundError):
        await js.get_last_msg(EVENTS, f"{VariantFailed.TYPE}.{factories.MODEL}.*")
