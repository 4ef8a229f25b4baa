"""Reads OpenAI requests strictly, so that no field with an effect is silently ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.gateway.domain.errors import bad_request
from services.gateway.domain.fields import (
    IGNORED,
    SAMPLING,
    UNSUPPORTED,
    read_flag,
    read_integer,
    read_number,
    read_stop,
    read_text,
)
from services.gateway.domain.json_body import quote, shorten

Message = dict[str, str]
_ROLES = {"system", "user", "assistant", "developer"}
_COMPLETION_TOKENS = 16
"""OpenAI's default of `/v1/completions`."""
MAX_MESSAGES = 2_048
MAX_MODEL_CHARS = 256
MAX_USER_CHARS = 512
MAX_CHARS_PER_TOKEN = 64
"""A text with more characters than this per token of the context cannot fit; it is not sent to the engine."""


@dataclass(frozen=True)
class ParsedRequest:
    """A valid request.

    Attributes:
        kind: its endpoint.
        model: the model name as the caller wrote it.
        messages: the conversation (chat).
        prompt: the text to continue (completion).
        sampling: the engine's parameters, without `max_tokens`.
        max_tokens: None means as many as the context allows.
        stream: answer piece by piece.
        include_usage: end a stream with the token counts.
        user: the caller's name for its user; the same user always gets the same side of a canary.
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
        """Return the text of the caller; it is used for its features only."""
        return self.prompt or "\n".join(message["content"] for message in self.messages)


def read_chat(body: Mapping[str, Any]) -> ParsedRequest:
    """Return the request in a body of `/v1/chat/completions`.

    Raises:
        RequestRejected: 400, with the field.
    """
    _reject_unsupported(body, {"messages", "max_completion_tokens"})
    if "max_tokens" in body and "max_completion_tokens" in body and body["max_tokens"] != body["max_completion_tokens"]:
        raise bad_request("max_tokens and max_completion_tokens differ; give one.", "max_tokens")
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return ParsedRequest(
        kind="chat",
        messages=_read_messages(body.get("messages")),
        max_tokens=read_integer(body, name, low=1),
        **_read_common(body),
    )


def read_completion(body: Mapping[str, Any]) -> ParsedRequest:
    """Return the request in a body of `/v1/completions`.

    Raises:
        RequestRejected: 400, with the field.
    """
    _reject_unsupported(body, {"prompt", "echo", "best_of", "suffix"})
    limit = read_integer(body, "max_tokens", low=1)
    return ParsedRequest(
        kind="completion",
        prompt=_read_prompt(body.get("prompt")),
        max_tokens=_COMPLETION_TOKENS if limit is None else limit,
        **_read_common(body),
    )


def plan_sampling(parsed: ParsedRequest, context_tokens: int) -> dict[str, Any]:
    """Return the engine's sampling parameters for a target with this context.

    Raises:
        RequestRejected: `max_tokens` is above the context, or `min_tokens` above `max_tokens`.
    """
    check_length(parsed.text, context_tokens, "messages" if parsed.kind == "chat" else "prompt")
    if parsed.max_tokens is not None and parsed.max_tokens > context_tokens:
        message = f"max_tokens is {parsed.max_tokens}; the context of this model has {context_tokens} tokens."
        raise bad_request(message, "max_tokens", "context_length_exceeded")
    # The engine stops at the end of the context by itself, so the context is a valid limit for any prompt.
    max_tokens, min_tokens = parsed.max_tokens or context_tokens, parsed.sampling.get("min_tokens", 0)
    if min_tokens > max_tokens:
        message = f"min_tokens is {min_tokens}; it must be at most max_tokens, {max_tokens}."
        raise bad_request(message, "min_tokens", "above_maximum_value")
    return {**parsed.sampling, "max_tokens": max_tokens}


def check_length(text: str, context_tokens: int, param: str) -> None:
    """Reject a text that is too long for a context of this size, whatever its tokens are.

    Raises:
        RequestRejected: 400 `context_length_exceeded`.
    """
    max_chars = context_tokens * MAX_CHARS_PER_TOKEN
    if len(text) > max_chars:
        message = (
            f"The text has {len(text)} characters; the limit of a context of {context_tokens} tokens is {max_chars}."
        )
        raise bad_request(message, param, "context_length_exceeded")


def _reject_unsupported(body: Mapping[str, Any], own: set[str]) -> None:
    known = {"model", "stream", "stream_options", "stop", "user", "seed", "max_tokens", *SAMPLING, *IGNORED, *own}
    for name, value in body.items():
        if name in UNSUPPORTED:
            # Types are compared, too: 0 and false, 1 and true are equal in Python, but not for a caller.
            if value is not None and not any(
                value == default and type(value) is type(default) for default in UNSUPPORTED[name]
            ):
                raise bad_request(f"{name} is not supported here; leave it out.", name, "unsupported_parameter")
        elif name not in known:
            message = f"Unrecognized request argument supplied: {shorten(name)}"
            raise bad_request(message, shorten(name), "unknown_parameter")


def _read_common(body: Mapping[str, Any]) -> dict[str, Any]:
    model = read_text(body, "model", max_chars=MAX_MODEL_CHARS)
    if not model:
        raise bad_request("you must provide a model parameter", "model")
    stream = read_flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not stream:
        raise bad_request("stream_options is only allowed when stream is true.", "stream_options")
    if options is not None and not isinstance(options, dict):
        raise bad_request("stream_options must be an object.", "stream_options")
    return {
        "model": model,
        "sampling": _read_sampling(body),
        "stream": stream,
        "include_usage": read_flag(options or {}, "include_usage"),
        "user": read_text(body, "user", max_chars=MAX_USER_CHARS),
    }


def _read_sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    sampling: dict[str, Any] = {"stop": read_stop(body), "seed": read_integer(body, "seed")}
    for name, field in SAMPLING.items():
        if field.kind == "flag":
            sampling[name] = True if read_flag(body, name) else None
        elif field.kind == "integer":
            sampling[name] = read_integer(body, name, low=field.low, high=field.high)
        else:
            sampling[name] = read_number(body, name, field)
    return {name: value for name, value in sampling.items() if value is not None}


def _read_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise bad_request("messages must be a list with at least one message.", "messages")
    if len(value) > MAX_MESSAGES:
        message = f"There are {len(value)} messages; the limit is {MAX_MESSAGES}."
        raise bad_request(message, "messages", "above_maximum_value")
    return tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(value))


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise bad_request(f"{where} must be an object with role and content.", where)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"{where}.role is {quote(role)}; it must be system, user or assistant.", f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if value.get(name):
            raise bad_request(f"{where}.{name} is not supported here.", f"{where}.{name}", "unsupported_parameter")
    # Templates of open models do not support "developer", which is the newer name of the system message.
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
            raise bad_request(f"{where} contains a part of type {quote(kind)}; only text is supported.", where)
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
