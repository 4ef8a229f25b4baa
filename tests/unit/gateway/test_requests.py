"""Reading requests: what the gateway needs of a body, what is refused, and which field is named."""

import contextlib

import pytest

from decisions.openai.paths import PATHS
from services.gateway.domain import requests
from services.gateway.domain.errors import RequestRejected

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def read(path=CHAT, **body):
    return requests.read_request(path, b"{}", {"model": "m", **body})


def check(parsed, context_tokens=100):
    requests.check_request(parsed, context_tokens)


def refusal(call, *args, **changes):
    with pytest.raises(RequestRejected) as caught:
        call(*args, **changes)
    return caught.value.problem.status, caught.value.problem.param, caught.value.problem.code


def test_what_is_read_of_a_plain_request():
    parsed = read(messages=HELLO, stream=True, user="u")
    assert (parsed.kind, parsed.model, parsed.stream, parsed.text) == ("chat", "m", True, "Hello")
    assert parsed.generates
    assert not parsed.has_stops
    check(parsed)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_its_kind(path):
    assert read(path).kind == PATHS[path]
    assert read(path).generates == (PATHS[path] in {"chat", "completion", "responses"})


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"model": None}, "model", "invalid_value"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": 5}, "model", "invalid_value"),
        ({"model": "m" * 257}, "model", "above_maximum_value"),
        ({"user": ["u"]}, "user", "invalid_value"),
        ({"user": "u" * 513}, "user", "above_maximum_value"),
        ({"stream": 1}, "stream", "invalid_value"),
        ({"stream": "true"}, "stream", "invalid_value"),
    ],
)
def test_what_the_gateway_itself_needs_is_read_strictly(changes, field, code):
    assert refusal(read, **changes) == (400, field, code)


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"priority": 3}, "priority", "unsupported_parameter"),
        ({"no_such": 3}, "no_such", "unknown_parameter"),
        ({"n": 33}, "n", "above_maximum_value"),
        ({"max_tokens": "3"}, "max_tokens", "invalid_value"),
    ],
)
def test_fields_and_costs_are_judged_by_the_shared_table(changes, field, code):
    assert refusal(check, read(messages=HELLO, **changes)) == (400, field, code)


LONG, TOO_LONG = "x" * 6_380, "x" * 6_401


@pytest.mark.parametrize(
    ("path", "field", "wrap"),
    [
        (CHAT, "messages", lambda text: [{"role": "user", "content": text}]),
        (CHAT, "messages", lambda text: [{"role": "user", "content": [{"type": "text", "text": text}]}]),
        ("/v1/completions", "prompt", lambda text: text),
        ("/v1/completions", "prompt", lambda text: [text, "short"]),
        ("/v1/responses", "input", lambda text: text),
        ("/v1/responses", "input", lambda text: [{"role": "user", "content": text}]),
        ("/tokenize", "prompt", lambda text: text),
    ],
)
def test_a_text_that_no_context_can_hold_is_not_sent(path, field, wrap):
    check(read(path, **{field: wrap(LONG)}))
    assert refusal(check, read(path, **{field: wrap(TOO_LONG)})) == (400, field, "context_length_exceeded")


def test_several_prompts_are_long_together():
    check(read("/v1/completions", prompt=[LONG, LONG], max_tokens=1))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": None}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}, 5]}]}, "a"),
        ({"instructions": "a", "input": [{"type": "function_call_output", "output": "b"}]}, "a\nb"),
        ({"prompt": ["a", "b"]}, "a\nb"),
        ({"prompt": [1, 2]}, ""),
        ({"messages": "no list", "input": 7, "prompt": {"a": "b"}}, "no list"),
    ],
)
def test_the_text_of_any_body_can_be_read(body, text):
    assert read(**body).text == text


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": TOO_LONG}}]}]},
        {"messages": [{"role": "user", "content": "x", "name": TOO_LONG}]},
        {"messages": HELLO, "documents": [{"text": TOO_LONG}]},
        {"messages": HELLO, "chat_template_kwargs": {"x": [TOO_LONG]}},
        {"messages": HELLO, "metadata": {"x": TOO_LONG}},
        {"messages": HELLO, "stop": [TOO_LONG]},
    ],
)
def test_long_texts_elsewhere_are_not_sent_either(changes):
    assert refusal(check, read(**changes)) == (400, "messages", "context_length_exceeded")


@pytest.mark.parametrize("prompt", [5, True, [None], [1.5], ["a", 5], [[1], 2], [{}, 0], {"a": 1}, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_of_any_type_raises_nothing_else(path, prompt):
    parsed = read(path, prompt=prompt, messages=prompt, input=prompt)
    assert isinstance(parsed.text, str)
    assert parsed.names_tokens in {True, False}
    with contextlib.suppress(RequestRejected):
        check(parsed)
