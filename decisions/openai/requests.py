"""Checks of requests of the OpenAI API: paths, fields, and cost limits.

Gateway and backend share this code: it is copied next to the backend into the engine's environment, and imports the
standard library only.
"""

from collections.abc import Mapping
from typing import Any, Final

from decisions.openai.conversations import check_conversation
from decisions.openai.fields import (
    ALLOWED_FIELDS,
    FLAGS,
    FOR_THE_CALLER,
    GIVEN_VARIABLES,
    INTEGERS,
    NUMBERS,
    REFUSED_FIELDS,
    RESPONSE_FORMATS,
    RESPONSES_INCLUDE,
    STRUCTURES,
    WITHOUT_EFFECT,
)
from decisions.openai.limits import CostLimits, Refusal, check_cost, measure
from decisions.openai.paths import PATHS


def check_path(method: str, path: str) -> Refusal | None:
    """Return why a method and path are refused; None if they are accepted."""
    if path not in PATHS:
        return Refusal(404, "unknown_url", f"{path} does not exist here; there are {', '.join(PATHS)}.")
    if method != "POST":
        return Refusal(405, "method_not_allowed", f"{path} takes POST, not {method}.")
    return None


def check_body(path: str, body: Mapping[str, Any], context_tokens: int, limits: CostLimits) -> Refusal | None:
    """Return why a body is refused; None if it is accepted.

    Args:
        path: A key of `PATHS`.
        body: The JSON object.
        context_tokens: Maximum tokens of prompt and answer together.
        limits: The cost limits.
    """
    kind = PATHS[path]
    return (
        _check_fields(kind, body)
        or _check_values(body)
        or _check_lists(body, limits)
        or check_conversation(kind, body, limits)
        or _check_variables(body.get("chat_template_kwargs"))
        or _check_metadata(body.get("metadata"), limits)
        or _check_structures(body)
        or check_cost(kind, body, context_tokens, limits)
    )


def _check_fields(kind: str, body: Mapping[str, Any]) -> Refusal | None:
    for name, value in body.items():
        if name in ALLOWED_FIELDS[kind] or name in FOR_THE_CALLER:
            continue
        if name in REFUSED_FIELDS:
            if value is None or value is False:
                continue
            return Refusal(400, "unsupported_parameter", f"{name} is not supported: {REFUSED_FIELDS[name]}.", name)
        if name in WITHOUT_EFFECT:
            if value is None or any(value == usual and type(value) is type(usual) for usual in WITHOUT_EFFECT[name]):
                continue
            return Refusal(400, "unsupported_parameter", f"{name} is not supported; leave it out.", name)
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        return Refusal(400, "unknown_parameter", f"Unrecognized request argument supplied: {shown}", shown)
    return None


_INTEGER_LIMIT: Final = 2**63
_TOKEN_LIMIT: Final = 2**31


_TYPES: Final = (
    (INTEGERS, {int}, "an integer"),
    (NUMBERS, {int, float}, "a number"),
    (FLAGS, {bool}, "true or false"),
    (frozenset({"logprobs"}), {bool, int}, "true, false or an integer"),
)
"""Names of fields, permitted types, and their description."""


def _check_values(body: Mapping[str, Any]) -> Refusal | None:
    """Refuse wrong types, too large integers and surrogates, which the engine would convert or fail on."""
    for names, types, words in _TYPES:
        for name in names & body.keys():
            if body[name] is not None and type(body[name]) not in types:
                return Refusal(400, "invalid_value", f"{name} must be {words}.", name)
    for name, value in body.items():
        limit = _TOKEN_LIMIT if name in {"prompt", "tokens"} else _INTEGER_LIMIT
        if refusal := _check_scalars(name, value, limit):
            return refusal
    return None


def _check_scalars(name: str, value: Any, limit: int) -> Refusal | None:
    """Refuse lone surrogates and integers beyond `limit` anywhere in a value."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            # Of token ids, the smallest and the largest are enough.
            stack += [min(item), max(item)] if set(map(type, item)) == {int} else item
        elif isinstance(item, str) and not _is_unicode(item):
            return Refusal(400, "invalid_value", f"{name} contains a lone surrogate, which is no character.", name)
        elif isinstance(item, int) and not -limit <= item < limit:
            return Refusal(400, "above_maximum_value", f"{name} contains an integer that is too large.", name)
    return None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_variables(variables: Any) -> Refusal | None:
    """Refuse chat template variables that the engine or other fields set."""
    given = sorted(GIVEN_VARIABLES & variables.keys()) if isinstance(variables, dict) else ()
    if not given:
        return None
    message = f"chat_template_kwargs may not set {given[0]}: the engine sets it, from other fields of the request."
    return Refusal(400, "unsupported_parameter", message, "chat_template_kwargs")


def _check_metadata(metadata: Any, limits: CostLimits) -> Refusal | None:
    """Refuse too many entries, and values other than texts, as OpenAI does."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return Refusal(400, "invalid_value", "metadata must be an object whose values are strings.", "metadata")
    if len(metadata) > limits.metadata:
        message = f"metadata has {len(metadata)} entries; the limit is {limits.metadata}. Keep the others yourself."
        return Refusal(400, "above_maximum_value", message, "metadata")
    return None


def _check_structures(body: Mapping[str, Any]) -> Refusal | None:
    """Refuse tools other than functions, and unsupported answer formats and `include` values."""
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type", "function") if isinstance(tool, dict) else "function"
        if kind != "function":
            return Refusal(
                400, "unsupported_parameter", f"A tool has type {str(kind)[:80]}; only function is.", "tools"
            )
    text = body.get("text")
    formats = {
        "response_format": body.get("response_format"),
        "text": text.get("format") if isinstance(text, dict) else None,
    }
    for name, given in formats.items():
        kind = given.get("type", "text") if isinstance(given, dict) else "text"
        if not isinstance(kind, str) or kind not in RESPONSE_FORMATS:
            message = f"{name} has type {str(kind)[:80]}; there are {', '.join(sorted(RESPONSE_FORMATS))}."
            return Refusal(400, "unsupported_parameter", message, name)
    structures = body.get("structured_outputs")
    if isinstance(structures, dict):
        for name, value in structures.items():
            if value is not None and (name not in STRUCTURES or (name == "json" and not isinstance(value, dict))):
                message = (
                    f"structured_outputs.{name[:80]} is not supported; give a JSON schema as an object, or a choice."
                )
                return Refusal(400, "unsupported_parameter", message, "structured_outputs")
    include = body.get("include")
    for name in include if isinstance(include, list) else ():
        if not isinstance(name, str) or name not in RESPONSES_INCLUDE:
            message = f"include names {str(name)[:80]}; there is {', '.join(sorted(RESPONSES_INCLUDE))}."
            return Refusal(400, "unsupported_parameter", message, "include")
    return None


_LISTS: Final = (
    "allowed_token_ids",
    "bad_words",
    "documents",
    "include",
    "logit_bias",
    "logprob_token_ids",
    "stop",
    "stop_token_ids",
    "tools",
)


def _check_lists(body: Mapping[str, Any], limits: CostLimits) -> Refusal | None:
    for name in _LISTS:
        value = body.get(name)
        if isinstance(value, list | dict) and len(value) > limits.entries:
            message = f"{name} has {len(value)} entries; the limit is {limits.entries}."
            return Refusal(400, "above_maximum_value", message, name)
    for name in ("response_format", "structured_outputs", "text", "tools"):
        refusal = _check_schema(name, body.get(name), limits)
        if refusal is not None:
            return refusal
    return None


def _check_schema(name: str, value: Any, limits: CostLimits) -> Refusal | None:
    """Refuse a schema or grammar that is too long or too deep; `value` is any JSON value."""
    length, depth = measure(value, limits.schema_bytes)
    if length > limits.schema_bytes:
        message = f"{name} has more than {limits.schema_bytes} characters; that is the limit for schemas and grammars."
        return Refusal(400, "above_maximum_value", message, name)
    if depth > limits.schema_depth:
        message = f"{name} is nested {depth} deep; the limit is {limits.schema_depth}."
        return Refusal(400, "above_maximum_value", message, name)
    return None
