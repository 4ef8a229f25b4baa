"""OpenAI's objects and server-sent events, checked with the types of the openai package."""

import json

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from services.gateway.domain import answers
from services.gateway.domain.answers import ResponseFormat, Usage
from services.gateway.domain.errors import upstream_failed


def shape(kind="chat", **changes):
    complete = {"kind": kind, "id": "x-1", "created": 1, "model": "m", "fingerprint": "fp_m.v1.int8.00000000"}
    return ResponseFormat(**(complete | changes))


def test_a_whole_chat_answer():
    answer = ChatCompletion.model_validate(shape().complete("Hi", "stop", Usage(3, 1)), strict=True)
    assert answer.choices[0].message.content == "Hi"
    assert answer.usage.total_tokens == 4


def test_a_whole_completion():
    answer = Completion.model_validate(shape("completion").complete("Hi", "length", Usage(3, 1)), strict=True)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hi", "length")


def test_a_chat_stream_opens_with_the_role_and_ends_with_reason_and_usage():
    response = shape(include_usage=True)
    bodies = [*response.first_chunks(), response.chunk("Hi"), *response.last_chunks("stop", Usage(3, 1))]
    chunks = [ChatCompletionChunk.model_validate(body, strict=True) for body in bodies]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == ["", "Hi", None]
    assert chunks[2].choices[0].finish_reason == "stop"
    assert (chunks[3].choices, chunks[3].usage.completion_tokens) == ([], 1)
    assert all("usage" in body for body in bodies)


def test_a_completion_stream():
    response = shape("completion")
    bodies = [*response.first_chunks(), response.chunk("Hi"), *response.last_chunks("stop", Usage(3, 1))]
    # While a stream goes on the reason is null, which OpenAI sends too although its own type forbids it.
    assert bodies[0]["choices"][0] == {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": None}
    assert Completion.model_validate(bodies[1], strict=True).choices[0].finish_reason == "stop"
    assert all("usage" not in body for body in bodies)


def test_an_event_is_one_line_whatever_the_text():
    written = answers.event(shape().chunk("a\n\nb\r\u2028data: [DONE]"))
    assert written.startswith(b"data: ")
    assert written.endswith(b"\n\n")
    assert written.count(b"\n") == 2
    assert json.loads(written[6:])["choices"][0]["delta"]["content"] == "a\n\nb\r\u2028data: [DONE]"


@pytest.mark.parametrize(
    ("code", "status", "type_"),
    [
        ("no_first_token", 504, "upstream_error"),
        ("endpoint_unreachable", 502, "upstream_error"),
        ("engine_dead", 502, "upstream_error"),
        ("internal_error", 502, "upstream_error"),
        ("bad_request", 400, "invalid_request_error"),
    ],
)
def test_upstream_failures(code, status, type_):
    problem = upstream_failed(code, "why")
    assert (problem.status, problem.type) == (status, type_)


def test_a_prompt_longer_than_the_context_is_said_so():
    assert upstream_failed("bad_request", "longer than the maximum model length").code == "context_length_exceeded"
