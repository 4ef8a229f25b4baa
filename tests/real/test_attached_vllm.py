"""vLLM's own server, attached: asked, checked and measured as the toy server of the tests is."""

import asyncio
import json
import shutil

import pytest

from services.server_manager.adapters.attached_engine import AttachedEngine
from services.server_manager.ports import ADAPTER
from shared.errors import SlipwayError, Transient
from shared.runtime.clock import SystemClock
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.serving.engine_streams import stream_api
from shared.serving.inference import Deadlines, first_token, generate
from shared.serving.openai_stream import ApiRequest
from testbed.models import tiny_base, tiny_lora
from testbed.servers import running
from testbed.vllm_server import VllmServer
from tests.kit.conformance_adapters import ADAPTED, AdaptersConformance
from tests.kit.conformance_serving import DIGEST, NAME
from tests.kit.fakes_serving import no_references

pytestmark = [
    pytest.mark.real,
    pytest.mark.vllm,
    pytest.mark.full,
    pytest.mark.timeout(900),
]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 12, "temperature": 0}
LIMITS = Deadlines(first_token_s=120, inter_token_s=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model") / "tiny", hidden=256)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with running(VllmServer(tmp_path_factory.mktemp("vllm"), model, NAME, "bot")) as process:
        yield process


@pytest.fixture
async def channels():
    channels = Channels()
    yield channels
    await channels.close()


@pytest.fixture
async def engine(channels, server):
    templates = ChatTemplates(SystemClock())
    yield AttachedEngine("bot", channels, templates, {"blue": (server.url,)}, no_references())
    await templates.close()


@pytest.fixture
def ask(channels, server):
    async def ask(path=CHAT, *, name=NAME, model="bot@v1", **body):
        raw = json.dumps({"model": "bot", **HELLO, **body} if path == CHAT else {"model": "bot", **body}).encode()
        request = ApiRequest("POST", path, raw, 120.0, "r1", model, "caller-1", fingerprint="fp_bot.v1.bf16.0")
        return [piece async for piece in stream_api(channels.get(server.url), name, request, deadlines=LIMITS)]

    return ask


async def test_it_is_checked_by_name_template_context_and_a_token(engine, model):
    assert await engine.index() == {}
    assert engine.may_have(NAME)
    await engine.load(NAME, model, digest=DIGEST, memory_bytes=0)
    assert (await engine.index())[NAME].digest == DIGEST
    assert engine.context_tokens(NAME) == 512
    assert await engine.probe(NAME, 60)
    with pytest.raises(Transient) as caught:
        await engine.load("bot.v9.bf16", model, digest=DIGEST, memory_bytes=0)
    assert caught.value.code == "endpoint_unreachable"


async def test_another_chat_template_than_the_versions_is_found(engine, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (other / name).write_text((model / name).read_text())
    (other / "chat_template.jinja").write_text("User: {{ messages[0]['content'] }}")
    with pytest.raises(Transient) as caught:
        await engine.load(NAME, other, digest=DIGEST, memory_bytes=0)
    assert (caught.value.code, "another chat template" in caught.value.reason) == ("load_failed", True)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_has_the_callers_names_and_records_that_count_its_tokens(ask, stream):
    pieces = await ask(stream=stream, logprobs=True)
    body = b"".join(piece.body for piece in pieces).decode()
    assert NAME not in body.replace("fp_bot.v1.bf16.0", "")
    assert "fp_bot.v1.bf16.0" in body
    records = [piece.record for piece in pieces]
    last = records[-1]
    assert last["output_tokens"] == 12
    assert last["prompt_tokens"] > 10
    assert last["logprob_mean"] < 0
    assert {"0.0": "length"} in [record.get("finish_reasons") for record in records]
    if stream:
        chunks = [json.loads(line[6:]) for line in body.split("\n\n") if line.startswith("data: {")]
        assert all("usage" not in chunk for chunk in chunks)
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        assert last["is_whole"]
        text = json.loads(body)["choices"][0]["message"]["content"]
    assert "".join(text for record in records for _, text in record.get("texts", ())) == text


async def test_a_stream_of_responses_is_counted_too(ask):
    pieces = await ask("/v1/responses", input="Say something.", max_output_tokens=8, temperature=0, stream=True)
    assert pieces[-1].record["output_tokens"] == 8
    assert {"0.0": "length"} in [piece.record.get("finish_reasons") for piece in pieces]


async def test_what_it_refuses_is_the_callers_and_a_name_that_it_does_not_know_nobodys(ask):
    (refused,) = await ask(max_tokens=10_000)
    assert (refused.status, refused.record["error"]["source"]) == (400, "validation")
    with pytest.raises(Transient) as caught:
        await ask(name="bot.v9.bf16")
    assert caught.value.code == "endpoint_unreachable"
    (elsewhere,) = await ask("/v1/nothing", prompt="x")
    assert (elsewhere.status, elsewhere.record["error"]["source"]) == (404, "validation")


async def test_a_load_of_fixed_length_is_generated_and_next_tokens_are_scored(channels, server):
    channel = channels.get(server.url)
    sampling = {"max_tokens": 20, "temperature": 0.0, "ignore_eos": True}
    pieces = [piece async for piece in generate(channel, NAME, "hello", sampling, deadlines=LIMITS, cache_salt="one")]
    assert sum(piece.output_tokens for piece in pieces) == 20
    assert pieces[-1].finish_reason == "length"
    next_tokens = await asyncio.gather(*(channel.score_next(NAME, f"text {number}", 60.0) for number in range(8)))
    assert all(next_tokens), "beside each other"


class TestAdapters(AdaptersConformance):
    @pytest.fixture(scope="class")
    def versions(self, model, tmp_path_factory):
        """Return the folders of two versions: one LoRA moves every text, the other none."""
        folders = [tmp_path_factory.mktemp(name) / "version" for name in ("strong", "zero")]
        for folder, is_zero in zip(folders, (False, True), strict=True):
            shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
            tiny_lora(model, folder / ADAPTER, seed=5, zero=is_zero)
        return folders

    @pytest.fixture
    def folder(self, versions):
        return versions[0]

    @pytest.fixture
    def weak_folder(self, versions):
        return versions[1]

    async def test_it_is_loaded_and_proven_within_fifteen_seconds_and_answers_otherwise_than_its_base(
        self, engine, folder, ask
    ):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        took_s = loop.time() - began_s
        print(f"loaded and proven in {took_s:.2f} s")
        assert took_s < 15
        assert engine.context_tokens(ADAPTED) == 512
        base, adapted = [(await ask(name=each))[-1].body for each in (NAME, ADAPTED)]
        assert json.loads(base)["choices"] != json.loads(adapted)["choices"]
        await engine.unload(ADAPTED)


async def test_its_death_is_out_of_reach_in_the_middle_of_an_answer_and_after_it(channels, server):
    channel = channels.get(server.url)

    async def talk():
        sampling = {"max_tokens": 400, "temperature": 0.0, "ignore_eos": True}
        async for _ in generate(channel, NAME, "hello", sampling, deadlines=LIMITS):
            started.set()

    started = asyncio.Event()
    talking = asyncio.create_task(talk())
    await asyncio.wait_for(started.wait(), 60)
    await asyncio.to_thread(server.kill)
    with pytest.raises(SlipwayError) as caught:
        await talking
    assert caught.value.code == "endpoint_unreachable"
    with pytest.raises(SlipwayError) as caught:
        await first_token(channel, NAME, deadline_s=5.0)
    assert caught.value.code == "endpoint_unreachable"
