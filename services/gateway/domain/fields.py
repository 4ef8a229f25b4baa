"""The fields of a request: which exist, their bounds, and how each is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from services.gateway.domain.errors import bad_request

_MAX_STOPS = 4
_MAX_STOP_CHARS = 512
_INTEGER = 2**63


@dataclass(frozen=True)
class Field:
    """A sampling parameter that goes to the engine under the same name."""

    kind: Literal["number", "integer", "flag"] = "number"
    low: float | None = None
    high: float | None = None


SAMPLING: Final[Mapping[str, Field]] = {
    "temperature": Field(low=0.0, high=2.0),
    "top_p": Field(low=1e-6, high=1.0),
    "presence_penalty": Field(low=-2.0, high=2.0),
    "frequency_penalty": Field(low=-2.0, high=2.0),
    # Beyond OpenAI's own, under the engine's names.
    "top_k": Field("integer", low=-1, high=1_000_000),
    "min_p": Field(low=0.0, high=1.0),
    "repetition_penalty": Field(low=0.01, high=2.0),
    "min_tokens": Field("integer", low=0, high=2**31 - 1),
    "ignore_eos": Field("flag"),
}
IGNORED: Final = frozenset({"metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields for the caller's own records, without influence on the answer."""
UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that are not supported, with the values that are accepted because they have no effect."""


def read_number(body: Mapping[str, Any], name: str, field: Field) -> float | None:
    """Return a number within its bounds; None if it is absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_sane(value):
        raise bad_request(f"{name} must be a number.", name)
    _check_bounds(name, value, field)
    return float(value)


def read_integer(
    body: Mapping[str, Any], name: str, *, low: float | None = None, high: float | None = None
) -> int | None:
    """Return an integer within its bounds (64 bits at most); None if it is absent."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not _is_sane(value):
        raise bad_request(f"{name} must be an integer.", name)
    _check_bounds(name, value, Field("integer", low=low, high=high))
    return value


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a flag; false if it is absent."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false.", name)
    return value


def read_text(body: Mapping[str, Any], name: str, *, max_chars: int) -> str | None:
    """Return a string of at most `max_chars` characters; None if it is absent."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a string.", name)
    if value is not None and len(value) > max_chars:
        raise bad_request(f"{name} has {len(value)} characters; the limit is {max_chars}.", name, "above_maximum_value")
    return value


def read_stop(body: Mapping[str, Any]) -> list[str] | None:
    """Return the stop sequences, one string or up to four; None if there are none."""
    value = body.get("stop")
    if value is None or value == []:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise bad_request(f"stop must be a string, or a list of at most {_MAX_STOPS} strings.", "stop")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= _MAX_STOP_CHARS:
            raise bad_request(f"Each stop must be a string of 1 to {_MAX_STOP_CHARS} characters.", "stop")
    return stops


def _is_sane(value: float) -> bool:
    """Return whether a number is finite, and an integer has at most 64 bits: engines fail on others."""
    return -_INTEGER <= value < _INTEGER if isinstance(value, int) else math.isfinite(value)


def _check_bounds(name: str, value: float, field: Field) -> None:
    if field.low is not None and value < field.low:
        raise bad_request(f"{name} is {value}; it must be at least {field.low:g}.", name, "below_minimum_value")
    if field.high is not None and value > field.high:
        raise bad_request(f"{name} is {value}; it must be at most {field.high:g}.", name, "above_maximum_value")
