"""The benchmarker as a process of its own: real bus, real store, real Triton with the toy engine at known speeds."""

import asyncio
import contextlib
import itertools
import math
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton_client

from contracts.envelope import Event
from contracts.facts import VariantBenchmarked, VariantFailed, VariantStaged, WorkProgressed
from contracts.manifests import BenchmarkReport
from contracts.policy import LoadProfile, MetricGate, QualityGate
from contracts.services import EVENTS
from contracts.vocabulary import Target
from services.benchmarker.adapters.store import StoredReports
from services.benchmarker.adapters.triton import TritonEngine
from services.server_manager.domain.model_config import EngineConfig, plan_model_files, plan_target
from shared.errors import Permanent
from shared.messaging.bus import publish_event
from shared.serving.channels import Channels
from shared.storage.blobs import Store
from shared.storage.held_out import put_held_out
from testbed.attesters import attester, attester_variables, trust
from testbed.ports import free_port
from testbed.servers import Server, bus_variables, running, store_variables
from testbed.triton import TritonServer
from tests.unit.benchmarker.engine_conformance import TOKEN_NLL, ScoringConformance
from tests.unit.benchmarker.factories import served, staged, variant_manifest, window
from tests.unit.benchmarker.reports_conformance import ReportsConformance

pytestmark = [pytest.mark.real]
ROOT = Path(__file__).resolve().parents[2]
CANDIDATE_MS, BASELINE_MS = 40, 20
LOAD = LoadProfile(requests=30, rate_rps=6.0, output_tokens=6, warmup_requests=1, timeout_s=4.0)
GATES = (MetricGate(metric="ttft_ms", statistic="p50", max_value=4000),)
QUICK = LoadProfile(requests=4, rate_rps=20.0, output_tokens=6, warmup_requests=1, timeout_s=4.0)
QUALITY_GATE = QualityGate(max_perplexity_ratio=1.05)
_numbers = itertools.count(1)


class BenchmarkerService(Server):
    """`python -m services.benchmarker.main` with its environment."""

    name = "benchmarker"

    def __init__(self, folder: Path, settings, **more) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.variables = {
            **bus_variables(settings, self.name),
            **store_variables(settings, self.name),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "SLIPWAY_STATE_DIR": str(self.folder),
            "BENCHMARKER_PROGRESS_INTERVAL_S": "0",
            **attester_variables(self.folder, "services.benchmarker.main"),
            **more,
        }

    def command(self):
        return [sys.executable, "-m", "services.benchmarker.main"]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def ready(self):
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


class ToyFleet:
    """Toy models in a real Triton, loaded by name at a speed of their own."""

    def __init__(self, server: TritonServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def load(self, name: str, **toy: str) -> None:
        weights = self.folder / "weights"
        weights.mkdir(exist_ok=True)
        (weights / "config.json").write_text("{}")
        config = plan_target(EngineConfig(kind="toy", toy=toy), name, "sha256:" + "0" * 64, None)
        files = plan_model_files(name, str(weights), config)
        for path, text in files.items():
            place = self.server.repository / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        self._call("load_model", name)

    def unload(self, name: str) -> None:
        self._call("unload_model", name)

    def _call(self, what: str, name: str) -> None:
        with contextlib.closing(triton_client.InferenceServerClient(self.server.endpoint)) as client:
            getattr(client, what)(name)

    def pair(self, baseline: dict[str, str] | None = None, **toy: str):
        """Load a fresh candidate and baseline of a model that no other test uses."""
        model = f"bot-{next(_numbers)}"
        targets = [Target(model=model, version=version, variant="bf16") for version in (2, 1)]
        self.load(targets[0].triton_name, token_delay_ms=str(CANDIDATE_MS), crash_text="CRASH", **toy)
        self.load(targets[1].triton_name, token_delay_ms=str(BASELINE_MS), **(baseline or {}))
        return [served(target, self.server.endpoint) for target in targets]


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture
def fleet(triton, tmp_path):
    return ToyFleet(triton, tmp_path)


@pytest.fixture
def service(js, settings, tmp_path):
    with running(BenchmarkerService(tmp_path, settings)) as process:
        yield process


class Bench:
    """What a test says to the benchmarker and hears from it."""

    def __init__(self, js, settings) -> None:
        self.js = js
        self.store = Store(settings)

    async def stage(self, candidate, baseline, **more) -> Event:
        fact = staged(candidate=candidate, baseline=baseline, **{"load": LOAD, "gates": GATES, **more})
        event = Event[VariantStaged](
            id=str(uuid.uuid4()),
            source="/slipway/server-manager",
            type=fact.TYPE,
            subject=candidate.target.model,
            time=datetime.now(UTC),
            correlationid="r1",
            data=fact,
        )
        await publish_event(self.js, event)
        return event

    async def receive(self, fact, count: int = 1, *, timeout_s: float = 60.0):
        """Wait for `count` facts of a type and give them all."""
        async with asyncio.timeout(timeout_s):
            while True:
                info = await self.js.stream_info(EVENTS, subjects_filter=f"{fact.TYPE}.>")
                if sum((info.state.subjects or {}).values()) >= count:
                    break
                await asyncio.sleep(0.05)
        subscription = await self.js.pull_subscribe(f"{fact.TYPE}.>", stream=EVENTS)
        messages = await subscription.fetch(100, timeout=1)
        await subscription.unsubscribe()
        return [Event[fact].model_validate_json(message.data) for message in messages]

    async def until_working(self, model: str, *, timeout_s: float = 30.0) -> None:
        """Wait until the benchmarker reports progress on a model."""
        seen = asyncio.get_running_loop().create_future()

        async def note(message) -> None:
            if not seen.done():
                seen.set_result(message)

        subscription = await self.js._nc.subscribe(f"{WorkProgressed.TYPE}.{model}.*", cb=note)
        await asyncio.wait_for(seen, timeout_s)
        await subscription.unsubscribe()


@pytest.fixture
def bench(js, settings):
    return Bench(js, settings)


class TestTritonEngine(ScoringConformance):
    """The real engine keeps the promises that the fake is tested by."""

    @pytest.fixture(autouse=True)
    def _loaded(self, triton, fleet):
        self.endpoint = triton.endpoint
        fleet.load("bot.v1.bf16", token_delay_ms="5", token_nll=str(TOKEN_NLL))

    def run(self, main):
        return asyncio.run(main)

    @contextlib.asynccontextmanager
    async def engine(self):
        channels = Channels()
        try:
            yield TritonEngine(channels)
        finally:
            await channels.close()

    def answering(self):
        return served(Target(model="bot", version=1, variant="bf16"), self.endpoint)

    def absent(self):
        return served(Target(model="bot", version=9, variant="bf16"), self.endpoint)


def put_manifest(store, target, windows):
    """Commit the manifest of a variant that was measured on these windows."""
    manifest = variant_manifest(target, put_held_out(store, windows))
    ref, _ = store.put_manifest(f"manifests/variant/{uuid.uuid4().hex}.json", manifest)
    return ref


class TestStoredReports(ReportsConformance):
    """The real store keeps the promises that the fake is tested by."""

    @pytest.fixture
    def reports(self, settings):
        return StoredReports(Store(settings), attester(settings.state_dir, "benchmarker"), trust(settings.state_dir))

    def put(self, reports, name, data):
        return reports._store.create(f"evaluations/{uuid.uuid4().hex}-{name}", data)

    def put_variant(self, reports, windows):
        return put_manifest(reports._store, Target(model="bot", version=1, variant="int8"), windows)


async def test_latencies_are_at_least_those_the_engine_was_set_to_and_what_was_measured_is_not_measured_again(
    service, fleet, bench
):
    """Also by a benchmarker that was killed: it measures again what it has not published, and publishes it once."""
    candidate, baseline = fleet.pair()
    seen = []

    async def note(message) -> None:
        seen.append(Event[WorkProgressed].model_validate_json(message.data).data)

    await bench.js._nc.subscribe(f"{WorkProgressed.TYPE}.{candidate.target.model}.*", cb=note)
    cause = await bench.stage(candidate, baseline)
    (event,) = await bench.receive(VariantBenchmarked)
    assert [step.done for step in seen] == list(range(1, 61))
    assert {(step.step, step.total, step.unit, step.variant) for step in seen} == {
        ("benchmark", 60, "requests", "bf16")
    }
    fact = event.data
    assert (event.causationid, event.correlationid) == (cause.id, "r1")
    assert (fact.target, fact.baseline) == (candidate.target, baseline.target)
    for summary, delay_ms in ((fact.candidate_summary, CANDIDATE_MS), (fact.baseline_summary, BASELINE_MS)):
        assert (summary.requests, summary.errors) == (30, 0)
        assert summary.ttft_ms.p50 >= delay_ms
        assert summary.itl_ms.p50 >= 0.65 * delay_ms  # a busy machine adds to it, never takes away
        assert summary.output_tokens == 30 * 6
    itl = next(ratio for ratio in fact.ratios if ratio.metric == "itl_ms.p50")
    assert itl.value > 1.0, "twice the delay, plus what the machine adds to both"
    assert fact.verdict == "pass"
    report = BenchmarkReport.model_validate_json(bench.store.get(fact.report))
    assert len(report.requests) == 60
    assert report.hardware["fingerprint"] == fact.hardware

    fleet.unload(candidate.target.triton_name)
    fleet.unload(baseline.target.triton_name)
    await bench.stage(candidate, baseline)
    first, second = await bench.receive(VariantBenchmarked, 2)
    assert first == event
    assert second.data == fact
    assert second.id != event.id

    candidate, baseline = fleet.pair()
    await bench.stage(candidate, baseline)
    await bench.until_working(candidate.target.model)
    service.kill()
    service.start()
    *_, again = await bench.receive(VariantBenchmarked, 3)
    assert again.data.verdict == "pass"
    assert bench.store.key_of(again.data.report.uri) in bench.store.keys("manifests/benchmark/")


async def test_a_dead_process_an_own_evaluation_set_and_a_quality_that_is_not_served(service, fleet, bench, triton):
    """Each is a model of its own; one benchmarker measures them one after the other."""
    dead, its_baseline = fleet.pair()
    triton.kill_stub(dead.target.triton_name)
    await bench.stage(dead, its_baseline, load=QUICK)

    rendering, its_baseline = fleet.pair()
    template = (
        "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"
    )
    data = b'{"prompt": "good"}\n{"prompt": "bad"}\n'
    evaluation = bench.store.create(f"checkpoints/support-bot/{uuid.uuid4().hex}", data)
    rendering = rendering.model_copy(update={"chat_template": template})
    await bench.stage(rendering, its_baseline, evaluation=evaluation, load=QUICK)
    unusable = bench.store.create(f"checkpoints/support-bot/{uuid.uuid4().hex}", b'"fine"\n{broken\n')
    await bench.stage(rendering, its_baseline, evaluation=unusable)

    worse, its_baseline = fleet.pair(token_nll="2.3")  # the quantiser measured 2 nats per token on the files
    manifest = put_manifest(bench.store, worse.target, (window(tokens=400), window(tokens=200)))
    worse = worse.model_copy(update={"manifest": manifest})
    await bench.stage(worse, its_baseline, load=QUICK, quality_gate=QUALITY_GATE)

    unscored, its_baseline = fleet.pair(answer_nll="4")  # a backend that scores no prompt says so in its metadata
    await bench.stage(unscored, its_baseline, load=QUICK, quality_gate=QUALITY_GATE)

    facts = {event.data.target: event.data for event in await bench.receive(VariantBenchmarked, 4, timeout_s=120)}
    fact = facts[dead.target]
    assert (fact.verdict, fact.candidate_summary.errors, fact.baseline_summary.errors) == ("fail", 4, 0)
    (errors,) = [gate for gate in fact.gates if gate.name == "error_ratio.max_value"]
    assert (errors.verdict, errors.value) == ("fail", 1.0)

    fact = facts[rendering.target]
    assert (fact.verdict, fact.candidate_summary.errors, fact.baseline_summary.errors) == ("fail", 2, 0)
    (failed,) = await bench.receive(VariantFailed)
    assert (failed.data.step, failed.data.code, failed.data.variant) == ("benchmark", "evaluation_invalid", "bf16")
    assert "line 2" in failed.data.reason

    fact, quality = facts[worse.target], facts[worse.target].served_quality
    assert (fact.verdict, quality.verdict) == ("fail", "fail")
    assert (quality.method, quality.tokens) == ("prompt_logprobs", 600)
    assert quality.perplexity_ratio == pytest.approx(math.exp(2.3 - 2.0))
    assert quality.recorded_ratio == pytest.approx(1.0)
    (gate,) = [gate for gate in fact.gates if gate.name == "served_quality"]
    assert (gate.verdict, gate.limit) == ("fail", 1.05)

    fact, quality = facts[unscored.target], facts[unscored.target].served_quality
    assert (fact.verdict, quality.method, quality.tokens) == ("fail", "generated_logprobs", 24)
    assert quality.perplexity_ratio == pytest.approx(math.exp(4 - 0.5))


@pytest.mark.parametrize("ids", [[], [1.5], [True]])
async def test_a_prompt_of_no_token_ids_is_refused(triton, fleet, ids):
    fleet.load("bot.v2.bf16", token_nll="2")
    channels = Channels()
    try:
        with pytest.raises(Permanent, match="must be a JSON list of integers"):
            await TritonEngine(channels).score(
                served(Target(model="bot", version=2, variant="bf16"), triton.endpoint), ids, timeout_s=20.0
            )
    finally:
        await channels.close()
