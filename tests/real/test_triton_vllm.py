"""vLLM in Triton under server-manager: a killed engine, stub or server comes back without a person."""

import asyncio
import signal

import pytest
import torch

from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged
from contracts.vocabulary import Target
from decisions.evidence.attribution import is_failure
from services.benchmarker.adapters.triton import TritonEngine
from services.benchmarker.domain.served_quality import assess_scored, score_window
from services.quantiser.adapters.evaluation import load_reference, measure_quality
from shared.errors import Permanent, Transient
from shared.serving.channels import Channels
from shared.serving.inference import Deadlines, generate
from shared.storage.blobs import Store
from testbed.gateway import Gateway
from testbed.models import tiny_base
from testbed.servers import connection, running, wait_until
from tests.integration.gateway_process import telemetry
from tests.kit import hostile, openai_api
from tests.kit.serving import Fleet, ServerManager
from tests.unit.benchmarker.factories import served

pytestmark = [
    pytest.mark.real,
    pytest.mark.vllm,
    pytest.mark.full,
    pytest.mark.timeout(900),
]
NAME = "bot.v1.bf16"
LONG = {"max_tokens": 400, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture
async def fleet(js, settings, tmp_path, triton):
    """A tiny real model in production, served by vLLM."""
    fleet = Fleet(js, Store(settings), settings.state_dir)
    folder = await asyncio.to_thread(tiny_base, tmp_path / "model", hidden=256)
    model = await asyncio.to_thread(fleet.put_model, folder, Target(model="bot", version=1, variant="bf16"))
    manager = ServerManager(tmp_path, settings, triton, max_model_len=512, probe_interval_s=1, standby_grace_s=3600)
    await asyncio.to_thread(manager.start)
    try:
        await fleet.promote(model, 0)
        await fleet.facts(DeploymentChanged, timeout_s=180)
        yield fleet
    finally:
        await asyncio.to_thread(manager.stop)


async def answer(endpoint, sampling, *, first=None):
    """Generate; `first` is set once text has begun to come."""
    channels = Channels()
    pieces = []
    try:
        limits = Deadlines(first_token_s=60, inter_token_s=10)
        async for delta in generate(channels.get(endpoint), NAME, "<|start|>", sampling, deadlines=limits):
            pieces.append(delta)
            if first is not None:
                first.set()
    finally:
        await channels.close()
    return pieces


async def healed(fleet, time, timeout_s=180.0):
    """Wait until the alert was raised and resolved for the `time`-th time, and the target is ready."""
    await fleet.facts(AlertRaised, time, timeout_s=timeout_s)
    await fleet.facts(AlertResolved, time, timeout_s=timeout_s)
    assert (await fleet.phases())[NAME] == "ready"


def record(folder, *, served_damaged=False):
    """Measure a model folder as the quantiser does, on text that the model itself drew.

    `served_damaged`: text and measurement are of a model that has the rows of one matrix in another order than the one
    that is served; to the engine's model they are what a damaged copy is to its files.
    """
    torch.manual_seed(0)
    model = load_reference(folder)

    if served_damaged:
        weight = model.model.layers[1].mlp.down_proj.weight
        weight.data = weight.data.flip(0)
    drawn = model.generate(torch.full((4, 1), 1), do_sample=True, min_new_tokens=300, max_new_tokens=300)
    return measure_quality(model, model, drawn.tolist(), lambda *_: None)[1]


async def served_against(endpoint, windows):
    """Have the engine score recorded windows, and give the verdict."""
    channels = Channels()
    engine, target = TritonEngine(channels), served(Target(model="bot", version=1, variant="bf16"), endpoint)
    try:
        assert await engine.can_score(target, timeout_s=10)
        scores = [
            score_window(window, await engine.score(target, window.token_ids, timeout_s=60)) for window in windows
        ]
        with pytest.raises(Permanent, match="vocab"):
            await engine.score(target, [5, 10**6], timeout_s=10)
    finally:
        await channels.close()
    return assess_scored(scores, None)


async def test_what_is_served_is_scored_bodies_harm_nothing_and_an_engine_a_stub_and_a_server_come_back(
    fleet, triton, nats_server, js, tmp_path
):
    """One model for all of it: every load takes half a minute."""
    await scored_by_the_engine(triton, tmp_path / "model")
    await missing_setting_is_named_as_the_source(triton)
    await hostile_bodies_harm_no_engine(triton, nats_server, js, tmp_path)
    await killed_engine_is_healed(fleet, triton)
    await killed_stub_takes_its_engine_along_and_is_healed(fleet, triton)
    await killed_triton_leaves_nothing_and_is_healed(fleet, triton)
    await sigterm_with_a_live_model_ends_everything_in_time(triton)


async def scored_by_the_engine(triton, folder):
    whole = await served_against(triton.endpoint, record(folder))
    assert whole.verdict == "pass"
    assert whole.perplexity_ratio == pytest.approx(1.0, rel=0.03), "bf16 kernels against fp32"
    damaged = await served_against(triton.endpoint, record(folder, served_damaged=True))
    assert damaged.verdict == "fail", "what is served is not what was measured"


async def missing_setting_is_named_as_the_source(triton):
    """The target has no tool parser."""
    api = openai_api.Api(triton.endpoint, NAME)
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    messages = [{"role": "user", "content": "Hello"}]
    status, _, _, records = await api.ask("/v1/chat/completions", {"messages": messages, "tools": [tool]})
    assert (status, records[-1]["error"]["source"]) == (400, "settings")
    await api.close()


async def killed_engine_is_healed(fleet, triton):
    before = await answer(triton.endpoint, {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True})
    assert sum(piece.output_tokens for piece in before) == 12
    assert before[-1].finish_reason == "length"
    first = asyncio.Event()
    streaming = asyncio.create_task(answer(triton.endpoint, LONG, first=first))
    await asyncio.wait_for(first.wait(), 60)
    core = triton.engine_process(NAME)
    worker = core.children()[0]
    core.send_signal(signal.SIGKILL)
    with pytest.raises(Transient) as caught:
        await streaming
    assert caught.value.code == "engine_dead"
    await healed(fleet, 1)
    assert triton.engine_process(NAME).pid != core.pid
    assert not worker.is_running(), "the dead engine's worker must not stay behind"
    after = await answer(triton.endpoint, {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True})
    assert "".join(piece.text for piece in after) == "".join(piece.text for piece in before), "in pieces of any size"


async def killed_stub_takes_its_engine_along_and_is_healed(fleet, triton):
    core = triton.engine_process(NAME)
    family = [core, *core.children(recursive=True)]
    triton.kill_stub(NAME)
    await healed(fleet, 2)
    assert not any(process.is_running() for process in family)
    assert len(await answer(triton.endpoint, {"max_tokens": 3})) >= 1


async def killed_triton_leaves_nothing_and_is_healed(fleet, triton):
    first = asyncio.Event()
    streaming = asyncio.create_task(answer(triton.endpoint, LONG, first=first))
    await asyncio.wait_for(first.wait(), 60)
    triton.kill()
    with pytest.raises(Transient) as caught:
        await streaming
    assert caught.value.code == "endpoint_unreachable"
    await asyncio.to_thread(triton.nothing_left, timeout_s=20)
    await fleet.facts(AlertRaised, 3)
    await asyncio.to_thread(triton.start)
    await healed(fleet, 3)
    assert sum(piece.output_tokens for piece in await answer(triton.endpoint, LONG)) == 400


async def hostile_bodies_harm_no_engine(triton, nats_server, js, tmp_path):
    """Send five hundred bodies through the gateway."""
    with running(Gateway(tmp_path / "gateway", connection(nats_server, None, tmp_path))) as gateway:
        await asyncio.to_thread(wait_until, lambda: gateway.get("/v1/models/bot@v1") is not None, what="the route")
        core = triton.engine_process(NAME)
        storm = await asyncio.to_thread(
            hostile.storm, gateway.base_url, "bot", min(hostile.COUNT, 500), headers=gateway.headers
        )
        print("hostile bodies by status:", sorted(storm.statuses.items()), "failed:", storm.failed)
        assert core.is_running(), "no body ends the engine"
        assert storm.statuses[200] > 5
        labels = 'environment="production",outcome="{}",target="' + NAME + '"'
        outcomes = ("ok", "rejected", "error", "cancelled")
        count = sum(
            gateway.metric(f"slipway_gateway_requests_total{{{labels.format(outcome)}}}") for outcome in outcomes
        )
        records, _ = await telemetry(js, int(count))
        assert [record for record in records if is_failure(record)] == [], (
            "whatever fails is attributed to whom caused it"
        )
        assert len([record for record in records if record.error]) == len(storm.failed)
        assert sum(piece.output_tokens for piece in await answer(triton.endpoint, LONG)) == 400


async def sigterm_with_a_live_model_ends_everything_in_time(triton):
    triton.process.terminate()
    assert await asyncio.to_thread(triton.process.wait, 25) == 0
    await asyncio.to_thread(triton.nothing_left, timeout_s=6)
