"""What an OpenAI request asks for: read strictly, so that nothing that matters is silently dropped."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.gateway.domain.errors import bad_request
from services.gateway.domain.fields import (
    IGNORED,
    NEUTRAL,
    SAMPLING,
    take_flag,
    take_integer,
    take_number,
    take_stop,
    take_text,
)

Message = dict[str, str]
_ROLES = {"system", "user", "assistant", "developer"}
_COMPLETION_TOKENS = 16
"""OpenAI's default of the older endpoint."""
MAX_DEPTH = 16
MAX_VALUES = 16_384
"""Of a body; an empty list or object counts as two. It bounds how long one body holds up everything else."""
MAX_MESSAGES = 2_048
MAX_MODEL_CHARS = 256
MAX_USER_CHARS = 512
MAX_CHARS_PER_TOKEN = 64
"""A text longer than so many characters for each token of the context cannot fit; the engine is not asked to count."""
_SHOWN = 80
_STRUCTURE = b",[{"
_COUNTED_AT_ONCE = 2**16


@dataclass(frozen=True)
class Ask:
    """A request that can be served.

    Attributes:
        kind: which endpoint it came to.
        model: the name as the caller wrote it.
        messages: the conversation (chat).
        prompt: the text to continue (completion).
        sampling: the engine's parameters, without `max_tokens`.
        max_tokens: None means as many as the context holds.
        stream: answer piece by piece.
        include_usage: end a stream with the token counts.
        user: who asks, as the caller says; keeps a person on one side of a canary.
    """

    kind: Literal["chat", "completion"]
    model: str
    sampling: Mapping[str, Any]
    max_tokens: int | None
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    stream: bool = False
    include_usage: bool = False
    user: str | None = None

    @property
    def text(self) -> str:
        """What the caller wrote, for its features only."""
        return self.prompt or "\n".join(message["content"] for message in self.messages)


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return a request's body as a JSON object in which every text is Unicode and every number finite.

    Raises:
        Refused: 400 for anything else, also what many JSON readers let pass: another encoding than UTF-8, NaN and
            infinity, a key given twice, integers of more than 64 bits, lone surrogates, and what is nested deeper than
            `MAX_DEPTH` or has more than `MAX_VALUES` values. What has too many values is not parsed at all.
    """
    if _has_too_many_values(raw):
        raise bad_request(f"The body has more than {MAX_VALUES} values.", code="invalid_json")
    try:
        body = json.loads(
            raw.decode(),
            object_pairs_hook=_read_object,
            parse_int=_read_integer,
            parse_float=_read_number,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from error
    except RecursionError as error:
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json") from error
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request(f"The body is a JSON {type(body).__name__}, not an object.", code="invalid_json")
    _check_values(body)
    return body


def _has_too_many_values(raw: bytes) -> bool:
    """Return whether the commas and opening brackets outside strings say so.

    Every value is the first one of all, follows a comma, or comes first in its list or object. The count is
    right up to the first fault in the JSON, where a parser ends. It goes by portions, and ends where it is over.
    """
    if _count_structure(raw) < MAX_VALUES:  # in strings, too: most bodies need no closer look
        return False
    found, in_string, rest = 1, 0, b""
    for start in range(0, len(raw), _COUNTED_AT_ONCE):
        portion = rest + raw[start : start + _COUNTED_AT_ONCE]
        portion = portion.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        rest = b"\\" if portion.endswith(b"\\") else b""  # it escapes what comes next
        parts = portion.split(b'"')
        found += _count_structure(b"".join(parts[in_string::2]))
        if found > MAX_VALUES:
            return True
        in_string ^= (len(parts) - 1) % 2
    return False


def _count_structure(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, _STRUCTURE))


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {_shown(twice)} is given twice")
    return found


def _read_integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the integer {text[:_SHOWN]} has more than 64 bits")
    return value


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_SHOWN]} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _check_values(body: Mapping[str, Any]) -> None:
    """Refuse lone surrogates, which nothing behind this can write as UTF-8, and what is too deep."""
    waiting: list[tuple[Any, int, str | None]] = [(body, 1, None)]
    while waiting:
        value, depth, param = waiting.pop()
        if isinstance(value, str):
            _check_text(value, param)
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
            if isinstance(value, dict):
                for name, one in value.items():
                    _check_text(name, param)
                    waiting.append((one, depth + 1, param or name))
            else:
                waiting.extend((one, depth + 1, param) for one in value)


def _check_text(text: str, param: str | None) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = param or "A key of the body"
        message = f"{_cut(where)} holds a lone surrogate (U+{ord(text[error.start]):04X}), which is no character."
        raise bad_request(message, param, "invalid_value") from error


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else value[:_SHOWN] + "…"


def _shown(value: Any) -> str:
    """Write a caller's value into a message: its beginning only."""
    return _cut(repr(value[: _SHOWN + 1] if isinstance(value, str) else value))


def read_chat(body: Mapping[str, Any]) -> Ask:
    """Read the body of `/v1/chat/completions`.

    Raises:
        Refused: 400, naming the field.
    """
    _refuse_what_is_unsupported(body, {"messages", "max_completion_tokens"})
    if "max_tokens" in body and "max_completion_tokens" in body and body["max_tokens"] != body["max_completion_tokens"]:
        raise bad_request("max_tokens and max_completion_tokens differ; give one.", "max_tokens")
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return Ask(
        kind="chat",
        messages=_read_messages(body.get("messages")),
        max_tokens=take_integer(body, name, low=1),
        **_read_common(body),
    )


def read_completion(body: Mapping[str, Any]) -> Ask:
    """Read the body of `/v1/completions`.

    Raises:
        Refused: 400, naming the field.
    """
    _refuse_what_is_unsupported(body, {"prompt", "echo", "best_of", "suffix"})
    limit = take_integer(body, "max_tokens", low=1)
    return Ask(
        kind="completion",
        prompt=_read_prompt(body.get("prompt")),
        max_tokens=_COMPLETION_TOKENS if limit is None else limit,
        **_read_common(body),
    )


def plan_sampling(ask: Ask, context_tokens: int) -> dict[str, Any]:
    """Return the engine's sampling parameters for a target with this context.

    Raises:
        Refused: more tokens are asked for than the context could ever hold, or more at least than at most.
    """
    check_length(ask.text, context_tokens, "messages" if ask.kind == "chat" else "prompt")
    if ask.max_tokens is not None and ask.max_tokens > context_tokens:
        message = f"max_tokens is {ask.max_tokens}; this model's context holds {context_tokens} tokens in all."
        raise bad_request(message, "max_tokens", "context_length_exceeded")
    # The engine stops at the end of the context by itself, so the context is a limit that fits any prompt.
    most, least = ask.max_tokens or context_tokens, ask.sampling.get("min_tokens", 0)
    if least > most:
        message = f"min_tokens is {least}; it must be at most max_tokens, {most}."
        raise bad_request(message, "min_tokens", "above_maximum_value")
    return {**ask.sampling, "max_tokens": most}


def check_length(text: str, context_tokens: int, param: str) -> None:
    """Refuse a text that fits into no context of this size, whatever its tokens are.

    Raises:
        Refused: 400 `context_length_exceeded`.
    """
    most = context_tokens * MAX_CHARS_PER_TOKEN
    if len(text) > most:
        message = f"The text has {len(text)} characters; a context of {context_tokens} tokens takes {most} at most."
        raise bad_request(message, param, "context_length_exceeded")


def _refuse_what_is_unsupported(body: Mapping[str, Any], own: set[str]) -> None:
    known = {"model", "stream", "stream_options", "stop", "user", "seed", "max_tokens", *SAMPLING, *IGNORED, *own}
    for name, value in body.items():
        if name in NEUTRAL:
            # Compared with their types: 0 and false, 1 and true are equal in Python, not to a caller.
            if value is not None and not any(value == one and type(value) is type(one) for one in NEUTRAL[name]):
                raise bad_request(f"{name} is not supported here; leave it out.", name, "unsupported_parameter")
        elif name not in known:
            message = f"Unrecognized request argument supplied: {_cut(name)}"
            raise bad_request(message, _cut(name), "unknown_parameter")


def _read_common(body: Mapping[str, Any]) -> dict[str, Any]:
    model = take_text(body, "model", most=MAX_MODEL_CHARS)
    if not model:
        raise bad_request("you must provide a model parameter", "model")
    stream = take_flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not stream:
        raise bad_request("stream_options is only allowed when stream is true.", "stream_options")
    if options is not None and not isinstance(options, dict):
        raise bad_request("stream_options must be an object.", "stream_options")
    return {
        "model": model,
        "sampling": _read_sampling(body),
        "stream": stream,
        "include_usage": take_flag(options or {}, "include_usage"),
        "user": take_text(body, "user", most=MAX_USER_CHARS),
    }


def _read_sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    sampling: dict[str, Any] = {"stop": take_stop(body), "seed": take_integer(body, "seed")}
    for name, field in SAMPLING.items():
        if field.kind == "flag":
            sampling[name] = True if take_flag(body, name) else None
        elif field.kind == "integer":
            sampling[name] = take_integer(body, name, low=field.low, high=field.high)
        else:
            sampling[name] = take_number(body, name, field)
    return {name: value for name, value in sampling.items() if value is not None}


def _read_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise bad_request("messages must be a list with at least one message.", "messages")
    if len(value) > MAX_MESSAGES:
        message = f"There are {len(value)} messages; there may be {MAX_MESSAGES}."
        raise bad_request(message, "messages", "above_maximum_value")
    return tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(value))


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise bad_request(f"{where} must be an object with role and content.", where)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"{where}.role is {_shown(role)}; it must be system, user or assistant.", f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if value.get(name):
            raise bad_request(f"{where}.{name} is not supported here.", f"{where}.{name}", "unsupported_parameter")
    # Templates of open models know no "developer": it is the newer name of the system message.
    role = "system" if role == "developer" else role
    return {"role": role, "content": _read_content(value.get("content"), f"{where}.content")}


def _read_content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise bad_request(f"{where} must be a string, or a list of text parts.", where)
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise bad_request(f"{where} holds a part of type {_shown(kind)}; only text is supported.", where)
        texts.append(part["text"])
    return "".join(texts)


def _read_prompt(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        raise bad_request("prompt must be one string; send one request per prompt, as text.", "prompt")
    if not isinstance(value, str) or not value:
        raise bad_request("prompt must be a string that is not empty.", "prompt")
    return value
