"""A caller of the OpenAI API of one target on Triton, and the cases that every engine passes."""

import contextlib
import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest, FramedPiece, build_message, read_pieces

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TALK = {"model": "bot", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 6, "temperature": 0}
PROMPT = {"model": "bot", "prompt": "One two three", "max_tokens": 6, "temperature": 0}
FOREVER = {**TALK, "max_tokens": 900, "ignore_eos": True}
LIMITS = Deadlines(first_token_s=120, inter_token_s=60)


class Api:
    """A caller of one target."""

    def __init__(self, endpoint: str, name: str, limits: Deadlines = LIMITS) -> None:
        self.name = name
        self._limits = limits
        self._channels = Channels()
        self._endpoint = endpoint

    def open(self, path: str, body: Any, *, method: str = "POST", deadline_s: float = 120.0, model: str | None = None):
        """Return the stream of pieces that answers a request."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = ApiRequest(method, path, raw, deadline_s, "t1", model)
        return stream_api(self._channels.get(self._endpoint), self.name, request, deadlines=self._limits)

    async def ask(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, str], bytes, list[Any]]:
        """Return status, headers, body and records of an answer."""
        pieces = [piece async for piece in self.open(path, body, **options)]
        (first,) = [piece for piece in pieces if piece.status is not None]
        return first.status, dict(first.headers), b"".join(p.body for p in pieces), [p.record for p in pieces]

    async def chat(self, **fields: Any) -> tuple[Any, list[Any]]:
        """Return the answer to a short conversation, and its records."""
        status, _, body, records = await self.ask(CHAT, {**TALK, **fields})
        assert status == 200, body
        return json.loads(body), records

    async def stream(self, path: str, body: Any) -> tuple[list[Any], list[Any]]:
        """Return the events of a stream, parsed, and its records."""
        status, headers, raw, records = await self.ask(path, {**body, "stream": True})
        assert status == 200, raw
        assert headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in raw.decode().split("\n\n") if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]], records

    async def refused(self, path: str, body: Any, **options: Any) -> tuple[int, Any, Any]:
        """Return status, error and the record's error of an answer that is one."""
        status, _, body, records = await self.ask(path, body, **options)
        return status, json.loads(body)["error"], records[-1]["error"]

    async def list_frames(self, body: Any, count: int) -> list[list[FramedPiece]]:
        """Return the parts in each message, in order, of the answers to so many requests at the same time."""
        from tritonclient.grpc import service_pb2_grpc

        request = ApiRequest("POST", CHAT, json.dumps(body).encode(), 120.0)
        messages = iter([build_message(self.name, request, f"r{number}", "one") for number in range(count)])
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channels.get(self._endpoint))
        responses = [response async for response in stub.ModelStreamInfer(messages)]
        assert not any(response.error_message for response in responses)
        return [read_pieces(response.infer_response) for response in responses]

    async def close(self) -> None:
        await self._channels.close()


def texts(records: list[Any]) -> dict[str, str]:
    """Return the text of each answer, put together from the records."""
    noted: dict[str, str] = {}
    for record in records:
        for name, part in record.get("texts", ()):
            noted[name] = noted.get(name, "") + part
    return noted


def reasons(records: list[Any]) -> dict[str, str]:
    """Return the finish reasons of the answers, from the records; each is there once."""
    noted: dict[str, str] = {}
    for record in records:
        for name, reason in record.get("finish_reasons", {}).items():
            assert name not in noted
            noted[name] = reason
    return noted


class ApiConformance:
    """What an engine's answers of the OpenAI API and their records have in common; a suite has a fixture `api`."""

    async def test_a_chat_has_its_text_in_the_answer_and_in_the_record(self, api):
        answer, records = await api.chat()
        parsed = ChatCompletion.model_validate(answer, strict=True)
        assert (answer["model"], answer["system_fingerprint"]) == ("bot", "fp_bot.v1")
        (choice,) = parsed.choices
        assert choice.message.role == "assistant"
        assert texts(records) == {"0.0": choice.message.content}
        assert reasons(records) == {"0.0": "length"} == {"0.0": choice.finish_reason}
        last = records[-1]
        assert last["output_tokens"] == parsed.usage.completion_tokens == 6
        assert last["prompt_tokens"] == parsed.usage.prompt_tokens > 0
        assert parsed.usage.total_tokens == parsed.usage.prompt_tokens + 6
        assert 0 <= last["queue_ms"] <= last["first_token_ms"]
        assert "error" not in last
        assert "logprob_mean" not in last

    async def test_the_tokens_of_one_step_come_in_one_message(self, api):
        frames = await api.list_frames({**TALK, "max_tokens": 30, "ignore_eos": True, "stream": True}, 24)
        parts = [part for frame in frames for part in frame]
        assert len(parts) >= 24 * 30
        assert len(frames) < len(parts) / 4
        for number in range(24):
            own = sorted(part.number for part in parts if part.request_id == f"r{number}")
            assert own == list(range(len(own)))
            (last,) = [part for part in parts if part.request_id == f"r{number}" and part.is_last]
            assert last.number == own[-1]
            assert not last.error

    async def test_a_stream_has_the_text_of_the_whole_answer(self, api):
        whole, _ = await api.chat()
        events, records = await api.stream(CHAT, {**TALK, "logprobs": True, "top_logprobs": 2})
        chunks = [ChatCompletionChunk.model_validate(event, strict=True) for event in events]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
            (chunks[0].id, chunks[0].created, "bot")
        }
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole["choices"][0]["message"]["content"] == texts(records)["0.0"]
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
        assert chunks[-1].system_fingerprint == "fp_bot.v1"
        assert all(chunk.usage is None for chunk in chunks)
        counts = [record["output_tokens"] for record in records]
        assert counts == sorted(counts)
        assert counts[-1] == 6
        reported = [chunk.choices[0].logprobs for chunk in chunks]
        tokens = [entry for logprobs in reported if logprobs is not None for entry in logprobs.content]
        assert len(tokens) == 6
        assert all(entry.top_logprobs for entry in tokens)
        mean = sum(entry.logprob for entry in tokens) / 6
        assert records[-1]["logprob_mean"] == pytest.approx(mean, abs=1e-3)

    async def test_usage_comes_last_where_a_stream_asks_for_it(self, api):
        events, _ = await api.stream(CHAT, {**TALK, "stream_options": {"include_usage": True}})
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 6
        assert events[-1]["system_fingerprint"] == "fp_bot.v1"
        status, _, _ = await api.refused(CHAT, {**TALK, "stream_options": {"include_usage": True}})
        assert status == 400

    async def test_several_answers_and_several_prompts(self, api):
        answer, records = await api.chat(n=3, temperature=1.0)
        contents = {f"0.{c['index']}": c["message"]["content"] for c in answer["choices"]}
        assert texts(records) == contents
        assert records[-1]["output_tokens"] == answer["usage"]["completion_tokens"] == 18
        asked = {**PROMPT, "prompt": ["One", "Two"], "max_tokens": 3}
        _, _, body, records = await api.ask(COMPLETIONS, asked)
        whole = Completion.model_validate_json(body, strict=True)
        assert [choice.text for choice in whole.choices] == [texts(records)["0.0"], texts(records)["1.0"]]
        events, records = await api.stream(COMPLETIONS, asked)
        joined = {
            index: "".join(c["text"] for event in events for c in event["choices"] if c["index"] == index)
            for index in (0, 1)
        }
        assert joined == {choice.index: choice.text for choice in whole.choices}
        assert reasons(records) == {"0.0": "length", "1.0": "length"}
        assert records[-1]["output_tokens"] == 6

    async def test_a_completion_with_log_probabilities(self, api):
        status, _, body, records = await api.ask(COMPLETIONS, {**PROMPT, "logprobs": 1})
        assert status == 200, body
        (choice,) = Completion.model_validate_json(body, strict=True).choices
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 6
        assert "".join(choice.logprobs.tokens) == choice.text
        assert records[-1]["logprob_mean"] == pytest.approx(sum(choice.logprobs.token_logprobs) / 6, abs=1e-3)

    async def test_a_stop_sequence_ends_an_answer_and_is_no_part_of_it(self, api):
        whole, _ = await api.chat()
        content = whole["choices"][0]["message"]["content"]
        stop = content.split()[-1]
        answer, records = await api.chat(stop=[stop])
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"] == content[: content.index(stop)] == texts(records)["0.0"]
        events, records = await api.stream(CHAT, {**TALK, "stop": stop})
        streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        assert streamed == choice["message"]["content"] == texts(records)["0.0"]
        assert events[-1]["choices"][0]["finish_reason"] == "stop"

    async def test_a_conversation_may_come_in_parts(self, api):
        parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]
        answer, _ = await api.chat(
            messages=[{"role": "system", "content": "Brief."}, {"role": "user", "content": parts}]
        )
        assert answer["usage"]["completion_tokens"] == 6

    async def test_an_answer_names_the_model_as_the_request_wants(self, api):
        _, _, body, _ = await api.ask(CHAT, {**TALK, "model": "bot@v1"}, model="bot@v1")
        assert json.loads(body)["model"] == "bot@v1"

    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("POST", "/scale_elastic_ep", 404, "unknown_url"),
            ("POST", "//v1/chat/completions", 404, "unknown_url"),
            ("GET", "/metrics", 404, "unknown_url"),
            ("GET", CHAT, 405, "method_not_allowed"),
            ("POST", "/v1/embeddings", 404, "unsupported_by_model"),
        ],
    )
    async def test_no_other_path_is_reached(self, api, method, path, status, code):
        answered, error, recorded = await api.refused(path, TALK, method=method)
        assert (answered, error["code"]) == (status, code)
        assert recorded == {"class": code, "source": "validation"}

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"priority": 1}, 400),
            ({"n": 16_384}, 400),
            ({"nonsense": 1}, 400),
            ({"max_tokens": 99_999}, 400),
            ({"messages": "none"}, 400),
            ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400),
            ({"temperature": "hot"}, 400),
            ({"min_tokens": 7}, 400),
            ({"top_logprobs": 2}, 400),
            ({"model": "other"}, 404),
        ],
    )
    async def test_a_callers_mistake_is_one_by_the_record_too(self, api, fields, status):
        answered, error, recorded = await api.refused(CHAT, {**TALK, **fields})
        assert answered == status, error
        assert recorded["source"] == "validation"
        assert error["message"]

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b'{"n":' + b"9" * 5000 + b"}", b"[" * 50_000])
    async def test_what_is_no_json_object_is_refused(self, api, body):
        status, error, recorded = await api.refused(CHAT, body)
        assert (status, error["code"], recorded["source"]) == (400, "invalid_json", "validation")

    async def test_a_deadline_is_an_answer_before_the_first_byte_and_an_early_end_after_it(self, api):
        status, error, recorded = await api.refused(CHAT, FOREVER, deadline_s=0.5)
        assert (status, error["code"], recorded["source"]) == (504, "deadline_exceeded", "deadline")
        status, _, body, records = await api.ask(CHAT, {**FOREVER, "stream": True}, deadline_s=1.0)
        assert (status, body.endswith(b"[DONE]\n\n")) == (200, False)
        assert 0 < records[-1]["output_tokens"] < 900
        assert records[-1]["error"]["source"] == "deadline"

    async def test_a_caller_that_leaves_aborts_in_the_engine(self, api):
        pieces = api.open(CHAT, {**FOREVER, "stream": True})
        async with contextlib.aclosing(pieces):
            assert (await anext(pieces)).status == 200
        answer, records = await api.chat()
        assert answer["usage"]["completion_tokens"] == 6
        assert records[-1]["queue_ms"] < 1000, "the engine is free again"
