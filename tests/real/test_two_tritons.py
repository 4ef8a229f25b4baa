"""Two Tritons of one runtime: active and previous stand apart, and the death of one is none of the other's."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from typing import get_args

import httpx
import openai
import pytest

from clients.cli.releases.runtimes import read_fleets
from contracts.codes import Code
from contracts.facts import AlertRaised, EndpointOrdered, OrderAccepted
from decisions.routes.edits import roll_back
from services.gateway.routing.endpoints import endpoints_of
from testbed.gateway import Gateway
from testbed.servers import connection, running
from testbed.triton import TritonServer
from tests.kit.serving import ServerManager, managers_of

pytestmark = [pytest.mark.real]
MIB = 1024 * 1024
STREAMS = 8
TOKENS = 300
TOY = json.dumps({"token_delay_ms": "20", "tokens": str(TOKENS)})


@pytest.fixture
def second(tmp_path):
    with running(TritonServer(tmp_path / "second")) as server:
        yield server


@pytest.fixture
def manage(tmp_path, settings, triton, second, js):
    def start(*, without_second=False, **more):
        endpoint = {
            "triton_grpc": second.endpoint,
            "agent_grpc": second.agent(managers_of(settings)).endpoint,
            "repository": str(second.repository),
        }
        more = {"toy": TOY, "memory_budget_bytes": 2000 * MIB, "overhead_bytes": 64 * MIB} | more
        endpoints = json.dumps({} if without_second else {"triton-2": endpoint})
        return running(ServerManager(tmp_path, settings, triton, endpoints=endpoints, engine="toy", **more))

    return start


@pytest.fixture
def manager(manage):
    with manage() as process:
        yield process


@pytest.fixture
def impatient_manager(manage):
    """Takes an endpoint for lost after three seconds."""
    with manage(silent_limit_s=3) as process:
        yield process


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path / "gateway", connection(nats_server, None, tmp_path / "gateway"))) as process:
        yield process


def ready(server):
    """Return what a Triton has loaded; nothing while it does not answer."""
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    with contextlib.closing(grpc.InferenceServerClient(server.endpoint)) as connected:
        try:
            models = connected.get_model_repository_index().models
        except InferenceServerException:
            return set()
        return {model.name for model in models if model.state == "READY"}


def on(served):
    return served.endpoints[0]


async def promoted(fleet, target, epoch, **more):
    model = target.target.model
    await fleet.promote(target, epoch, **more)

    async def is_routed():
        entry = await fleet.routes.get(model)
        return entry is not None and entry.value.epoch == epoch + 1 and entry.value

    return await fleet.until(is_routed, what=f"the route of {target.target}")


class Answer:
    """A streamed answer: how many pieces have come, and the error that ended it."""

    def __init__(self, client, model):
        self.pieces, self.error = 0, None
        self.task = asyncio.create_task(self._read(client, model))

    async def _read(self, client, model):
        try:
            async for _ in await client.completions.create(model=model, prompt="Once", max_tokens=TOKENS, stream=True):
                self.pieces += 1
        except openai.APIError as error:
            self.error = error


async def first_token(gateway, model, release, deadline_s=10.0):
    """Ask again and again until this version answers; return the seconds until its first token, and the errors before."""
    began, errors = time.monotonic(), 0
    url, body = f"{gateway.base_url}/v1/completions", {"model": model, "prompt": "x", "max_tokens": 2, "stream": True}
    async with httpx.AsyncClient(headers=gateway.headers, timeout=10, trust_env=False) as client:
        while time.monotonic() - began < deadline_s:
            async with client.stream("POST", url, json=body) as answer:
                if answer.status_code == 200 and answer.headers["x-slipway-release"] == release:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: ") and '"error"' not in line:
                            return time.monotonic() - began, errors
            errors += 1
            await asyncio.sleep(0.005)
    raise AssertionError(f"{release} did not answer within {deadline_s:g} s, after {errors} errors")


@pytest.mark.usefixtures("manager")
async def test_the_death_of_the_active_targets_triton_fails_its_streams_only_and_previous_answers_at_once(
    fleet, gateway, triton, second, tmp_path
):
    base, old, new = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    route = await promoted(fleet, old, 0, fallback=base)
    assert (on(route.active), on(route.previous)) == (triton.endpoint, second.endpoint)
    route = await promoted(fleet, new, 1)
    assert (on(route.active), on(route.previous)) == (second.endpoint, triton.endpoint)
    other_base, other = (fleet.put_toy(tmp_path, "cat", version) for version in range(2))
    cat = await promoted(fleet, other, 0, fallback=other_base)
    assert (on(cat.active), on(cat.previous)) == (triton.endpoint, second.endpoint)

    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        await asyncio.gather(first_token(gateway, "bot", "bot@v2"), first_token(gateway, "cat", "cat@v1"))
        bots, cats = ([Answer(client, model) for _ in range(STREAMS)] for model in ("bot", "cat"))
        async with asyncio.timeout(60):
            while not all(answer.pieces for answer in (*bots, *cats)):
                await asyncio.sleep(0.01)
        await asyncio.to_thread(second.kill)
        entry = await fleet.routes.get("bot")
        edit = roll_back(entry.value, new.target, cause_id="an alert")
        await fleet.routes.update("bot", edit.route, entry.revision)
        seconds, errors = await first_token(gateway, "bot", "bot@v1")
        print(f"previous answered {seconds * 1000:.0f} ms after the route was written, after {errors} errors")
        await asyncio.gather(*(answer.task for answer in (*bots, *cats)))
    assert {getattr(answer.error, "code", None) for answer in bots} <= set(get_args(Code))
    assert [(answer.error, answer.pieces >= TOKENS) for answer in cats] == [(None, True)] * STREAMS

    second.start()

    async def is_loaded_again():
        return ready(second) == {"bot.v0.bf16", "cat.v0.bf16"}

    await fleet.until(is_loaded_again, what="what is still needed, and nothing else, being loaded there again")
    for model in ("bot", "cat"):
        assert on((await fleet.routes.get(model)).value.previous) == second.endpoint


class Load:
    """Short requests to some models, without a pause; counts what was answered, and keeps what was not, and why."""

    def __init__(self, gateway, *models):
        self.answered, self.failed = Counter(), []
        self._stopping = False
        self._url, self._headers = f"{gateway.base_url}/v1/completions", gateway.headers
        self._tasks = [asyncio.create_task(self._send(model)) for model in models]

    async def _send(self, model):
        body = {"model": model, "prompt": "x", "max_tokens": 10}
        async with httpx.AsyncClient(headers=self._headers, timeout=30, trust_env=False) as client:
            while not self._stopping:
                try:
                    answer = await client.post(self._url, json=body)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answered[model] += 1
                else:
                    self.failed.append(answer.text)

    async def stop(self):
        """End when each last request has its answer; raise what ended one of the tasks."""
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def ordered(fleet, endpoint, *, drained, count):
    fact = EndpointOrdered(reason="Its machine is replaced.", endpoint=endpoint, drained=drained)
    order_id = await fleet.publish(fact, "all-models")
    answers = await fleet.facts(OrderAccepted, count)
    assert order_id in [event.data.order_id for event in answers]


@pytest.mark.full
@pytest.mark.usefixtures("impatient_manager")
async def test_a_triton_is_drained_under_load_without_a_failed_request_and_a_lost_one_is_replaced_by_one_edit(
    fleet, gateway, triton, second, tmp_path
):
    for model in ("bot", "cat"):
        base, version = (fleet.put_toy(tmp_path, model, number) for number in range(2))
        route = await promoted(fleet, version, 0, fallback=base)
        assert (on(route.active), on(route.previous)) == (triton.endpoint, second.endpoint)
    everything = {"bot.v0.bf16", "bot.v1.bf16", "cat.v0.bf16", "cat.v1.bf16"}
    await asyncio.gather(first_token(gateway, "bot", "bot@v1"), first_token(gateway, "cat", "cat@v1"))

    load = Load(gateway, "bot", "bot", "cat", "cat")
    await ordered(fleet, "default", drained=True, count=1)

    async def is_empty():
        return not ready(triton) and ready(second) == everything

    await fleet.until(is_empty, what="the drained Triton being empty")
    before = Counter(load.answered)
    async with asyncio.timeout(60):  # the other one answers all
        while not all(load.answered[model] > before[model] > 0 for model in ("bot", "cat")):
            await asyncio.sleep(0.05)
    await load.stop()
    assert load.failed == []
    epochs = {model: (await fleet.routes.get(model)).value.epoch for model in ("bot", "cat")}
    assert epochs == {"bot": 2, "cat": 2}

    await ordered(fleet, "default", drained=False, count=2)
    await asyncio.to_thread(second.kill)

    async def is_replaced():
        routes = [(await fleet.routes.get(model)).value for model in ("bot", "cat")]
        served = [each for route in routes for each in (route.active, route.previous)]
        return {on(each) for each in served} == {triton.endpoint} and routes

    for route in await fleet.until(is_replaced, what="production of the lost one being served by the other one"):
        assert route.epoch == epochs[route.model] + 2  # one edit for each target
    assert ready(triton) == everything
    await asyncio.gather(first_token(gateway, "bot", "bot@v1"), first_token(gateway, "cat", "cat@v1"))


async def listed(fleet, *names):
    """Wait until server-manager lists these endpoints; return them, and the models' routes."""

    async def is_listed():
        fleets = await read_fleets(fleet.js)
        return [[each.endpoint_name for each in known.endpoints] for known in fleets] == [[*names]] and fleets

    fleets = await fleet.until(is_listed, what=f"the fleet of {names}")
    routes = {model: (await fleet.routes.get(model)).value for model in ("bot", "cat")}
    return [each for known in fleets for each in known.endpoints], routes


def addresses(routes):
    return {address for route in routes.values() for address in endpoints_of(route)}


@pytest.fixture
def pair(triton, second):
    return triton, second


@pytest.mark.full
async def test_an_endpoint_is_removed_under_load_and_added_again_without_a_failed_request(
    fleet, manage, gateway, pair, tmp_path
):
    triton, second = pair
    with manage():
        for model in ("bot", "cat"):
            base, version = (fleet.put_toy(tmp_path, model, number) for number in range(2))
            route = await promoted(fleet, version, 0, fallback=base)
            assert (on(route.active), on(route.previous)) == (triton.endpoint, second.endpoint)
        await asyncio.gather(first_token(gateway, "bot", "bot@v1"), first_token(gateway, "cat", "cat@v1"))
        load = Load(gateway, "bot", "cat")
        await ordered(fleet, "triton-2", drained=True, count=1)

        async def is_empty():
            return not ready(second)

        await fleet.until(is_empty, what="the drained Triton being empty")
        endpoints, routes = await listed(fleet, "default", "triton-2")
        assert ([each.answers for each in endpoints], addresses(routes)) == ([True, True], {triton.endpoint})
    with manage(without_second=True):
        endpoints, routes = await listed(fleet, "default")
        await asyncio.to_thread(second.stop)
        assert ([each.answers for each in endpoints], addresses(routes)) == ([True], {triton.endpoint})
        before = Counter(load.answered)

        async def is_answered():
            return all(load.answered[model] > before[model] for model in ("bot", "cat"))

        await fleet.until(is_answered, what="answers of both models without it")
        new = fleet.put_toy(tmp_path, "bot", 2)
        route = await promoted(fleet, new, routes["bot"].epoch)
        assert addresses({"bot": route}) == {triton.endpoint}, "a release needs no second one"
    await asyncio.to_thread(second.start)
    with manage():
        endpoints, _ = await listed(fleet, "default", "triton-2")
        assert any(each.drained for each in endpoints), "until an order says otherwise"
        await ordered(fleet, "triton-2", drained=False, count=2)

        async def is_used():
            return ready(second)

        newest = fleet.put_toy(tmp_path, "bot", 3)
        route = await promoted(fleet, newest, (await fleet.routes.get("bot")).value.epoch)
        assert {on(route.active), on(route.previous)} == {triton.endpoint, second.endpoint}
        await fleet.until(is_used, what="the added one being used")
        await first_token(gateway, "bot", "bot@v3")
    await load.stop()
    assert load.failed == []


def endpoint_changes(gateway, triton, change):
    return gateway.metric(f'slipway_gateway_ejections_total{{change="{change}",endpoint="{triton.endpoint}"}}')


@pytest.mark.full
@pytest.mark.usefixtures("manager")
async def test_of_a_version_with_two_copies_the_death_of_one_triton_fails_its_streams_only_and_needs_no_edit(
    fleet, gateway, triton, second, tmp_path
):
    version = fleet.put_toy(tmp_path, "bot", 1)
    await fleet.promote(version, 0, copies=2)

    async def is_on_both():
        entry = await fleet.routes.get("bot")
        return entry is not None and len(entry.value.active.endpoints) == 2 and entry.value

    route = await fleet.until(is_on_both, what="the route naming both Tritons")
    assert (set(route.active.endpoints), route.epoch) == ({triton.endpoint, second.endpoint}, 2)
    await first_token(gateway, "bot", "bot@v1")
    short = Load(gateway, *["bot"] * 4)
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        streams = [Answer(client, "bot") for _ in range(STREAMS)]
        async with asyncio.timeout(60):
            while not all(answer.pieces for answer in streams):
                await asyncio.sleep(0.01)
        await asyncio.to_thread(triton.kill)
        await asyncio.gather(*(answer.task for answer in streams))
    broken = [answer for answer in streams if answer.error is not None]
    assert 1 <= len(broken) < STREAMS, "each Triton had some of the streams"
    assert all(answer.pieces >= TOKENS for answer in streams if answer.error is None)
    before = Counter(short.answered)
    async with asyncio.timeout(60):
        while not short.answered["bot"] > before["bot"] > 0:
            await asyncio.sleep(0.05)
    await short.stop()
    print(f"{len(broken)} of {STREAMS} streams and {len(short.failed)} of {short.answered['bot']} requests failed")
    assert len(short.failed) <= 4, "those that had begun; what had no token was retried on the other one"
    assert endpoint_changes(gateway, triton, "ejected") == 1

    triton.start()

    async def is_used_again():
        await first_token(gateway, "bot", "bot@v1")
        return ready(triton) == {"bot.v1.bf16"} and endpoint_changes(gateway, triton, "returned") == 1

    await fleet.until(is_used_again, what="the copy being loaded there again, and taking requests")
    assert (await fleet.routes.get("bot")).value == route, "no edit was needed"

    async def is_measured():
        return [each.peak_bytes for each in (await fleet.record()).measured if each.digest == version.manifest.digest]

    (peak,) = await fleet.until(is_measured, what="the memory that it takes being measured by its backend")
    print(f"the toy engine took {peak / MIB:.0f} MiB")
    assert 10 * MIB < peak < 1000 * MIB
    assert await fleet.count(AlertRaised) <= 1, "none but that nothing is behind it"
