"""A server of the OpenAI API in place of a Triton: what gateway and benchmarker rely on, over HTTP."""

import asyncio
import contextlib
import json

import pytest

from contracts.routes import ServedTarget
from services.benchmarker.adapters.triton import TritonEngine as MeasuredEngine
from services.gateway.adapters.triton import TritonEngine
from services.server_manager.adapters.attached_engine import CONVERSATION, AttachedEngine
from services.server_manager.ports import ADAPTER
from shared.errors import SlipwayError, Transient
from shared.runtime.clock import SystemClock
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.serving.http_channel import HttpChannel
from shared.serving.inference import Deadlines, first_token
from shared.serving.openai_stream import ApiRequest
from testbed.factories import served
from testbed.openai_server import OpenAiServer
from testbed.ports import free_port
from testbed.servers import running
from tests.kit.conformance_adapters import ADAPTED, AdaptersConformance
from tests.kit.conformance_serving import DIGEST, NAME, AttachedConformance
from tests.kit.fakes_serving import no_references
from tests.unit.benchmarker import engine_conformance as measured
from tests.unit.gateway.engine_conformance import ABSENT, LOADED, EngineConformance

FAILING = {"fail_text": "fail now", "break_text": "break now", "dead_text": "die now"}
SERVED = {str(LOADED): {"token_delay_ms": "10", **FAILING}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(OpenAiServer(tmp_path_factory.mktemp("attached"), **SERVED)) as process:
        yield process


@pytest.fixture
async def channel(server):
    channels = Channels()
    yield channels.get(server.url)
    await channels.close()


@pytest.fixture
async def silent():
    """Yield the address of what takes connections and answers nothing."""
    ended, left = asyncio.Event(), set[asyncio.StreamWriter]()

    async def wait(_reader, writer):
        left.add(writer)
        await ended.wait()
        writer.close()
        left.remove(writer)

    listening = await asyncio.start_server(wait, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    ended.set()
    listening.close()
    while left:
        await asyncio.sleep(0)


@pytest.fixture
async def answering():
    """Yield what starts a server that answers every request with a head, and with a body again and again."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(head: str, body: bytes, times: int = 1):
            async def answer(reader, writer):
                with contextlib.suppress(ConnectionError):
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n".encode())
                    for _ in range(times):
                        writer.write(body)
                        await writer.drain()
                writer.close()

            listening = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
            channel = HttpChannel(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            stack.push_async_callback(channel.close)
            return channel

        yield start


class TestGatewayEngine(EngineConformance):
    @pytest.fixture
    async def engine(self):
        client = TritonEngine(Deadlines(10, 5))
        yield client
        await client.close()

    @pytest.fixture
    def endpoint(self, server):
        return server.url

    @pytest.fixture
    def refusing(self):
        return f"http://127.0.0.1:{free_port()}"

    @pytest.fixture
    def silent(self, silent):
        return silent


class TestMeasuredEngine(measured.EngineConformance):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.url = server.url

    def run(self, main):
        return asyncio.run(main)

    @contextlib.asynccontextmanager
    async def engine(self):
        channels = Channels()
        yield MeasuredEngine(channels)
        await channels.close()

    def answering(self) -> ServedTarget:
        return served(1).model_copy(update={"target": LOADED, "endpoints": (self.url,)})

    def absent(self) -> ServedTarget:
        return self.answering().model_copy(update={"target": ABSENT})

    def test_no_prompt_is_scored_there(self):
        async def main():
            async with self.engine() as engine:
                return await engine.can_score(self.answering(), timeout_s=20.0)

        assert not self.run(main())


class TestAttachedEngine(AttachedConformance):
    @pytest.fixture(scope="class")
    def replicas(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("replicas")
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(running(OpenAiServer(folder, name))) for name in ("one", "two")]

    @pytest.fixture
    def urls(self, replicas):
        return tuple(server.url for server in replicas)

    @pytest.fixture
    def list_names(self, replicas):
        async def change(number, *names):
            replicas[number].serve({name: {"dead_text": "die now"} for name in names})

        return change

    @pytest.fixture
    async def engine(self, urls, list_names):
        for number in range(len(urls)):
            await list_names(number, NAME)
        channels = Channels()
        templates = ChatTemplates(SystemClock())
        yield AttachedEngine("bot", channels, templates, {"blue": urls}, no_references())
        await channels.close()
        await templates.close()

    @pytest.fixture
    def kill_engine(self, urls):
        async def kill(name):
            channels = Channels()
            for url in urls:
                with pytest.raises(SlipwayError):
                    await first_token(channels.get(url), name, prompt="die now", deadline_s=5.0)
            await channels.close()

        return kill

    @pytest.fixture
    def revive(self, urls, list_names):
        async def revive(name):
            for number in range(len(urls)):
                await list_names(number, name)

        return revive

    async def test_a_server_with_another_chat_template_does_not_serve_the_version(self, engine, replicas, folder):
        (folder / "chat_template.jinja").write_text("[{{ messages[0]['content'] }}]")
        told = {"renders": f"[{CONVERSATION[0]['content']}]", "max_model_len": "512"}
        for server in replicas:
            server.serve({NAME: told})
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        assert engine.context_tokens(NAME) == 512
        replicas[1].serve({NAME: {**told, "renders": "<s>user"}})
        with pytest.raises(Transient) as caught:
            await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        assert caught.value.code == "load_failed"
        assert f"{replicas[1].url}: it has another chat template" in caught.value.reason

    async def test_a_replica_that_comes_back_with_another_chat_template_is_left_out_until_it_has_the_versions(
        self, engine, replicas, folder, urls
    ):
        (folder / "chat_template.jinja").write_text("[{{ messages[0]['content'] }}]")
        right = {NAME: {"renders": f"[{CONVERSATION[0]['content']}]"}}
        for server in replicas:
            server.serve(right)
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        for renders, expected in (("<s>user", urls[:1]), (right[NAME]["renders"], urls)):
            replicas[1].serve({NAME: {"renders": renders}})
            assert await engine.probe(NAME, 10)
            assert engine.addresses(NAME) == expected

    async def test_a_replica_with_other_weights_does_not_serve_the_version(self, replicas, folder, urls):
        channels, templates = Channels(), ChatTemplates(SystemClock())
        engine = AttachedEngine("bot", channels, templates, {"blue": urls}, no_references())
        for server in replicas:
            server.serve({NAME: {"answer_nll": "2"}})
        await engine.load(NAME, folder, digest=DIGEST, memory_bytes=0)
        for nll, left in (("2.1", urls[:1]), ("2", urls)):
            replicas[1].serve({})
            await engine.index()
            replicas[1].serve({NAME: {"answer_nll": nll}})
            await engine.index()
            assert await engine.probe(NAME, 10)
            assert engine.addresses(NAME) == left
        await channels.close()
        await templates.close()

    async def test_servers_that_are_all_away_are_out_of_reach(self):
        channels = Channels()
        silent = {"blue": (f"http://127.0.0.1:{free_port()}",)}
        absent = AttachedEngine("bot", channels, ChatTemplates(SystemClock()), silent, no_references())
        with pytest.raises(Transient) as caught:
            await absent.index()
        assert caught.value.code == "endpoint_unreachable"
        await channels.close()


def with_lora(folder, **weights):
    """Write the files of a version, and those of its LoRA."""
    (folder / ADAPTER).mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name, text in {"adapter_config.json": '{"r": 8}', **weights}.items():
        (folder / ADAPTER / name).write_text(text)
    return folder


class TestAdapters(AdaptersConformance):
    @pytest.fixture
    def server(self, tmp_path):
        with running(OpenAiServer(tmp_path / "vllm", base={})) as process:
            yield process

    @pytest.fixture
    def folder(self, tmp_path):
        return with_lora(tmp_path / "version", **{"adapter_model.safetensors": "a"})

    @pytest.fixture
    def weak_folder(self, tmp_path):
        return with_lora(tmp_path / "weak")

    async def test_a_server_that_was_restarted_gets_its_adapter_again_while_another_serves_it(
        self, make_engine, server, folder, tmp_path
    ):
        (tmp_path / "adapters").mkdir()
        with running(OpenAiServer(tmp_path / "second", "second", base={})) as second:
            engine = make_engine({"blue": (server.url, second.url)}, tmp_path / "adapters")
            await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
            second.kill()
            second.start()
            assert ADAPTED in await engine.index()
            assert ADAPTED not in engine.listed(second.url)
            await engine.probe(ADAPTED, 60)
            assert ADAPTED in engine.listed(second.url)

    async def test_the_next_version_goes_to_the_group_without_the_active_one(
        self, make_engine, server, folder, tmp_path
    ):
        (tmp_path / "adapters").mkdir()
        with running(OpenAiServer(tmp_path / "second", "second", base={})) as second:
            engine = make_engine({"blue": (server.url,), "green": (second.url,)}, tmp_path / "adapters")
            await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
            engine.in_routes = {ADAPTED: (server.url,)}
            await engine.load("bot.v8.bf16", folder, digest=DIGEST, memory_bytes=0)
            await engine.unload(ADAPTED)  # as if its server was started again
            await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
            assert (engine.addresses(ADAPTED), engine.addresses("bot.v8.bf16")) == ((server.url,), (second.url,))

    async def test_what_no_server_lists_after_its_restart_is_unloaded_unless_a_route_names_it(
        self, engine, server, folder
    ):
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        server.kill()
        server.start()
        engine.in_routes = {ADAPTED: (server.url,)}
        assert ADAPTED not in await engine.index(), "it is loaded again"
        engine.in_routes, groups = {}, engine.groups
        engine.groups = {**groups, "green": (f"http://127.0.0.1:{free_port()}",)}
        assert ADAPTED not in await engine.index(), "one that does not answer may have it"
        engine.groups = groups
        assert ADAPTED in await engine.index()
        (engine.adapters / ADAPTED / "adapter_config.json").unlink()
        with pytest.raises(Transient) as refused:
            await engine.probe(ADAPTED, 60)
        assert refused.value.code == "load_failed"
        await engine.unload(ADAPTED)
        assert (await engine.index(), list(engine.adapters.iterdir())) == ({}, [])

    async def test_what_serves_is_put_into_another_folder_of_adapters(self, engine, server, folder, tmp_path):
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        engine.adapters = None
        assert ADAPTED in await engine.index(), "a lost record is no order"
        engine.adapters = tmp_path / "other"
        engine.adapters.mkdir()
        assert ADAPTED not in await engine.index(), "so it is loaded again"
        await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        server.kill()
        server.start()
        await engine.index()
        assert (await engine.probe(ADAPTED, 60)).strip()
        assert {path.name for path in engine.adapters.iterdir()} == {ADAPTED}

    async def test_a_folder_that_is_not_there_is_named(self, engine, folder):
        engine.adapters = engine.adapters / "other"
        with pytest.raises(Transient) as caught:
            await engine.load(ADAPTED, folder, digest=DIGEST, memory_bytes=0)
        assert (caught.value.code, str(engine.adapters) in caught.value.reason) == ("load_failed", True)


async def ask(channel, name=str(LOADED), *, limits: Deadlines | None = None, deadline_s: float = 30.0, **body):
    raw = json.dumps({"model": "toy", "prompt": "one two three", "max_tokens": 4, **body}).encode()
    asked = ApiRequest("POST", "/v1/completions", raw, deadline_s, "r1", "toy@v1", fingerprint="fp_toy.v1.bf16.0")
    return [piece async for piece in channel.stream_api(name, asked, limits or Deadlines(10, 5))]


async def test_an_answer_names_the_release_and_has_only_what_was_asked_for(channel):
    for stream in (True, False):
        pieces = await ask(channel, stream=stream)
        body = b"".join(piece.body for piece in pieces).decode()
        assert "fp_toy.v1.bf16.0" in body
        assert 'toy.v1.bf16"' not in body
        assert ('"usage"' in body) is not stream, "a stream has the counts that we asked for, its caller does not"
    with_usage = await ask(channel, stream=True, stream_options={"include_usage": True})
    assert b'"completion_tokens":4' in b"".join(piece.body for piece in with_usage)


async def test_an_answer_that_can_only_be_had_whole_has_no_time_of_its_first_token(channel):
    (whole,) = await ask(channel, logprobs=1)
    assert (whole.status, whole.record["is_whole"], whole.record["output_tokens"]) == (200, True, 4)


async def test_what_the_engine_fails_is_its_failure_and_what_it_refuses_the_callers(channel):
    (failed,) = await ask(channel, prompt="fail now", logprobs=1)
    assert (failed.status, failed.record["error"]["source"]) == (500, "application")
    for stream in (True, False):
        pieces = await ask(channel, prompt="break now", stream=stream, max_tokens=6)
        (broken,) = [piece for piece in pieces if "error" in piece.record]
        assert broken.record["error"] == {"class": "ErrorEvent", "source": "parser"}
    (refused,) = await ask(channel, max_tokens=10**9)
    assert (refused.status, refused.record["error"]["source"]) == (400, "validation")


async def test_a_deadline_is_an_answer_before_the_first_byte_and_an_early_end_after_it(channel):
    *_, late = await ask(channel, max_tokens=500, deadline_s=0.3)
    assert (late.status, late.record["error"]["source"]) == (504, "deadline")
    *_, last = await ask(channel, max_tokens=500, deadline_s=0.3, stream=True)
    assert (last.status, last.record["error"]["source"]) == (None, "deadline")


async def test_silence_before_the_first_token_is_no_first_token(silent):
    quiet = HttpChannel(silent)
    with pytest.raises(SlipwayError) as caught:
        await ask(quiet, stream=True, limits=Deadlines(0.2, 0.2))
    assert (caught.value.code, caught.value.details["silent_s"]) == ("no_first_token", 0.2)
    (late,) = await ask(quiet, limits=Deadlines(0.2, 0.2), deadline_s=0.4, logprobs=1)
    assert late.status == 504, "an answer that can only be had whole has no first token to wait for"
    await quiet.close()


async def test_a_server_that_answers_by_another_name_is_not_the_target(channel, server):
    """Many servers answer whatever name they are asked by."""
    server.serve({**SERVED, "toy.v3.bf16": {"answers_as": "gpt"}})
    for stream in (True, False):
        with pytest.raises(Transient) as caught:
            await ask(channel, "toy.v3.bf16", stream=stream)
        assert (caught.value.code, caught.value.details["not_loaded"]) == ("endpoint_unreachable", True)
        assert "gpt" in caught.value.reason


async def test_a_server_is_asked_with_the_key_that_its_address_names(tmp_path):
    keys = tmp_path / "keys"
    guarded = OpenAiServer(tmp_path, **SERVED)
    guarded.key = "s3cret"
    with running(guarded):
        channels = Channels(keys)
        channel = channels.get(guarded.url.replace("://", "://GPU_KEY@"))
        assert await channel.is_live(), "it answers"
        with pytest.raises(Transient) as caught:
            await ask(channel)
        assert caught.value.code == "endpoint_unreachable"
        assert "its key is GPU_KEY" in caught.value.reason
        assert not caught.value.details.get("not_loaded")
        keys.write_text("OTHER: x\nGPU_KEY: s3cret\n")
        assert (await ask(channel))[-1].record["output_tokens"] == 4, "a key that was replaced is read again"
        assert str(LOADED) in await channel.list_models(5.0)
        assert "s3cret" not in caught.value.reason
        await channels.close()


async def test_no_more_is_read_than_an_answer_may_have(answering):
    endless = await answering("200 OK\r\ncontent-type: application/json", b" " * 2**16, 100)
    with pytest.raises(Transient, match="longer than 1048576 bytes") as caught:
        await endless.list_models(10.0)
    assert caught.value.code == "endpoint_unreachable"
    assert await endless.render(str(LOADED), [], 10.0) is None
    event = {"model": str(LOADED), "choices": [{"index": 0, "text": "x" * 2**22}]}
    streaming = await answering(
        "200 OK\r\ncontent-type: text/event-stream", b"data: " + json.dumps(event).encode() + b"\n\n", 20
    )
    with pytest.raises(Transient, match="longer than 67108864 bytes"):
        await ask(streaming)


@pytest.mark.parametrize("status", [403, 404, 405, 501])
async def test_a_server_that_does_not_tell_its_template_does_not_differ(answering, status):
    assert await (await answering(f"{status} No", b"{}")).render(str(LOADED), [], 10.0) is None


async def test_a_server_that_dies_in_the_middle_of_an_answer_is_out_of_reach(tmp_path):
    with running(OpenAiServer(tmp_path, **{str(LOADED): {"token_delay_ms": "20"}})) as mortal:
        channel = HttpChannel(mortal.url)
        raw = json.dumps({"model": "toy", "prompt": "a", "max_tokens": 500, "stream": True}).encode()
        stream = channel.stream_api(str(LOADED), ApiRequest("POST", "/v1/completions", raw, 30.0), Deadlines(10, 5))
        assert (await anext(stream)).body
        mortal.kill()
        with pytest.raises(Transient) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "endpoint_unreachable"
        assert channel.under_way == 0
        await channel.close()


async def test_a_dead_engine_is_dead_and_a_replaced_name_is_not_there(channel, server):
    server.serve({"toy.v2.bf16": {"dead_text": "die now"}})
    assert await channel.list_models(5.0) == {"toy.v2.bf16": (None, None)}
    with pytest.raises(Transient) as caught:
        await first_token(channel, str(LOADED), deadline_s=5.0)
    assert (caught.value.code, caught.value.details["not_loaded"]) == ("endpoint_unreachable", True)
    assert await first_token(channel, "toy.v2.bf16", deadline_s=5.0)
    with pytest.raises(SlipwayError) as caught:
        await first_token(channel, "toy.v2.bf16", prompt="die now", deadline_s=5.0)
    assert caught.value.code in {"engine_dead", "engine_failed"}
