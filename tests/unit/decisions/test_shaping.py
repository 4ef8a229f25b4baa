"""Which requests are no evidence because of the caller's own parameters."""

import pytest

from decisions import shaping
from decisions.openai_fields import ALLOWED_FIELDS
from services.rollback_controller.adapters.gateway import GatewayFlow

CHAT, COMPLETION, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PLAIN = {"model": "toy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0.7}


def test_every_field_of_a_generating_request_is_judged():
    known = frozenset().union(*(ALLOWED_FIELDS[kind] for kind in shaping.GENERATING))
    assert known <= shaping.PLAIN | set(shaping.SHAPING)
    assert not shaping.PLAIN & set(shaping.SHAPING)


@pytest.mark.parametrize(
    "parameter",
    [
        {"logit_bias": {"17": 100}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "json_object"}},
        {"tools": [], "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "look_up"}}},
        {"n": 2},
        {"prompt_logprobs": 0},
        {"bad_words": ["no"]},
        {"allowed_token_ids": [5]},
        {"temperature": 1.5},
        {"frequency_penalty": -1.0},
        {"presence_penalty": 1.9},
        {"repetition_penalty": 0.5},
        {"add_generation_prompt": False},
        {"skip_special_tokens": False},
    ],
    ids=str,
)
def test_parameters_that_shape_the_answer(parameter):
    assert shaping.is_shaped_by_caller(CHAT, PLAIN | parameter)


@pytest.mark.parametrize(
    "parameter",
    [
        {},
        {"logit_bias": {}},
        {"logit_bias": None},
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"tools": [{"type": "function"}], "tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": None},
        {"min_tokens": 5},
        {"ignore_eos": True},
        {"n": 1},
        {"n": None},
        {"echo": False},
        {"prompt_logprobs": None},
        {"temperature": 1},
        {"temperature": None},
        {"frequency_penalty": 0.2},
        {"repetition_penalty": 1.1},
        {"stop": ["."]},
        {"logprobs": True, "top_logprobs": 5},
        {"stream": True},
    ],
    ids=str,
)
def test_ordinary_parameters_do_not(parameter):
    assert not shaping.is_shaped_by_caller(CHAT, PLAIN | parameter)


@pytest.mark.parametrize(
    ("path", "body", "shaped"),
    [
        (COMPLETION, {"prompt": "One"}, False),
        (COMPLETION, {"prompt": ["One"]}, False),
        (COMPLETION, {"prompt": ["One", "Two"]}, True),
        (COMPLETION, {"prompt": [5, 6, 7]}, False),
        (COMPLETION, {"prompt": [[5, 6], [7]]}, True),
        (COMPLETION, {"prompt": "One", "echo": True}, True),
        (COMPLETION, {"prompt": "One", "suffix": "Two"}, True),
        (RESPONSES, {"input": "One"}, False),
        (RESPONSES, {"input": [{"role": "user"}, {"role": "assistant"}]}, False),
        (RESPONSES, {"input": "One", "text": {"format": {"type": "json_schema"}}}, True),
        (RESPONSES, {"input": "One", "text": {"format": {"type": "text"}}}, False),
        ("/v1/embeddings", {"input": "One"}, False),
        ("/v1/embeddings", {"input": ["One", "Two"]}, True),
        ("/tokenize", {"prompt": "One"}, True),
        ("/detokenize", {"tokens": [5]}, True),
    ],
)
def test_other_paths(path, body, shaped):
    assert shaping.is_shaped_by_caller(path, body) == shaped


@pytest.mark.parametrize(
    ("path", "body", "finish_reason", "is_set"),
    [
        (CHAT, {}, "length", False),
        (CHAT, {"max_tokens": 9}, "length", True),
        (CHAT, {"max_completion_tokens": 9}, "length", True),
        (RESPONSES, {"max_output_tokens": 9}, "length", True),
        (CHAT, {"max_tokens": 9}, "stop", False),
        (COMPLETION, {}, "length", True),
        (COMPLETION, {}, "stop", False),
        (CHAT, {"stop": ["."]}, "stop", True),
        (CHAT, {"stop_token_ids": [5]}, "stop", True),
        (CHAT, {"stop": []}, "stop", False),
        (CHAT, {"min_tokens": 5}, "stop", True),
        (CHAT, {"ignore_eos": True}, "stop", True),
        (CHAT, {}, None, False),
    ],
)
def test_where_an_answer_ended(path, body, finish_reason, is_set):
    assert shaping.is_length_set_by_caller(path, body, finish_reason) == is_set


def test_the_requests_of_a_rehearsal_are_evidence():
    """They force a length, so that every answer has a time between tokens."""
    body = GatewayFlow(None, "toy", rps=1.0, tokens=8).body | {"prompt": "Hello"}
    assert shaping.is_length_forced_by_caller(body)
    assert not shaping.is_shaped_by_caller(COMPLETION, body)
