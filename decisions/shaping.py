"""Which requests say nothing about their target, because the caller's own parameters shape the answer or its times.

A grammar, a forced token or a temperature of 2 makes any model repeat itself, stop at once or take long: to count such
answers would let a caller roll a version back. Errors count whatever the parameters (`decisions.attribution`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from decisions.openai_paths import PATHS

GENERATING: Final = frozenset({"chat", "completion", "responses"})
"""The kinds of request whose answers are generated token by token."""
_ONE_PROMPT: Final = frozenset({*GENERATING, "embeddings"})
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_STOPS: Final = ("stop", "stop_token_ids")
_MINIMA: Final = ("min_tokens", "ignore_eos")


def _is_set(value: Any) -> bool:
    """Return whether a parameter asks for anything: `null`, `false`, 0 and what is empty do not."""
    return bool(value)


def _is_given(value: Any) -> bool:
    return value is not None


def _is_off(value: Any) -> bool:
    return value is False


def _above_one(value: Any) -> bool:
    return isinstance(value, int | float) and value > 1


def _outside(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not low <= value <= high


def _is_format(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type", "text") != "text"


def _is_text_format(value: Any) -> bool:
    return isinstance(value, Mapping) and _is_format(value.get("format"))


def _is_forced(value: Any) -> bool:
    return _is_given(value) and value not in ("none", "auto")


def _sets_prompt_end(value: Any) -> bool:
    """Return whether variables of the template replace parameters that shape an answer."""
    return isinstance(value, Mapping) and not {"add_generation_prompt", "continue_final_message"}.isdisjoint(value)


def _are_several(value: Any) -> bool:
    """Return whether a list holds several prompts; one of numbers is one prompt of token ids."""
    return isinstance(value, list) and len(value) > 1 and not all(isinstance(token, int) for token in value)


SHAPING: Final[Mapping[str, Callable[[Any], bool]]] = {
    "add_generation_prompt": _is_off,
    "add_special_tokens": _is_off,
    "allowed_token_ids": _is_set,
    "bad_words": _is_set,
    "chat_template_kwargs": _sets_prompt_end,
    "continue_final_message": _is_set,
    "echo": _is_set,
    "frequency_penalty": _outside(0.0, 1.0),
    "logit_bias": _is_set,
    "n": _above_one,
    "presence_penalty": _outside(0.0, 1.0),
    "prompt_logprobs": _is_given,
    "repetition_detection": _is_set,
    "repetition_penalty": _outside(1.0, 1.3),
    "response_format": _is_format,
    "skip_special_tokens": _is_off,
    "structured_outputs": _is_set,
    "suffix": _is_set,
    "temperature": _outside(0.0, 1.0),
    "text": _is_text_format,
    "thinking_token_budget": _is_given,
    "tool_choice": _is_forced,
    "truncate_prompt_tokens": _is_given,
}
"""The parameters that shape an answer, each with the values that do."""

PLAIN: Final = frozenset(
    {
        *_LIMITS,  # these three decide where an answer ends: `is_length_set_by_caller`
        *_STOPS,
        *_MINIMA,
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
        "return_prompt_text",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "seed",
        "spaces_between_special_tokens",
        "stream",
        "stream_options",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncation",
        "truncation_side",
        "user",
    }
)
"""The other fields of a generating request: what it asks, how the answer is delivered, and ordinary sampling."""


def is_shaped_by_caller(path: str, body: Mapping[str, Any]) -> bool:
    """Return whether a request is no evidence for latency and quality triggers.

    That holds if the value of a parameter in `SHAPING` shapes the answer, with several prompts or inputs, and for
    requests that the model does not compute (`/tokenize`, `/detokenize`). A forced length does not: it says nothing
    about the end and the text of an answer, but the latencies until then are the target's (`decisions.triggers`).

    Args:
        path: one of `PATHS`.
        body: the JSON object.
    """
    kind = PATHS[path]
    if kind not in _ONE_PROMPT:
        return True
    if kind in {"completion", "embeddings"} and _are_several(body.get("prompt" if kind == "completion" else "input")):
        return True
    return kind in GENERATING and any(name in body and shapes(body[name]) for name, shapes in SHAPING.items())


def is_length_forced_by_caller(body: Mapping[str, Any]) -> bool:
    """Return whether the caller forced a minimum length, which only makes an answer longer."""
    return any(body.get(name) for name in _MINIMA)


def is_length_set_by_caller(path: str, body: Mapping[str, Any], finish_reason: str | None) -> bool:
    """Return whether the caller's own parameters decided where an answer ended.

    A completion without `max_tokens` ends after 16 tokens: that limit is the API's, not the target's.

    Args:
        path: one of `PATHS`.
        body: the JSON object.
        finish_reason: as the engine reports it.
    """
    limited = PATHS[path] == "completion" or any(body.get(name) is not None for name in _LIMITS)
    stopped = any(body.get(name) for name in _STOPS)
    by_limit, by_stop = finish_reason == "length" and limited, finish_reason == "stop" and stopped
    return is_length_forced_by_caller(body) or by_limit or by_stop
