"""The gateway with the openai SDK, on a real Triton (toy engine) and a real bus."""

import asyncio
import signal

import grpc
import httpx
import openai
import pytest

from contracts.routes import Route
from services.gateway.adapters.triton import TritonEngine
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
