"""The metrics that a request's parameters force: the request is evidence only for the other metrics.

A token list, a forced end or a penalty makes any model repeat itself, stop at once or take long. Counting such answers
would let a caller move a version out of traffic, or hide that it is bad. The parameters decide, never the outcome:
excluding by outcome would bias the rest. Errors always count (`decisions.evidence.attribution`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import is_, is_not
from typing import Any, Final

from contracts.trigger_metrics import METRICS, Parameter, TriggerMetric
from decisions.openai.paths import PATHS

GENERATING: Final = frozenset({"chat", "completion", "responses"})
"""Kinds of requests with answers generated token by token."""
TEXT_TOKENS: Final = 16
"""A lower token limit of the caller excuses an empty answer."""
_ALL: Final = tuple(sorted(metric for metric, rule in METRICS.items() if rule.kind != "errors"))


def _by(parameter: Parameter) -> tuple[TriggerMetric, ...]:
    """Return the metrics that a kind of parameter forces."""
    return tuple(metric for metric, rule in METRICS.items() if parameter in rule.forced_by)


_is_given: Final = partial(is_not, None)
_is_off: Final = partial(is_, False)


def _above_one(value: Any) -> bool:
    return isinstance(value, int | float) and value > 1


def _outside(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not low <= value <= high


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and value < TEXT_TOKENS


def _sets_prompt_end(value: Any) -> bool:
    """Return whether template variables override the parameters for the prompt's end."""
    return isinstance(value, Mapping) and not {"add_generation_prompt", "continue_final_message"}.isdisjoint(value)


def _are_several(value: Any) -> bool:
    """Return whether a value is several prompts; a list of token ids is one prompt."""
    return isinstance(value, list) and len(value) > 1 and not all(isinstance(token, int) for token in value)


_Rule = tuple[Callable[[Any], bool], tuple[TriggerMetric, ...]]
_LIMIT: Final[tuple[_Rule, ...]] = ((_is_given, _by("limit")), (_is_small, _by("short_limit")))
_STOP: Final[tuple[_Rule, ...]] = ((bool, _by("stop")),)
_MINIMUM: Final[tuple[_Rule, ...]] = ((bool, _by("length")),)

_SHAPING: Final[Mapping[str, Callable[[Any], bool]]] = {
    "add_generation_prompt": _is_off,
    "add_special_tokens": _is_off,
    "allowed_token_ids": bool,
    "bad_words": bool,
    "chat_template_kwargs": _sets_prompt_end,
    "continue_final_message": bool,
    "echo": bool,
    "frequency_penalty": _outside(0.0, 1.0),
    "logit_bias": bool,
    "presence_penalty": _outside(0.0, 1.0),
    "repetition_detection": bool,
    "repetition_penalty": _outside(1.0, 1.3),
    "suffix": bool,
    "thinking_token_budget": _is_given,
    "truncate_prompt_tokens": _is_given,
}

FORCED: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "max_completion_tokens": _LIMIT,
    "max_output_tokens": _LIMIT,
    "max_tokens": _LIMIT,
    "stop": _STOP,
    "stop_token_ids": _STOP,
    "ignore_eos": _MINIMUM,
    "min_tokens": _MINIMUM,
    "n": ((_above_one, _by("several")),),  # only the sum of tokens is known
    "prompt_logprobs": ((_is_given, _by("prompt_logprobs")),),
    "skip_special_tokens": ((_is_off, _by("special_tokens")),),
    **{name: ((forces, _by("shape")),) for name, forces in _SHAPING.items()},
}
"""By parameter: a predicate of its value, and the metrics that such a value forces."""


def forced_metrics(path: str, body: Mapping[str, Any]) -> tuple[TriggerMetric, ...]:
    """Return the metrics that the caller's parameters force, sorted.

    A completion without `max_tokens` ends after 16 tokens, a limit of the API. Requests that the model does not
    compute (`/tokenize`, `/detokenize`) are evidence of errors only.

    Args:
        path: one of `PATHS`.
        body: the JSON object.
    """
    kind = PATHS[path]
    if kind == "embeddings" and not _are_several(body.get("input")):
        return ()
    if kind not in GENERATING:
        return _ALL
    forced = {
        metric
        for name, rules in FORCED.items()
        if name in body
        for is_forcing, metrics in rules
        if is_forcing(body[name])
        for metric in metrics
    }
    if kind == "completion":
        forced |= {*_by("limit"), *(_by("prompts") if _are_several(body.get("prompt")) else ())}
    return tuple(sorted(forced))


def forces_length(body: Mapping[str, Any]) -> bool:
    """Return whether the caller forces a minimum length, so that tokens follow after the text's end."""
    return any(body.get(name) for name in ("min_tokens", "ignore_eos"))
