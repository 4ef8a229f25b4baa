"""Reading requests: what is accepted, what is refused and which field is named."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain import json_body, requests
from services.gateway.domain.errors import RequestRejected

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**changes):
    return requests.read_chat({"model": "m", "messages": HELLO, **changes})


def completion(**changes):
    return requests.read_completion({"model": "m", "prompt": "Once", **changes})


def refusal(call, **changes):
    with pytest.raises(RequestRejected) as caught:
        call(**changes)
    return caught.value.problem


def test_a_plain_chat_request():
    parsed = chat()
    assert (parsed.model, parsed.messages, parsed.stream, parsed.max_tokens, parsed.sampling) == (
        "m",
        ({"role": "user", "content": "Hello"},),
        False,
        None,
        {},
    )


def test_sampling_goes_to_the_engine_under_its_names():
    parsed = chat(
        temperature=0,
        top_p=0.5,
        seed=7,
        stop="END",
        presence_penalty=1,
        frequency_penalty=-1,
        top_k=3,
        min_p=0.1,
        ignore_eos=True,
        min_tokens=2,
        repetition_penalty=1.1,
    )
    assert parsed.sampling == {
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["END"],
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "top_k": 3,
        "min_p": 0.1,
        "ignore_eos": True,
        "min_tokens": 2,
        "repetition_penalty": 1.1,
    }


def test_text_parts_become_one_text_and_developer_the_system():
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    parsed = chat(messages=[{"role": "developer", "content": parts}, *HELLO])
    assert parsed.messages[0] == {"role": "system", "content": "Be kind."}


def test_streams_and_usage():
    parsed = chat(stream=True, stream_options={"include_usage": True}, user="u-1")
    assert (parsed.stream, parsed.include_usage, parsed.user) == (True, True, "u-1")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit(name):
    assert chat(**{name: 9}).max_tokens == 9


def test_the_older_endpoint_has_openais_default():
    assert completion().max_tokens == 16
    assert completion(prompt=["Once"]).prompt == "Once"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"user": 5}, "user"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_a_bad_chat_request_names_its_field(changes, param):
    problem = refusal(chat, **changes)
    assert (problem.status, problem.param) == (400, param)
    assert problem.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
        ({"messages": HELLO}, "messages"),
    ],
)
def test_a_bad_completion_request_names_its_field(changes, param):
    problem = refusal(completion, **changes)
    assert (problem.status, problem.param) == (400, param)


def test_neutral_values_of_what_is_not_supported_are_fine():
    chat(
        n=1,
        tools=[],
        tool_choice="auto",
        logprobs=False,
        response_format={"type": "text"},
        logit_bias=None,
        service_tier="auto",
        metadata={"a": "b"},
        store=False,
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(raw):
    with pytest.raises(RequestRejected) as caught:
        json_body.parse_body(raw)
    assert caught.value.problem.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "messages",
        "prompt",
        "stop",
        "n",
        "seed",
        "stream",
        "stream_options",
        "temperature",
        "max_tokens",
        "tools",
        "user",
    ]
)


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_read_or_refused(changes):
    for read in (requests.read_chat, requests.read_completion):
        # Anything but a refusal of the caller's request would fail this test.
        with contextlib.suppress(RequestRejected):
            parsed = read({"model": "m", "messages": HELLO, **changes})
            json.dumps(requests.plan_sampling(parsed, 2**63))


def test_the_limit_defaults_to_what_the_context_holds():
    assert requests.plan_sampling(chat(), 512)["max_tokens"] == 512
    assert requests.plan_sampling(chat(max_tokens=9), 512)["max_tokens"] == 9


def test_more_than_the_context_holds_is_refused():
    with pytest.raises(RequestRejected) as caught:
        requests.plan_sampling(chat(max_tokens=513), 512)
    assert caught.value.problem.code == "context_length_exceeded"
