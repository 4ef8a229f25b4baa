"""Validation and combination of serving settings."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from contracts.codes import Code
from contracts.limits import TooLarge, too_large
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import ServingSettings
from decisions.openai.fields import GIVEN_VARIABLES
from decisions.serving.engine_parsers import REASONING_PARSERS, TOOL_PARSERS
from decisions.serving.runtimes import NAME_RULE, is_runtime_name

SERVING_FILE: Final = "serving.json"
"""The file of a checkpoint with its serving settings as JSON, in the fields of `ServingSettings`."""
NO_PARSER: Final = "none"
"""Value of `tool_parser` and `reasoning_parser` for no parser, without detection."""
MAX_CONTEXT_TOKENS: Final = 16_777_216
MAX_SHARDS: Final = 1024
_MAX_COUNT: Final = 1_048_576
_MAX_DEPTH: Final = 16
_MAX_INTEGER: Final = 2**63
_KV_CACHE_DTYPES: Final = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class SettingsRefused:
    """Why serving settings are refused; `reason` includes valid values."""

    reason: str
    details: dict[str, Any] = field(default_factory=dict)
    code: Code = "serving_invalid"


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_COUNT


def _is_kv_cache_dtype(value: Any) -> bool:
    return value in _KV_CACHE_DTYPES


ENGINE_OPTIONS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "enable_chunked_prefill": (_is_flag, "true or false"),
    "enable_expert_parallel": (_is_flag, "true or false"),
    "enable_prefix_caching": (_is_flag, "true or false"),
    "kv_cache_dtype": (_is_kv_cache_dtype, f"one of {', '.join(_KV_CACHE_DTYPES)}"),
    "max_logprobs": (_is_count, "a whole number from 1 to 1048576"),
    "max_num_batched_tokens": (_is_count, "a whole number from 1 to 1048576"),
    "max_num_seqs": (_is_count, "a whole number from 1 to 1048576"),
}
"""Engine arguments that a version may set, with their check and valid values."""


def assess_settings(settings: ServingSettings) -> SettingsRefused | None:
    """Return why settings are refused; None if they are valid."""
    excess = too_large(settings)
    if excess is not None:
        return _too_large(excess)
    return (
        _assess_values("options", settings.options)
        or _assess_values("template_options", settings.template_options)
        or _assess_parser("tool_parser", settings.tool_parser, TOOL_PARSERS)
        or _assess_parser("reasoning_parser", settings.reasoning_parser, REASONING_PARSERS)
        or _assess_runtime(settings.runtime)
        or _assess_number("context_tokens", settings.context_tokens, MAX_CONTEXT_TOKENS)
        or _assess_number("tensor_parallel_size", settings.tensor_parallel_size, MAX_SHARDS)
        or _assess_options(settings.options)
        or _assess_variables(settings.template_options)
    )


def _too_large(excess: TooLarge) -> SettingsRefused:
    return SettingsRefused(f"serving.{excess.reason}", excess.details)


def _assess_parser(name: str, value: str | None, known: frozenset[str]) -> SettingsRefused | None:
    if value is None or value == NO_PARSER or value in known:
        return None
    reason = (
        f"{name} {value[:100]!r} is not a parser of the engine; it has {', '.join(sorted(known))}. "
        f"{NO_PARSER} means that no parser is set or detected."
    )
    return SettingsRefused(reason, {"setting": name, "value": value[:100]})


def _assess_runtime(name: str | None) -> SettingsRefused | None:
    """Refuse an invalid runtime name; only the serving fleet knows the existing runtimes."""
    if name is None or (is_runtime_name(name) and name != DEFAULT_RUNTIME):
        return None
    advice = "leave it out for the fleet's default runtime" if name == DEFAULT_RUNTIME else NAME_RULE
    return SettingsRefused(f"runtime {name[:100]!r} is not valid: {advice}.", {"setting": "runtime"})


def _assess_number(name: str, value: int | None, limit: int) -> SettingsRefused | None:
    if value is None or value <= limit:
        return None
    shown = value if value < _MAX_INTEGER else _shown(value)
    return SettingsRefused(f"{name} is {shown}; the limit is {limit}.", {"setting": name, "value": shown})


def _assess_values(name: str, value: Any) -> SettingsRefused | None:
    """Refuse deep nesting, NaN, large integers and lone surrogates."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > _MAX_DEPTH:
            return SettingsRefused(f"{name} is nested deeper than {_MAX_DEPTH} levels.", {"setting": name})
        if isinstance(item, Mapping):
            stack += [(part, depth + 1) for part in (*item.keys(), *item.values())]
        elif isinstance(item, list | tuple):
            stack += [(part, depth + 1) for part in item]
        elif not _is_storable(item):
            reason = f"{name} has a number that is not finite or too large, or a text with a lone surrogate."
            return SettingsRefused(reason, {"setting": name})
    return None


def _is_storable(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -_MAX_INTEGER <= value < _MAX_INTEGER
    if isinstance(value, str):
        return value.encode(errors="replace").decode() == value
    return True


def _assess_options(options: Mapping[str, Any]) -> SettingsRefused | None:
    for name, value in options.items():
        if name not in ENGINE_OPTIONS:
            reason = f"options may not set {name[:100]!r}; a version may set {', '.join(sorted(ENGINE_OPTIONS))}."
            return SettingsRefused(reason, {"setting": f"options.{name[:100]}"})
        accepts, expected = ENGINE_OPTIONS[name]
        if not accepts(value):
            reason = f"options.{name} is {_shown(value)}; it must be {expected}."
            return SettingsRefused(reason, {"setting": f"options.{name}"})
    return None


def _assess_variables(options: Mapping[str, Any]) -> SettingsRefused | None:
    for name in options:
        details = {"setting": f"template_options.{name[:100]}"}
        if not _VARIABLE.fullmatch(name):
            reason = f"template_options may not set {name[:100]!r}; use the name of a variable of the chat template."
            return SettingsRefused(reason, details)
        if name in GIVEN_VARIABLES:
            reason = f"template_options may not set {name}: the engine or its tokenizer sets it for each request."
            return SettingsRefused(reason, details)
    return None


def _shown(value: Any) -> str:
    return _shown_whole(value)[:100]


def _shown_whole(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)  # as JSON: in Python, 1 equals true


def parse_settings(text: str) -> ServingSettings | SettingsRefused:
    """Parse a `serving.json` without unknown fields; the settings are not validated."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return SettingsRefused(f"{SERVING_FILE} is not a JSON object.")
    if fields.get("runtime") is not None:
        reason = f"{SERVING_FILE} may not name a runtime: it is chosen when a checkpoint is published."
        return SettingsRefused(reason, {"setting": "runtime"})
    known = sorted(set(ServingSettings.model_fields) - {"runtime"})
    unknown = sorted(set(fields) - set(known) - {"runtime"})
    if unknown:
        reason = f"{SERVING_FILE} has the unknown field {unknown[0][:100]!r}; it may have {', '.join(known)}."
        return SettingsRefused(reason, {"setting": unknown[0][:100]})
    try:
        return ServingSettings.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        setting = ".".join(map(str, problem["loc"]))[:200]
        reason = f"{SERVING_FILE}: {setting} is not valid: {problem['msg']}."
        return SettingsRefused(reason, {"setting": setting})


def combine(event: ServingSettings | None, files: ServingSettings | None) -> ServingSettings | None:
    """Return the settings of a version: fields of the event override the files'; None if none is set."""
    merged: dict[str, Any] = {}
    for settings in (files, event):
        if settings is not None:
            merged |= {name: value for name, value in settings if value not in (None, {})}
    return ServingSettings(**merged) if merged else None


def settle(settings: ServingSettings | None) -> ServingSettings | None:
    """Return combined settings for a manifest, without parsers that are `NO_PARSER`."""
    if settings is None:
        return None
    declined = {name for name in ("tool_parser", "reasoning_parser") if getattr(settings, name) == NO_PARSER}
    return combine(settings.model_copy(update=dict.fromkeys(declined)), None)


def find_departure(asked: ServingSettings | None, proved: ServingSettings | None) -> str | None:
    """Return the first setting of an event with another value in a version; None if all set ones are equal."""
    for name, value in asked or ():
        expected = None if value == NO_PARSER else value
        if value not in (None, {}) and _shown_whole(expected) != _shown_whole(getattr(proved, name, None)):
            return name
    return None


def engine_arguments(settings: ServingSettings | None) -> dict[str, Any]:
    """Return the engine's arguments in settings."""
    if settings is None:
        return {}
    arguments = dict(settings.options)
    if settings.context_tokens is not None:
        arguments["max_model_len"] = settings.context_tokens
    if settings.tensor_parallel_size is not None:
        arguments["tensor_parallel_size"] = settings.tensor_parallel_size
    return arguments


def api_settings(settings: ServingSettings | None) -> dict[str, Any]:
    """Return the settings of the engine's OpenAI API in settings."""
    if settings is None:
        return {}
    fields = {
        "tool_parser": settings.tool_parser,
        "reasoning_parser": settings.reasoning_parser,
        "template_options": settings.template_options,
    }
    return {name: value for name, value in fields.items() if value}


def describe_settings(settings: ServingSettings | None) -> str:
    """Return settings as one line: `tool_parser hermes, context_tokens 4096`; empty if none is set."""
    parts = []
    for name, value in settings or ():
        if isinstance(value, dict):
            parts += [f"{name}.{key} {_shown(item)}" for key, item in value.items()]
        elif value is not None:
            parts.append(f"{name} {value}")
    return ", ".join(parts)
