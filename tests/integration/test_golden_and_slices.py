"""Golden prompts and slices of live traffic, with the rollback-controller as a process, a gateway and a real Triton."""

import asyncio
import json
from datetime import timedelta

import httpx
import pytest

from contracts import facts as f
from contracts.golden import Expectation, GoldenPrompt, GoldenPrompts
from contracts.slices import Slice
from services.rollback_controller.adapters.triton import TritonProbe
from shared.serving.inference import Channels
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from testbed.services import running_service, stored_facts, wait_for_fact
from testbed.triton import TritonServer
from tests.integration.rollback_process import (
    CLOCK,
    MODEL,
    MODULE,
    QUICK,
    publish,
    put_route,
    requests,
    route_of,
    target,
)

pytestmark = pytest.mark.real
SETTINGS = QUICK | {
    "ROLLBACK_CONTROLLER_GOLDEN_SWEEP_S": "0.3",
    "ROLLBACK_CONTROLLER_SLICE_S": "8",
    "ROLLBACK_CONTROLLER_SLICE_RATIO": "0.25",
}
QUALITY = k.trigger(name="empty", metric="empty_ratio", threshold=0.02)
SLOW = k.trigger(name="slow", metric="ttft_ms", threshold=150.0)
SLOW_TOY = {"token_delay_ms": "250", "tokens": "3"}
RPS = 12


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as server:
        yield server


@pytest.fixture
def controller(js, bus_settings):
    with running_service(MODULE, bus_settings, **SETTINGS) as process:
        yield process


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path / "gateway", connection(nats_server, None, tmp_path / "gateway"))) as process:
        yield process


def load(triton, **toy):
    """Load two versions on one Triton, which the route names as if each had hardware of its own."""
    loaded = {version: load_toy(triton, MODEL, version, **toy) for version in (1, 2)}
    port = triton.endpoint.rpartition(":")[2]
    return loaded | {1: loaded[1].model_copy(update={"endpoints": (f"localhost:{port}",)})}


async def open_releases(js, *triggers, **declared):
    for version in (1, 2):
        policy = k.policy(triggers=triggers, **declared)
        about = {"version": version, "model": MODEL, "release_id": f"r-{version}", "policy": policy}
        await publish(js, k.fact(f.ReleaseOpened, **about))


def alert(trigger, kind, *, update=False, raised_at=None):
    about = {"alert_id": f"{target(2)}/{trigger}/1", "severity": "critical", "target": target(2), "message": "worse"}
    fact = f.AlertUpdated if update else f.AlertRaised
    return fact(**about, kind=kind, trigger=trigger, confirmed_by="none", raised_at=raised_at or CLOCK.now())


async def golden_prompts(loaded, *, of):
    """Return golden prompts that expect what one version answers; toys of two versions answer otherwise."""
    channels = Channels()
    probe = TritonProbe(channels, deadline_s=5.0)
    prompts = [
        GoldenPrompt(name=f"p{number}", prompt=f"Prompt {number}", max_tokens=8, expect=Expectation(min_chars=1))
        for number in range(3)
    ]
    replies = [await probe.ask(loaded[of], prompt) for prompt in prompts]
    await channels.close()
    expected = [
        prompt.model_copy(update={"expect": Expectation(equals=reply.text)})
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    return GoldenPrompts(prompts=tuple(expected), every_s=10.0)


async def updated(js, trigger, kind, *, until, raised_at=None, within_s=60.0):
    """Publish an alert and its updates, each second, until an async condition holds."""
    first = True
    async with asyncio.timeout(within_s):
        while not await until():
            await publish(js, alert(trigger, kind, update=not first, raised_at=raised_at))
            first = False
            await asyncio.sleep(1.0)


async def test_a_version_that_falls_on_golden_prompts_is_rolled_back_by_a_quality_trigger(js, triton, controller):
    loaded = load(triton)
    await open_releases(js, QUALITY, golden=await golden_prompts(loaded, of=1))
    await put_route(js, loaded)

    async def is_back():
        return (await route_of(js)).active.target == target(1)

    await updated(js, "empty", "quality", until=is_back)
    first, second, *_ = [event.data for event in await stored_facts(js, f.GoldenChecked)]
    assert (first.agreeing, first.confirms) == (1, False)
    assert (second.fallen, second.agreeing, second.confirms) == (("p0", "p1", "p2"), 2, True)
    assert {outcome.other for outcome in second.outcomes} == {True}
    (done,) = await wait_for_fact(js, f.RollbackCompleted)
    assert (done.data.failed, done.data.to) == (target(2), target(1))


async def test_where_golden_prompts_hold_a_quality_trigger_only_alerts(js, triton, controller):
    loaded = load(triton)
    await open_releases(js, QUALITY, golden=await golden_prompts(loaded, of=2))
    await put_route(js, loaded)

    async def is_held():
        held = await stored_facts(js, f.RollbackFailed)
        return bool(held) and bool(await stored_facts(js, f.GoldenChecked))

    await updated(js, "empty", "quality", until=is_held)
    (checked,) = [event.data for event in await stored_facts(js, f.GoldenChecked)]
    assert [(outcome.target, outcome.other) for outcome in checked.outcomes] == [(True, False)] * 3
    assert (await route_of(js)).active.target == target(2)
    assert {event.data.code for event in await stored_facts(js, f.RollbackFailed)} == {"unconfirmed"}


async def test_requests_that_look_slow_are_probed_before_their_alert(js, triton, controller):
    loaded = load(triton, token_delay_ms="0", tokens="3")
    loaded[2] = await asyncio.to_thread(load_toy, triton, MODEL, 2, **SLOW_TOY)
    await open_releases(js, SLOW)
    await put_route(js, loaded)
    async with asyncio.timeout(60):
        while "probed before an alert" not in controller.log:
            await publish(js, requests(2, count=2, ttft_ms=260.0, e2e_ms=800.0))
            await asyncio.sleep(0.1)
    await publish(js, alert("slow", "latency"))
    (done,) = await wait_for_fact(js, f.RollbackCompleted)
    assert (done.data.failed, done.data.to) == (target(2), target(1))
    (probed,) = [line for line in map(json.loads, controller.log.splitlines()) if line.get("event") == "probed"]
    assert probed["shown"] == "target", "by early probes, unless the machine took five seconds until the alert"


class Callers:
    """Live traffic through the gateway: which version answered, and what failed."""

    def __init__(self, gateway):
        self.gateway, self.versions, self.failures = gateway, [], []

    async def _ask(self, client):
        answer = await client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 3})
        if answer.status_code == 200:
            self.versions.append((answer.headers["x-slipway-release"], "x-slipway-slice" in answer.headers))
        else:
            self.failures.append(answer.text)

    async def run(self):
        about = {"base_url": self.gateway.base_url, "headers": self.gateway.headers, "timeout": 20}
        async with httpx.AsyncClient(**about, trust_env=False) as client, asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._ask(client))
                await asyncio.sleep(1 / RPS)


@pytest.mark.parametrize("recovers", [False, True], ids=["both-slow", "active-slow"])
async def test_a_slice_of_live_traffic_decides_where_both_versions_are_slow(js, triton, controller, gateway, recovers):
    """By an alert that is a minute old; in one case the version behind is fast again when it gets the traffic."""
    loaded = load(triton, **SLOW_TOY)
    await open_releases(js, SLOW)
    await put_route(js, loaded)
    callers = Callers(gateway)
    sending = asyncio.create_task(callers.run())
    raised_at = CLOCK.now() - timedelta(seconds=61)

    async def is_sliced():
        return len(await stored_facts(js, f.SliceChanged)) >= 1

    async def is_over():
        return len(await stored_facts(js, f.SliceChanged)) >= 2

    async def is_back():
        return (await route_of(js)).active.target == target(1)

    try:
        await updated(js, "slow", "latency", until=is_sliced, raised_at=raised_at)
        if recovers:
            await asyncio.to_thread(load_toy, triton, MODEL, 1, token_delay_ms="0", tokens="3")
            await wait_for_fact(js, f.SliceChanged, count=2)  # no update: probes would show it before the slice does
        await updated(js, "slow", "latency", until=is_over, raised_at=raised_at)
        if recovers:
            await updated(js, "slow", "latency", until=is_back, raised_at=raised_at)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    started, ended = [event.data for event in await stored_facts(js, f.SliceChanged)]
    assert (started.phase, ended.phase) == ("started", "ended")
    assert ended.verdict == ("target" if recovers else "both"), ended.message
    assert ended.counts.target_bad == ended.counts.target_requests >= 8
    assert recovers or callers.failures == []  # a model that is loaded again may break off what it answers
    assert (f"{MODEL}@v1", True) in callers.versions
    if not recovers:
        assert (await route_of(js)).active.target == target(2)
    assert (await Bucket(js, "slices", Slice).get(MODEL)).value.share_ratio == 0.0


async def test_a_slice_ends_although_the_controller_is_killed(js, triton, gateway, bus_settings):
    loaded = load(triton, **SLOW_TOY)
    await put_route(js, loaded)
    callers = Callers(gateway)
    sending = asyncio.create_task(callers.run())
    try:
        with running_service(MODULE, bus_settings, **SETTINGS) as process:
            await open_releases(js, SLOW)

            async def is_sliced():
                return any(sliced for _, sliced in callers.versions)

            await updated(
                js, "slow", "latency", until=is_sliced, raised_at=CLOCK.now() - timedelta(seconds=61), within_s=60
            )
            process.kill()
        written = (await Bucket(js, "slices", Slice).get(MODEL)).value
        assert written.share_ratio > 0.0

        async with asyncio.timeout(30):
            while "none" not in json.dumps(gateway.get("/readyz").json()["checks"]["slices"]):
                await asyncio.sleep(0.2)
        before = len(callers.versions)
        async with asyncio.timeout(30):
            while len(callers.versions) < before + 20:
                await asyncio.sleep(0.1)
        assert {sliced for _, sliced in callers.versions[before + 10 :]} == {False}
        with running_service(MODULE, bus_settings, **SETTINGS):
            events = await wait_for_fact(js, f.SliceChanged, count=2)
        assert [event.data.phase for event in events] == ["started", "ended"]
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert callers.failures == []
