"""The gateway with the openai SDK, on a real Triton (toy engine) and a real bus."""

import asyncio
import contextlib
import signal
from functools import partial

import grpc
import httpx
import openai
import pytest

from contracts.envelope import Event, nats_subject
from contracts.facts import InferenceBatch
from contracts.routes import CanaryShare, Route, ShadowShare
from contracts.services import TELEMETRY
from services.gateway.adapters.triton import TritonEngine
from services.monitor.domain.record import ShadowDeath
from services.monitor.domain.shadow import note_shadow_pair
from shared.serving.inference import Deadlines
from testbed.gateway import Gateway, load_toy
from testbed.ports import free_port
from testbed.servers import connection, running
from tests.integration.gateway_process import HELLO, SWITCHES, put_route, telemetry
from tests.unit.gateway.engine_conformance import EngineConformance

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def toy(triton):
    """Targets 1 and 2, ten milliseconds a token."""
    return {version: load_toy(triton, "toy", version, token_delay_ms="10", **SWITCHES) for version in (1, 2)}


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    settings = {"inter_token_s": 2, "first_token_s": 10}
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), **settings)) as process:
        yield process


@pytest.fixture
def sdk(gateway):
    return openai.OpenAI(base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60)


@pytest.fixture
async def asdk(gateway):
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


async def telemetry_and_pairs(js, count: int, least_pairs: int):
    """Wait for records and at least so many pairs."""
    subject = nats_subject(InferenceBatch.TYPE, "*", "gateway", "production")
    subscription = await js.pull_subscribe(subject, stream=TELEMETRY)
    records, pairs = [], []
    async with asyncio.timeout(20):
        while len(records) < count or len(pairs) < least_pairs:
            with contextlib.suppress(TimeoutError):
                for message in await subscription.fetch(10, timeout=1):
                    batch = Event[InferenceBatch].model_validate_json(message.data).data
                    records += batch.records
                    pairs += batch.pairs
    return records, pairs


class Silence(grpc.GenericRpcHandler):
    """Takes every call, and answers none."""

    def service(self, handler_call_details):  # noqa: ARG002
        async def wait(_request, _context):
            await asyncio.Event().wait()

        return grpc.unary_unary_rpc_method_handler(wait)


class TestTritonEngine(EngineConformance):
    @pytest.fixture
    async def engine(self):
        client = TritonEngine(Deadlines(10, 5))
        yield client
        await client.close()

    @pytest.fixture
    def endpoint(self, toy):
        return toy[1].endpoints[0]

    @pytest.fixture
    def refusing(self):
        return f"127.0.0.1:{free_port()}"

    @pytest.fixture
    async def silent(self):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([Silence()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)


async def test_the_openai_sdk_gets_answers(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    raw = await asdk.chat.completions.with_raw_response.create(model="toy", messages=HELLO, max_tokens=5, temperature=0)
    answer = raw.parse()
    assert len(answer.choices[0].message.content.split()) == 5
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)
    assert raw.headers["x-slipway-version"] == "toy.v1.bf16"
    assert answer.system_fingerprint == f"fp_toy.v1.bf16.{toy[1].manifest.digest[7:15]}"

    stream = await asdk.chat.completions.create(
        model="toy", messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"

    whole = await asdk.completions.create(model="toy", prompt="Once", max_tokens=4)
    pieces = [
        chunk async for chunk in await asdk.completions.create(model="toy", prompt="Once", max_tokens=4, stream=True)
    ]
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


async def test_the_openai_sdk_gets_models_and_errors(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2], previous=toy[1]))
    assert [model.id async for model in asdk.models.list()] == ["toy", "toy@v2", "toy@v1"]
    assert (await asdk.models.retrieve("toy@v1")).owned_by == "slipway"
    pinned = await asdk.chat.completions.with_raw_response.create(model="toy@v1", messages=HELLO, max_tokens=1)
    assert pinned.headers["x-slipway-version"] == "toy.v1.bf16"
    assert pinned.parse().model == "toy@v1"
    several = await asdk.chat.completions.create(model="toy", messages=HELLO, n=2, max_tokens=3)
    assert [choice.index for choice in several.choices] == [0, 1]
    with pytest.raises(openai.NotFoundError):
        await asdk.chat.completions.create(model="toy@v9", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        await asdk.chat.completions.create(model="toy", messages=HELLO, n=200)
    assert (caught.value.param, caught.value.code) == ("n", "above_maximum_value")


async def test_a_switch_between_two_requests_leaves_the_stream_in_flight_alone(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    stream = await asdk.completions.create(model="toy", prompt="Once", max_tokens=150, stream=True)
    first = await anext(stream)
    await put_route(js, gateway, Route(model="toy", epoch=2, active=toy[2], previous=toy[1]))
    after = await asdk.completions.create(model="toy", prompt="Once", max_tokens=1)
    assert after.system_fingerprint.startswith("fp_toy.v2.")
    rest = [chunk async for chunk in stream]
    fingerprints = {chunk.system_fingerprint for chunk in (first, *rest)} - {None}  # vLLM does not repeat it
    assert fingerprints == {f"fp_toy.v1.bf16.{toy[1].manifest.digest[7:15]}"}
    assert (len(rest) + 1, rest[-1].choices[0].finish_reason) == (150, "length")


async def test_telemetry_has_the_figures_and_no_text(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    answer = await asdk.chat.completions.create(model="toy", messages=HELLO, max_tokens=20)
    records, raw = await telemetry(js, 1)
    (record,) = records
    assert (record.target, record.endpoint) == (toy[1].target, toy[1].endpoints[0])
    assert (record.output_tokens, record.finish_reason, record.error) == (20, "length", None)
    assert record.ttft_ms >= 10
    assert 9 <= record.itl_ms.mean < 100
    assert record.e2e_ms >= 200
    assert record.features.output_chars == len(answer.choices[0].message.content)
    for word in ("zebra", "giraffe", *answer.choices[0].message.content.split()):
        assert word not in raw


async def test_a_caller_that_goes_away_stops_the_engine(js, gateway, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))

    body = {"model": "toy", "prompt": "Once", "max_tokens": 2000, "stream": True}
    async with (
        httpx.AsyncClient(headers=gateway.headers, timeout=30) as http,
        http.stream("POST", gateway.base_url + "/v1/completions", json=body) as answer,
    ):
        assert "data:" in await anext(answer.aiter_lines())
    records, _ = await telemetry(js, 1)
    assert (records[0].finish_reason, records[0].error) == ("cancelled", None)
    assert records[0].output_tokens < 500
    assert gateway.metric('slipway_gateway_in_flight{environment="production"}') == 0.0
    labels = 'environment="production",outcome="cancelled",target="toy.v1.bf16"'
    assert gateway.metric(f"slipway_gateway_requests_total{{{labels}}}") == 1.0


async def test_a_caller_that_does_not_wait_for_the_whole_answer_stops_the_engine_too(js, gateway, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    body = {"model": "toy", "prompt": "Once", "max_tokens": 2000}
    async with httpx.AsyncClient(headers=gateway.headers) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(gateway.base_url + "/v1/completions", json=body, timeout=httpx.Timeout(30, read=1.0))
    records, _ = await telemetry(js, 1)
    assert (records[0].finish_reason, records[0].error) == ("cancelled", None)
    assert records[0].output_tokens < 500


async def test_an_endpoint_that_is_gone_costs_a_retry_and_no_request(js, gateway, asdk, toy):
    gone = f"127.0.0.1:{free_port()}"
    two = toy[1].model_copy(update={"endpoints": (gone, *toy[1].endpoints)})
    await put_route(js, gateway, Route(model="toy", epoch=1, active=two))
    for _ in range(12):
        await asdk.completions.create(model="toy", prompt="x", max_tokens=1)
    labels = 'environment="production",reason="endpoint_unreachable"'
    assert gateway.metric(f"slipway_gateway_retries_total{{{labels}}}") == 1, "then it is ejected"


async def test_a_canary_and_the_active_version_are_both_asked_a_share_and_a_pair_shows_what_only_one_fails(
    js, gateway, asdk, toy, triton
):
    newer = load_toy(triton, "toy", 3, fail_text="odd").model_copy(update={"pair_ratio": 0.5})
    canary = CanaryShare(served=newer, weight_ratio=0.5)
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1], canary=canary, previous=toy[2]))
    for number in range(24):
        with contextlib.suppress(openai.InternalServerError):
            await asdk.completions.create(model="toy", prompt="odd" if number % 2 else "even", max_tokens=3)
    records, pairs = await telemetry_and_pairs(js, 24, 4)
    assert len(records) == 24, "what is mirrored is no request of a caller"
    assert len({record.caller for record in records}) == 1
    assert all(record.caller and record.caller not in gateway.key for record in records)
    sides = [{side.target: side for side in (pair.served, pair.mirrored)} for pair in pairs]
    assert {frozenset(side) for side in sides} == {frozenset((newer.target, toy[1].target))}
    assert {side[newer.target].error for side in sides} <= {None, "engine_failed"}
    assert all(side[toy[1].target].ttft_ms for side in sides)
    assert {side[toy[1].target].error for side in sides} == {None}
    assert {pair.served.request_id for pair in pairs} <= {record.request_id for record in records}


async def test_a_candidate_whose_engine_dies_of_a_prompt_takes_nothing_from_callers(
    js,
    gateway,
    asdk,
    toy,
    triton,
):
    """It stays dead here: nothing loads it again. The death counts once, whatever else was in flight at it."""
    candidate = load_toy(triton, "toy", 5, dead_text="lethal")
    shadow = ShadowShare(served=candidate, share_ratio=1.0)
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1], shadow=shadow))
    ask = partial(asdk.completions.create, model="toy", max_tokens=3)
    for number in range(6):
        await ask(prompt=f"harmless {number}")
    await telemetry_and_pairs(js, 6, 4)
    for number in range(12):
        await ask(prompt="lethal" if number % 3 == 0 else f"harmless {number}")
    records, compared = await telemetry_and_pairs(js, 18, 5)
    assert {record.error for record in records} == {None}
    deaths: tuple[ShadowDeath, ...] = ()
    for pair in compared:
        deaths = note_shadow_pair(deaths, pair) or deaths
    assert len(deaths) <= 1
    assert gateway.metric('slipway_gateway_body_bans_total{change="refused"}') == 0.0


async def test_sigterm_lets_streams_finish_and_telemetry_go(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    stream = await asdk.completions.create(model="toy", prompt="Once", max_tokens=100, stream=True)
    await anext(stream)
    gateway.process.send_signal(signal.SIGTERM)
    rest = [chunk async for chunk in stream]
    assert (len(rest), rest[-1].choices[0].finish_reason) == (99, "length")
    with pytest.raises(openai.APIConnectionError):
        await asdk.completions.create(model="toy", prompt="x", max_tokens=1)
    assert await asyncio.to_thread(gateway.process.wait, 20) == 0
    records, _ = await telemetry(js, 1)
    assert records[0].output_tokens == 100
