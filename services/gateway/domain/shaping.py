"""The metrics that a request's parameters force: it is no evidence for these metrics, but for all others.

A token list, a forced end or a penalty makes any model repeat itself, stop at once or take long: to count such answers
would let a caller move a version out of traffic, or hide that it is bad. What decides is the parameter, never how the
request ended: if only its bad or its good answers were left out, the share of the rest would say nothing. Errors count
whatever the parameters (`decisions.evidence.attribution`), and so do schemas, tools, `n` and temperature.
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import is_, is_not
from typing import Any, Final

from contracts.trigger_metrics import METRICS, Parameter, TriggerMetric
from decisions.openai.paths import PATHS

GENERATING: Final = frozenset({"chat", "completion", "responses"})
"""The kinds of request whose answers are generated token by token."""
TEXT_TOKENS: Final = 16
"""An answer of this many tokens can hold text: without any it is empty, even at the caller's token limit."""
_ALL: Final = tuple(sorted(metric for metric, rule in METRICS.items() if rule.kind != "errors"))


def _by(parameter: Parameter) -> tuple[TriggerMetric, ...]:
    """Return the metrics that parameters of a kind force."""
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
    """Return whether variables of the template replace parameters that shape an answer."""
    return isinstance(value, Mapping) and not {"add_generation_prompt", "continue_final_message"}.isdisjoint(value)


def _are_several(value: Any) -> bool:
    """Return whether a list holds several prompts; a list of numbers is one prompt of token ids."""
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
    "n": ((_above_one, _by("several")),),  # their sum is what is known
    "prompt_logprobs": ((_is_given, _by("prompt_logprobs")),),
    "skip_special_tokens": ((_is_off, _by("special_tokens")),),
    **{name: ((forces, _by("shape")),) for name, forces in _SHAPING.items()},
}
"""By parameter: the values that force metrics, and which."""


def forced_metrics(path: str, body: Mapping[str, Any]) -> tuple[TriggerMetric, ...]:
    """Return the metrics that the caller's parameters force, sorted.

    A completion without `max_tokens` ends after 16 tokens: that limit is the API's, not the target's. What the model
    does not compute (`/tokenize`, `/detokenize`) shows errors only.

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
    """Return whether the caller forced a minimum length, so that tokens come after the text ended."""
    return any(body.get(name) for name in ("min_tokens", "ignore_eos"))
