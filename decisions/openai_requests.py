"""Which requests of the OpenAI API reach an engine: the paths, the fields of their bodies, and what a request may cost.

Gateway and backend judge with the same code: these two modules use the standard library only, and are copied next to
the backend, which runs in the engine's environment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from decisions.openai_fields import (
    ALLOWED_FIELDS,
    FLAGS,
    FOR_THE_CALLER,
    INTEGERS,
    NUMBERS,
    PATHS,
    REFUSED_FIELDS,
    RESPONSE_FORMATS,
    RESPONSES_INCLUDE,
    STRUCTURES,
    WITHOUT_EFFECT,
)


@dataclass(frozen=True)
class CostLimits:
    """What one request may ask of an engine.

    Attributes:
        sequences: answers that are generated at the same time: prompts times `n`.
        tokens: tokens of all these answers together, by the request's own limit or the context.
        logprobs: likely tokens reported for each position of an answer.
        prompt_logprobs: the same for each position of a prompt.
        schema_bytes: length of a JSON schema, of tools or of a list of choices, as compact JSON.
        schema_depth: its nesting.
        whole_answers: answers that may fill the context together, if `tokens` is less: as many as this many requests.
        inputs: texts of one request that are embedded.
        input_tokens: tokens of these texts together, and of a text that is tokenized or made from tokens.
        reported: likely tokens reported of one request: those for each position times its tokens.
        entries: length of a list or map of parameters: stop sequences, biases, tools, words, token ids.
    """

    sequences: int = 32
    tokens: int = 65_536
    logprobs: int = 20
    prompt_logprobs: int = 5
    schema_bytes: int = 262_144  # 90 tools of 2 kB have 180 kB; the backend limits the time to compile them
    schema_depth: int = 64  # vLLM's own limit
    whole_answers: int = 4
    inputs: int = 2_048  # OpenAI's own limit, and about its limit of tokens
    input_tokens: int = 300_000
    reported: int = 262_144  # about 20 MB of JSON
    entries: int = 1_024


@dataclass(frozen=True)
class Refusal:
    """Why a request does not reach the engine.

    Attributes:
        status: HTTP status, 400, 404 or 405.
        code: stable, for programs.
        message: what was refused, the value, the limit, and what to do.
        field: the field of the body, if one is the reason.
    """

    status: int
    code: str
    message: str
    field: str | None = None


def check_path(method: str, path: str) -> Refusal | None:
    """Return why no request of this method and path reaches an engine; None if it does."""
    if path not in PATHS:
        return Refusal(404, "unknown_url", f"{path} does not exist here; there are {', '.join(PATHS)}.")
    if method != "POST":
        return Refusal(405, "method_not_allowed", f"{path} takes POST, not {method}.")
    return None


def check_body(path: str, body: Mapping[str, Any], context_tokens: int, limits: CostLimits) -> Refusal | None:
    """Return why a body is refused; None if the engine may have it.

    Args:
        path: one of `PATHS`.
        body: the JSON object.
        context_tokens: tokens that a prompt and its answer may have together.
        limits: what a request may cost.
    """
    kind = PATHS[path]
    return (
        _check_fields(kind, body)
        or _check_values(body)
        or _check_lists(body, limits)
        or _check_structures(body)
        or _check_cost(kind, body, context_tokens, limits)
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
"""Names of fields, the types that their values may have, and those in words."""


def _check_values(body: Mapping[str, Any]) -> Refusal | None:
    """Refuse values that the engine reads as others, or fails on: another type, too large an integer, surrogates."""
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
    """Refuse a lone surrogate or an integer of more than `limit` anywhere in a value."""
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


def _check_structures(body: Mapping[str, Any]) -> Refusal | None:
    """Refuse tools other than functions, and structures of an answer other than JSON schemas and choices."""
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


_TEXT_PARTS: Final = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "reasoning_text", "summary_text"}
)


def _check_lists(body: Mapping[str, Any], limits: CostLimits) -> Refusal | None:
    for name in _LISTS:
        value = body.get(name)
        if isinstance(value, list | dict) and len(value) > limits.entries:
            message = f"{name} has {len(value)} entries; the limit is {limits.entries}."
            return Refusal(400, "above_maximum_value", message, name)
    for name, part in _content_parts(body):
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            message = f"{name} has a part of type {str(part.get('type'))[:80]}; only text is supported."
            return Refusal(400, "unsupported_parameter", message, name)
    for name in ("response_format", "structured_outputs", "text", "tools"):
        refusal = _check_schema(name, body.get(name), limits)
        if refusal is not None:
            return refusal
    return None


def _content_parts(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts of the messages of a body that are objects, each with the name of its list."""
    for name in ("messages", "input"):
        messages = body.get(name)
        for message in messages if isinstance(messages, list) else ():
            for holder in ("content", "output") if isinstance(message, dict) else ():
                parts = message.get(holder)
                for part in parts if isinstance(parts, list) else ():
                    if isinstance(part, dict):
                        yield name, part


def _check_schema(name: str, value: Any, limits: CostLimits) -> Refusal | None:
    """Refuse a schema or grammar that is too long or too deep to be compiled; `value` is any JSON value."""
    length, depth = _measure(value, limits.schema_bytes)
    if length > limits.schema_bytes:
        message = f"{name} has more than {limits.schema_bytes} characters; that is the limit for schemas and grammars."
        return Refusal(400, "above_maximum_value", message, name)
    if depth > limits.schema_depth:
        message = f"{name} is nested {depth} deep; the limit is {limits.schema_depth}."
        return Refusal(400, "above_maximum_value", message, name)
    return None


def _measure(value: Any, enough: int) -> tuple[int, int]:
    """Return the approximate length of a JSON value, in characters, and its depth; stop above `enough` characters."""
    length, deepest = 0, 0
    stack = [(value, 0)]
    while stack and length <= enough:
        item, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(item, str):
            length += len(item) + 2
        elif isinstance(item, dict):
            length += 2 + sum(len(key) + 4 for key in item)
            stack += [(child, depth + 1) for child in item.values()]
        elif isinstance(item, list):
            length += 2 + len(item)
            stack += [(child, depth + 1) for child in item]
        else:
            length += 4
    return length, deepest


def _check_cost(kind: str, body: Mapping[str, Any], context_tokens: int, limits: CostLimits) -> Refusal | None:
    most = limits.prompt_logprobs if body.get("echo") else limits.logprobs  # echo reports them for the prompt, too
    for name in ("logprobs", "top_logprobs"):
        if (count := _integer(body.get(name))) is not None and not -1 < count <= most:
            return Refusal(400, "above_maximum_value", f"{name} is {count}; it must be from 0 to {most}.", name)
    if (count := _integer(body.get("prompt_logprobs"))) is not None and not -1 < count <= limits.prompt_logprobs:
        message = f"prompt_logprobs is {count}; it must be from 0 to {limits.prompt_logprobs}."
        return Refusal(400, "above_maximum_value", message, "prompt_logprobs")
    if kind not in {"chat", "completion", "responses"}:
        return _check_inputs(kind, body, context_tokens, limits)
    answers = _integer(body.get("n"))
    sequences = _count_prompts(kind, body) * (1 if answers is None else max(1, answers))
    if sequences > limits.sequences:
        message = f"The request asks for {sequences} answers (prompts times n); the limit is {limits.sequences}."
        return Refusal(400, "above_maximum_value", message, "n")
    tokens = sequences * _answer_tokens(kind, body, context_tokens)
    most_tokens = max(limits.tokens, limits.whole_answers * context_tokens)
    if sequences > 1 and tokens > most_tokens:
        message = (
            f"The request may generate {tokens} tokens in {sequences} answers; the limit is {most_tokens}. "
            "Lower n, the number of prompts or the maximum of tokens."
        )
        return Refusal(400, "above_maximum_value", message, "n")
    return _check_reported(body, tokens, limits)


def _check_reported(body: Mapping[str, Any], tokens: int, limits: CostLimits) -> Refusal | None:
    """Refuse more log-probabilities than one answer may carry."""
    for name in ("logprobs", "top_logprobs"):
        reported = tokens * (_integer(body.get(name)) or 0)
        if reported > limits.reported:
            message = (
                f"{name} and the maximum of tokens allow {reported} log-probabilities; the limit is {limits.reported}. "
                "Lower one of them."
            )
            return Refusal(400, "above_maximum_value", message, name)
    return None


_INPUTS: Final = {"embeddings": "input", "tokenize": "prompt", "detokenize": "tokens"}


def _check_inputs(kind: str, body: Mapping[str, Any], context_tokens: int, limits: CostLimits) -> Refusal | None:
    """Refuse more texts or tokens than one request may have that generates none."""
    name = "messages" if kind == "tokenize" and "messages" in body else _INPUTS[kind]
    value = body.get(name)
    inputs: list[Any] = [value]
    if kind == "embeddings" and isinstance(value, list) and not all(isinstance(item, int) for item in value):
        inputs = value
    if len(inputs) > limits.inputs:
        message = f"{name} has {len(inputs)} texts; the limit is {limits.inputs}. Send them in several requests."
        return Refusal(400, "above_maximum_value", message, name)
    most = context_tokens if kind == "embeddings" else limits.input_tokens + 1
    tokens = sum(min(_estimate_tokens(item, 2 * limits.input_tokens), most) for item in inputs)
    if tokens > limits.input_tokens:
        message = f"{name} has about {tokens} tokens; the limit is {limits.input_tokens}. Send less in one request."
        return Refusal(400, "above_maximum_value", message, name)
    return None


def _estimate_tokens(value: Any, enough: int) -> int:
    """Return the tokens of a list of token ids, or about those of a text: one for two characters."""
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return len(value)
    return _measure(value, 2 * enough)[0] // 2


def _count_prompts(kind: str, body: Mapping[str, Any]) -> int:
    """Return the prompts of a request: a list of texts, or of lists of token ids, holds several."""
    prompt = body.get("prompt") if kind == "completion" else None
    if not isinstance(prompt, list) or not prompt or all(isinstance(token, int) for token in prompt):
        return 1
    return len(prompt)


def _answer_tokens(kind: str, body: Mapping[str, Any], context_tokens: int) -> int:
    names = {
        "chat": ("max_completion_tokens", "max_tokens"),
        "completion": ("max_tokens",),
        "responses": ("max_output_tokens",),
    }
    for name in names[kind]:
        limit = _integer(body.get(name))
        if limit is not None:
            return min(max(1, limit), context_tokens)
    return 16 if kind == "completion" else context_tokens


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
