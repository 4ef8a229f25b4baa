"""vLLM's own OpenAI API through Triton: its bytes, the records beside them, and what no caller reaches."""

import asyncio
import itertools
import json
import time

import pytest

from services.benchmarker.adapters.triton import TritonEngine
from services.benchmarker.domain import tool_calls
from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest
from tests.kit import openai_api
from tests.kit.one_engine import NAME, SLOTS

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.timeout(600)]
CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "bot", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 6, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"count": {"enum": [1, 2, 3]}},
    "required": ["count"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def target(triton, served):
    """The server of the engine."""
    return triton


def events_of(raw):
    """Return the events of a stream, parsed."""
    events = [line for line in raw.decode().split("\n") if line.startswith("data: {")]
    return [json.loads(event[6:]) for event in events]


class Api:
    """A caller of the API of one target."""

    def __init__(self, endpoint, name=NAME):
        self._name = name
        self._channels = Channels()
        self._endpoint = endpoint

    async def pieces(
        self,
        path,
        body,
        *,
        method="POST",
        deadline_s=120.0,
        model=None,
        request_id="t1",
        salt=None,
        on_piece=lambda: None,
    ):
        """Return the parts of an answer, and the time at which each came; call `on_piece` for each."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = ApiRequest(method, path, raw, deadline_s, request_id, model, salt)
        limits = Deadlines(first_token_s=120, inter_token_s=60)
        channel = self._channels.get(self._endpoint)
        pieces = []
        async for piece in stream_api(channel, self._name, request, deadlines=limits):
            pieces.append((piece, time.monotonic()))
            on_piece()
        return pieces

    async def ask(self, path, body, **options):
        """Return status, headers, body and records of an answer."""
        pieces = [piece for piece, _ in await self.pieces(path, body, **options)]
        (head,) = [piece for piece in pieces if piece.status is not None]
        return head.status, dict(head.headers), b"".join(p.body for p in pieces), [p.record for p in pieces]

    async def chat(self, **fields):
        status, _, body, records = await self.ask("/v1/chat/completions", {**CHAT, **fields})
        assert status == 200, body
        return json.loads(body), records

    async def stream(self, path, body):
        """Return the events of a stream, parsed, and its records."""
        status, headers, raw, records = await self.ask(path, {**body, "stream": True})
        assert status == 200, raw
        assert headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in raw.decode().split("\n\n") if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]], records

    async def close(self):
        await self._channels.close()


@pytest.fixture
async def api(target):
    api = Api(target.endpoint)
    yield api
    await api.close()


async def test_a_chat_is_answered_with_the_engines_own_bytes_and_a_record(api, served):
    answer, records = await api.chat()
    assert answer["model"] == "bot"
    assert answer["system_fingerprint"] == f"fp_{NAME}.{served.manifest.digest[7:15]}"
    (choice,) = answer["choices"]
    record = records[-1]
    assert record["texts"] == [["0.0", choice["message"]["content"]]]
    assert record["finish_reasons"] == {"0.0": "length"} == {"0.0": choice["finish_reason"]}
    assert record["output_tokens"] == answer["usage"]["completion_tokens"] == 6
    assert record["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert 0 <= record["queue_ms"] < record["first_token_ms"]
    assert "error" not in record


async def test_the_benchmarks_request_with_a_tool_is_answered_with_a_call(api):
    status, _, body, _ = await api.ask(tool_calls.PATH, tool_calls.plan_request("bot"))
    result = tool_calls.assess_answer(tool_calls.ApiAnswer(status, body), "hermes")
    assert result.verdict == "pass", result.reason


async def test_a_stream_has_its_text_once_in_bytes_and_once_in_records(api):
    events, records = await api.stream("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2})
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text
    assert "".join(part for record in records for _, part in record.get("texts", ())) == text
    assert [record["output_tokens"] for record in records] == sorted(record["output_tokens"] for record in records)
    assert records[-1]["output_tokens"] == 6
    assert -20 < records[-1]["logprob_mean"] < 0


async def test_an_answer_names_the_model_as_its_request_did(api):
    other = {**CHAT, "model": "bot@v1"}
    for path, body in (
        (CHAT_PATH, other),
        ("/v1/completions", {"prompt": "One", "max_tokens": 2}),
        ("/v1/responses", {"model": "anything", "input": "Hello", "max_output_tokens": 2}),
    ):
        status, _, raw, _ = await api.ask(path, body, model="team/bot@v1")
        assert (status, json.loads(raw)["model"]) == (200, "team/bot@v1"), path
        status, _, raw, _ = await api.ask(path, {**body, "stream": True}, model="team/bot@v1")
        assert status == 200
        names = {
            event.get("response", event)["model"] for event in events_of(raw) if "model" in event.get("response", event)
        }
        assert names == {"team/bot@v1"}, path
    status, _, _, _ = await api.ask("/tokenize", {"model": "anything", "prompt": "Hello"}, model="team/bot@v1")
    assert status == 200
    status, _, _, records = await api.ask(CHAT_PATH, other)
    assert (status, records[-1]["error"]["source"]) == (404, "validation"), "without a name the engine's own counts"
    answer, _ = await api.chat()
    assert answer["model"] == "bot"


async def test_two_teams_do_not_share_cached_prefixes_of_the_same_prompt_and_one_team_does(api):
    """The engine's own count of the prompt's tokens that it had, for each request in turn."""
    prompt = " ".join(f"Order {number} was sent." for number in range(80))
    body = {"model": "bot", "prompt": prompt, "max_tokens": 2, "temperature": 0}
    cached = []
    for salt in ("shop", "shop", "bank", "bank", None, None, "shop"):
        status, _, answer, records = await api.ask("/v1/completions", body, salt=salt)
        assert status == 200, answer
        cached.append(records[-1]["cached_tokens"])
    assert [count > 0 for count in cached] == [False, True, False, True, False, True, True], cached
    assert json.loads(answer)["usage"]["prompt_tokens"] > max(cached)


async def test_a_text_with_a_salt_leaves_no_cached_prefix_to_others(api, served):
    """Benchmarks salt each request, so that no engine has the prompts of an earlier one in its cache."""
    prompt = " ".join(f"Parcel {number} was lost." for number in range(80))
    body = {"model": "bot", "prompt": prompt, "max_tokens": 2, "temperature": 0}
    channels = Channels()
    answer = TritonEngine(channels).stream(
        served, prompt, output_tokens=2, timeout_s=60.0, number=0, cache_salt="benchmark-1"
    )
    assert sum([piece.output_tokens async for piece in answer]) == 2
    await channels.close()
    cached = []
    for salt in (None, "benchmark-2", "benchmark-1"):
        _, _, _, records = await api.ask("/v1/completions", body, salt=salt)
        cached.append(records[-1]["cached_tokens"])
    assert [count > 0 for count in cached] == [False, False, True], cached


async def test_an_answer_in_one_part_reports_its_first_token_and_then_its_progress(api):
    body = {**CHAT, "max_tokens": 300, "ignore_eos": True}
    pieces = await api.pieces(CHAT_PATH, body)
    *silent, (last, _) = pieces
    assert [piece.status for piece, _ in pieces] == [None] * len(silent) + [200]
    assert not any(piece.body for piece, _ in silent)
    first = silent[0][0].record
    assert first["output_tokens"] == 1
    assert first["prompt_tokens"] == last.record["prompt_tokens"]
    assert first["first_token_ms"] == last.record["first_token_ms"]
    counts = [piece.record["output_tokens"] for piece, _ in pieces]
    assert counts == sorted(set(counts))
    assert counts[-1] == 300
    times = [came for _, came in pieces]
    assert len(silent) <= 1 + (times[-1] - times[0]) / 0.4, "progress is not reported for each token"
    assert max(b - a for a, b in itertools.pairwise(times)) < 2.0  # the pause of others is what is tested


async def test_the_bytes_of_a_stream_report_its_progress(api):
    pieces = await api.pieces("/v1/completions", {"prompt": "Hi", "stream": True, "max_tokens": 40, "ignore_eos": True})
    assert all(piece.body for piece, _ in pieces[:-1])
    body = {"input": "Hi", "max_output_tokens": 20, "stream": True}
    pieces = await api.pieces("/v1/responses", body)
    assert pieces[0][0].record["output_tokens"] == 0, "its first events come before the first token"
    counts = [piece.record["output_tokens"] for piece, _ in pieces]
    assert counts == sorted(counts)
    assert 1 in counts


async def test_a_request_without_an_id_gets_one(api):
    _, _, body, _ = await api.ask(CHAT_PATH, CHAT, request_id="")
    assert len(json.loads(body)["id"]) > len("chatcmpl-")


async def test_several_answers_and_several_prompts(api):
    answer, records = await api.chat(n=3, temperature=1.0)
    assert len(answer["choices"]) == 3
    assert records[-1]["output_tokens"] == answer["usage"]["completion_tokens"]
    events, records = await api.stream(
        "/v1/completions", {"model": "bot", "prompt": ["One", "Two"], "max_tokens": 3, "temperature": 0}
    )
    texts = {
        index: "".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == index) for index in (0, 1)
    }
    noted = {}
    for record in records:
        for name, part in record.get("texts", ()):
            noted[name] = noted.get(name, "") + part
    assert sorted(noted.values()) == sorted(texts.values())
    assert records[-1]["output_tokens"] == 6


async def test_a_schema_a_tool_and_the_responses_api(api):
    answer, _ = await api.chat(
        response_format={"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA}}, max_tokens=40
    )
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["count"], int)
    answer, _ = await api.chat(structured_outputs={"choice": ["C++", 'a "quoted" one']}, max_tokens=20)
    assert answer["choices"][0]["message"]["content"] in {"C++", 'a "quoted" one'}
    answer, _ = await api.chat(
        tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look_up"}}, max_tokens=60
    )
    (call,) = answer["choices"][0]["message"].get("tool_calls", answer["choices"])
    assert call["function"]["name"] == "look_up"
    assert isinstance(json.loads(call["function"]["arguments"])["count"], int), call
    status, _, body, records = await api.ask(
        "/v1/responses", {"model": "bot", "input": "Hello", "max_output_tokens": 5}
    )
    assert status == 200, body
    assert records[-1]["output_tokens"] == json.loads(body)["usage"]["output_tokens"]
    status, _, body, _ = await api.ask("/tokenize", {"model": "bot", "prompt": "Hello"})
    assert (status, json.loads(body)["count"]) == (200, 1)


PATTERN = {"type": "string", "pattern": "^((([a-z]{1,1000}){1,1000}){1,1000}){1,1000}(.{0,500}a.{0,500}){200}$"}


async def test_a_schema_that_costs_too_much_is_refused_before_the_engine_sees_it(api):
    """The limit is of processor time; a stream that runs beside it goes on."""
    stream = asyncio.ensure_future(
        api.pieces("/v1/completions", {"prompt": "Hi", "stream": True, "max_tokens": 150, "ignore_eos": True})
    )
    bomb = {"type": "object", "properties": {"a": PATTERN}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "a", "parameters": bomb, "strict": True}}
    form = {"type": "json_schema", "name": "a", "schema": bomb}
    for path, field, body in (
        (CHAT_PATH, "response_format", {**CHAT, "response_format": {"type": "json_schema", "json_schema": form}}),
        (CHAT_PATH, "tools", {**CHAT, "tools": [tool], "stream": True}),
        ("/v1/completions", "structured_outputs", {"prompt": "Hi", "structured_outputs": {"json": bomb}}),
        ("/v1/responses", "text", {"input": "Hi", "text": {"format": form}, "stream": True}),
    ):
        status, _, raw, records = await api.ask(path, body)
        error = json.loads(raw)["error"]
        assert (status, error["code"], error["param"]) == (400, "schema_too_costly", field)
        assert records == [{"error": {"class": "schema_too_costly", "source": "validation"}}]
    times = [came for _, came in await stream]
    assert max(b - a for a, b in itertools.pairwise(times)) < 2.0  # the pause of others is what is tested
    plain = {"type": "function", "function": {"name": "a", "strict": True, "parameters": {"type": "object"}}}
    hidden = {**CHAT, "tools": [plain], "response_format": {"type": "json_schema", "json_schema": form}}
    text = json.dumps(hidden).replace("json_schema", "json\\u005fschema").replace('"tools"', '"t\\u006fols"')
    status, _, raw, _ = await api.ask(CHAT_PATH, text.encode())
    assert (status, json.loads(raw)["error"]["code"]) == (400, "schema_too_costly"), raw
    assert "processor time" in json.loads(raw)["error"]["message"], raw
    answer, _ = await api.chat(
        response_format={"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA}}, max_tokens=40
    )
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["count"], int)


@pytest.mark.parametrize("schema", [{"type": "nope"}, {"allOf": [{"type": "string"}, {"minLength": 3}]}])
async def test_a_schema_that_fails_is_refused_before_a_stream_begins(api, schema):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    status, _, raw, _ = await api.ask(CHAT_PATH, {**CHAT, "response_format": form, "stream": True})
    error = json.loads(raw)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_schema", "response_format")
    assert ".cc:" not in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/scale_elastic_ep"),
        ("POST", "/inference/v1/abort_requests"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/invocations"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/collective_rpc"),
        ("GET", "/metrics"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("GET", "/v1/chat/completions"),
    ],
)
async def test_no_other_path_is_reached(api, method, path):
    status, _, body, records = await api.ask(path, CHAT, method=method)
    assert status == (405 if path == CHAT_PATH else 404)
    assert json.loads(body)["error"]["code"] in {"unknown_url", "method_not_allowed"}
    assert records == [{"error": {"class": json.loads(body)["error"]["code"], "source": "validation"}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ 1 }}"},
        {"priority": 1},
        {"vllm_xargs": {"a": 1}},
        {"request_id": "mine"},
        {"store": True},
        {"n": 16_384},
        {"nonsense": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]},
    ],
)
async def test_what_the_gateway_should_have_refused_is_refused_by_the_backend(api, fields):
    status, _, body, records = await api.ask("/v1/chat/completions", {**CHAT, **fields})
    assert status == 400
    assert json.loads(body)["error"]["param"] in fields
    assert records[0]["error"]["source"] == "validation"


async def test_the_engines_own_refusals_name_their_source(api):
    status, _, _, records = await api.ask("/v1/chat/completions", {**CHAT, "max_tokens": 99_999})
    assert (status, records[0]["error"]["source"]) == (400, "validation")
    status, _, _, records = await api.ask("/v1/chat/completions", {**CHAT, "messages": "none"})
    assert (status, records[0]["error"]["source"]) == (400, "validation")
    status, _, _, records = await api.ask(
        "/v1/completions", {"model": "bot", "prompt": "word " * 2000, "max_tokens": 1}
    )
    assert (status, records[0]["error"]["source"]) == (400, "validation")
    status, _, _, records = await api.ask("/v1/chat/completions", {**CHAT, "model": "other"})
    assert (status, records[0]["error"]["source"]) == (404, "validation")
    status, _, body, _ = await api.ask("/v1/embeddings", {"model": "bot", "input": "Hello"})
    assert (status, json.loads(body)["error"]["code"]) == (404, "unsupported_by_model")
    broken = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nope"}}}
    status, _, _, records = await api.ask("/v1/chat/completions", {**CHAT, "response_format": broken})
    assert (status, records[0]["error"]["source"]) == (400, "validation")


async def test_a_large_body_which_vllm_validates_in_a_thread_is_answered_as_a_small_one(api):
    padding = {"user": "x" * 9_000}
    small, large = (await api.chat())[0], (await api.chat(**padding))[0]
    assert large["choices"] == small["choices"]
    events, _ = await api.stream("/v1/chat/completions", {**CHAT, **padding})
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    status, _, body, records = await api.ask("/v1/chat/completions", {**CHAT, **padding, "seed": "none"})
    assert (status, records[0]["error"]["source"]) == (400, "validation"), body


async def test_a_stream_of_responses_that_fails_has_its_record(api):
    body = {"model": "bot", "input": "Hello", "max_output_tokens": 5, "logit_bias": {"999999999": 1}, "stream": True}
    _, _, _, records = await api.ask("/v1/responses", body)
    assert records[-1]["error"]["source"] == "validation"


async def test_a_template_that_fails_or_rejects_on_purpose_is_named_as_the_source(api):
    async def source(text):
        messages = [{"role": "user", "content": text}]
        status, _, _, records = await api.ask(CHAT_PATH, {**CHAT, "messages": messages})
        return status, records[-1]["error"]["source"]

    assert await source("Please divide.") == (400, "template")
    assert await source("Please refuse.") == (400, "template_refused")


async def test_a_caller_that_leaves_and_a_deadline_abort_in_the_engine(api):
    """The engine generates two answers at a time: what was not aborted would keep the next request waiting."""
    long = {**CHAT, "max_tokens": 900, "ignore_eos": True, "stream": True}
    channel = api._channels.get(api._endpoint)
    for streams in (True, False):
        body = json.dumps({**long, "stream": streams}).encode()
        request = ApiRequest("POST", CHAT_PATH, body, 60.0)
        left = [stream_api(channel, NAME, request) for _ in range(SLOTS)]
        first = await asyncio.gather(*(anext(stream) for stream in left))
        assert all(piece.record["output_tokens"] < 100 for piece in first)
        for stream in left:
            await stream.aclose()
        _, records = await api.chat()
        assert records[-1]["queue_ms"] < 1000, "the engine is free again"
    status, _, body, records = await api.ask(CHAT_PATH, {**long, "stream": False}, deadline_s=0.5)
    assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
    assert records[-1]["error"]["source"] == "deadline"
    status, _, body, records = await api.ask(CHAT_PATH, long, deadline_s=1.0)
    assert (status, body.endswith(b"[DONE]\n\n")) == (200, False)
    assert 0 < records[-1]["output_tokens"] < 900
    assert records[-1]["error"]["source"] == "deadline"
    answer, records = await api.chat()
    assert answer["usage"]["completion_tokens"] == 6
    assert records[-1]["queue_ms"] < 1000, "the engine is free again"


async def test_the_tokens_of_one_step_come_in_one_message(target):
    api = openai_api.Api(target.endpoint, NAME)
    frames = await api.list_frames({**CHAT, "max_tokens": 60, "ignore_eos": True, "stream": True}, 2)
    parts = [part for frame in frames for part in frame]
    assert len(parts) >= 2 * 50
    assert len(frames) < 0.75 * len(parts), "two answers at a time share most messages"
    assert sum(part.is_last for part in parts) == 2
    await api.close()


async def test_a_dead_engine_is_named_as_the_source(target, api):
    """It is the last one of the folder: the engine stays dead."""
    dead = {"class": "EngineDeadError", "source": "engine"}
    long = {"prompt": "Hi", "max_tokens": 900, "ignore_eos": True}
    begun = {streams: asyncio.Event() for streams in (True, False)}
    running = [
        asyncio.ensure_future(api.pieces("/v1/completions", {**long, "stream": streams}, on_piece=event.set))
        for streams, event in begun.items()
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(event.wait() for event in begun.values()))
    target.engine_process(NAME).kill()
    streamed, whole = await asyncio.gather(*running)
    assert streamed[-1][0].record["error"] == dead
    assert streamed[0][0].status == 200
    assert whole[-1][0].record["error"] == dead
    assert whole[-1][0].status == 500
    for path, body in (
        ("/v1/completions", long),
        (CHAT_PATH, CHAT),
        ("/v1/responses", {"input": "Hi"}),
    ):
        for streams in (False, True):
            text = {"messages": [{"role": "user", "content": "Hello"}]} if path == CHAT_PATH else {}
            pieces = await api.pieces(path, {**body, **text, "stream": streams})
            assert pieces[-1][0].record["error"] == dead, (path, streams)
