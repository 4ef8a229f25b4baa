"""What an OpenAI request asks for: read strictly, so that nothing that matters is silently dropped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .errors import bad_request
from .fields import IGNORED, NEUTRAL, SAMPLING, take_flag, take_integer, take_number, take_stop, take_text

Message = dict[str, str]
_ROLES = {"system", "user", "assistant", "developer"}
_COMPLETION_TOKENS = 16
"""OpenAI's default of the older endpoint."""


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
    """Read a request's body.

    Raises:
        Refused: it is not a JSON object.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request(f"The body is a JSON {type(body).__name__}, not an object.", code="invalid_json")
    return body


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
        kind="chat", messages=_read_messages(body.get("messages")), max_tokens=take_integer(body, name, low=1),
        **_read_common(body),
    )  # fmt: skip


def read_completion(body: Mapping[str, Any]) -> Ask:
    """Read the body of `/v1/completions`.

    Raises:
        Refused: 400, naming the field.
    """
    _refuse_what_is_unsupported(body, {"prompt", "echo", "best_of", "suffix"})
    limit = take_integer(body, "max_tokens", low=1)
    return Ask(
        kind="completion", prompt=_read_prompt(body.get("prompt")),
        max_tokens=_COMPLETION_TOKENS if limit is None else limit, **_read_common(body),
    )  # fmt: skip


def plan_sampling(ask: Ask, context_tokens: int) -> dict[str, Any]:
    """Give the engine's sampling parameters for a target with this context.

    Raises:
        Refused: more tokens are asked for than the context could ever hold.
    """
    if ask.max_tokens is not None and ask.max_tokens > context_tokens:
        message = f"max_tokens is {ask.max_tokens}; this model's context holds {context_tokens} tokens in all."
        raise bad_request(message, "max_tokens", "context_length_exceeded")
    # The engine stops at the end of the context by itself, so the context is a limit that fits any prompt.
    return {**ask.sampling, "max_tokens": ask.max_tokens or context_tokens}


def _refuse_what_is_unsupported(body: Mapping[str, Any], own: set[str]) -> None:
    known = {"model", "stream", "stream_options", "stop", "user", "seed", "max_tokens", *SAMPLING, *IGNORED, *own}
    for name, value in body.items():
        if name in NEUTRAL:
            # Compared with their types: 0 and false, 1 and true are equal in Python, not to a caller.
            if value is not None and not any(value == one and type(value) is type(one) for one in NEUTRAL[name]):
                raise bad_request(f"{name} is not supported here; leave it out.", name, "unsupported_parameter")
        elif name not in known:
            raise bad_request(f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")


def _read_common(body: Mapping[str, Any]) -> dict[str, Any]:
    model = take_text(body, "model")
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
        "user": take_text(body, "user"),
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
    return tuple(_read_message(message, f"messages[{index}]") for index, message in enumerate(value))


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise bad_request(f"{where} must be an object with role and content.", where)
    role = value.get("role")
    if role not in _ROLES:
        raise bad_request(f"{where}.role is {role!r}; it must be system, user or assistant.", f"{where}.role")
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
            raise bad_request(f"{where} holds a part of type {kind!r}; only text is supported.", where)
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
