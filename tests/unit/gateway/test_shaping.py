"""Which metrics the caller's own parameters force."""

from typing import get_args

import pytest

from contracts.trigger_metrics import TriggerMetric
from decisions.openai.fields import ALLOWED_FIELDS
from services.gateway.domain import shaping
from services.rollback_controller.adapters.gateway import GatewayFlow

CHAT, COMPLETION, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PLAIN = {"model": "toy", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.7}
UNSHAPING = {
    "documents",
    "include",
    "include_reasoning",
    "include_stop_str_in_output",
    "input",
    "instructions",
    "logprob_token_ids",
    "logprobs",
    "max_tool_calls",
    "messages",
    "metadata",
    "min_p",
    "model",
    "parallel_tool_calls",
    "prompt",
    "prompt_cache_key",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "return_prompt_text",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "seed",
    "spaces_between_special_tokens",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "truncation",
    "truncation_side",
    "user",
}
"""What a request asks, how the answer is delivered, and ordinary sampling."""
LENGTH = tuple(
    sorted(
        (
            *("cut_off_ratio", "e2e_ms", "empty_ratio", "invalid_json_ratio", "logprob_mean"),
            *("other_language_ratio", "output_tokens", "repetition_ratio"),
        )
    )
)
TEXT = tuple(sorted((*LENGTH, "refusal_ratio")))
STOPPED = ("empty_ratio", "invalid_json_ratio", "output_tokens")
TIMES = ("ttft_ms", "itl_ms", "e2e_ms", "queue_ms", "output_tokens")
ALL = tuple(sorted(set(get_args(TriggerMetric)) - {"error_ratio"}))


def test_every_field_of_a_generating_request_is_judged():
    known = frozenset().union(*(ALLOWED_FIELDS[kind] for kind in shaping.GENERATING))
    assert known <= UNSHAPING | set(shaping.FORCED)
    assert not UNSHAPING & set(shaping.FORCED)


@pytest.mark.parametrize(
    ("parameter", "forced"),
    [
        ({"max_tokens": 16}, ("cut_off_ratio",)),
        ({"max_tokens": 15}, ("cut_off_ratio", "empty_ratio")),
        ({"max_completion_tokens": 90}, ("cut_off_ratio",)),
        ({"max_tokens": None}, ()),
        ({"stop": ["."]}, STOPPED),
        ({"stop": []}, ()),
        ({"stop_token_ids": [5]}, STOPPED),
        ({"min_tokens": 5}, LENGTH),
        ({"ignore_eos": True, "max_tokens": 8}, LENGTH),
        ({"ignore_eos": False}, ()),
        ({"n": 2}, ("output_tokens",)),
        ({"n": 1}, ()),
        ({"prompt_logprobs": 0}, ("e2e_ms", "ttft_ms")),
        ({"skip_special_tokens": False}, ("empty_ratio", "invalid_json_ratio")),
        ({"logit_bias": {"17": 100}}, TEXT),
        ({"logit_bias": {}}, ()),
        ({"bad_words": ["no"]}, TEXT),
        ({"allowed_token_ids": [5]}, TEXT),
        ({"frequency_penalty": -1.0}, TEXT),
        ({"presence_penalty": 1.9}, TEXT),
        ({"repetition_penalty": 0.5}, TEXT),
        ({"add_generation_prompt": False}, TEXT),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, TEXT),
        ({"chat_template_kwargs": {"thinking": True}}, ()),
    ],
    ids=str,
)
def test_parameters_that_force_metrics(parameter, forced):
    assert shaping.forced_metrics(CHAT, PLAIN | parameter) == forced


@pytest.mark.parametrize(
    "parameter",
    [
        {},
        {"logit_bias": None},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"tools": [{"type": "function"}], "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "look_up"}}},
        {"temperature": 2},
        {"echo": False},
        {"prompt_logprobs": None},
        {"frequency_penalty": 0.2},
        {"repetition_penalty": 1.1},
        {"logprobs": True, "top_logprobs": 5},
        {"stream": True},
    ],
    ids=str,
)
def test_other_parameters_force_none(parameter):
    assert shaping.forced_metrics(CHAT, PLAIN | parameter) == ()


@pytest.mark.parametrize(
    ("path", "body", "forced"),
    [
        (COMPLETION, {"prompt": "One"}, ("cut_off_ratio",)),  # the API's own limit
        (COMPLETION, {"prompt": ["One"]}, ("cut_off_ratio",)),
        (COMPLETION, {"prompt": [5, 6, 7]}, ("cut_off_ratio",)),
        (COMPLETION, {"prompt": [[5, 6], [7]]}, tuple(sorted((*TIMES, "cut_off_ratio")))),
        (COMPLETION, {"prompt": "One", "echo": True}, TEXT),
        (COMPLETION, {"prompt": "One", "suffix": "Two"}, TEXT),
        (RESPONSES, {"input": "One"}, ()),
        (RESPONSES, {"input": [{"role": "user"}, {"role": "assistant"}]}, ()),
        (RESPONSES, {"input": "One", "text": {"format": {"type": "json_schema"}}}, ()),
        (RESPONSES, {"input": "One", "max_output_tokens": 9}, ("cut_off_ratio", "empty_ratio")),
        ("/v1/embeddings", {"input": "One"}, ()),
        ("/v1/embeddings", {"input": ["One", "Two"]}, ALL),
        ("/tokenize", {"prompt": "One"}, ALL),
        ("/detokenize", {"tokens": [5]}, ALL),
    ],
)
def test_other_paths(path, body, forced):
    assert shaping.forced_metrics(path, body) == forced


def test_the_requests_of_a_rehearsal_force_a_length():
    """So that every answer has a time between tokens."""
    assert shaping.forces_length(GatewayFlow(None, "toy", rps=1.0, tokens=8).body)
