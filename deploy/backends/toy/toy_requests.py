"""Reads requests of the OpenAI API for the toy engine, and refuses the rest as vLLM does."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toy_engine import ToyEngine, count_tokens

BOOLEANS = ("stream", "ignore_eos", "echo", "logprobs")
INTEGERS = {"max_tokens": 1, "max_completion_tokens": 1, "min_tokens": 0, "n": 1, "top_k": -1, "top_logprobs": 0}
"""Fields that are integers, and the lowest of each."""
NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, 2),
}
"""Fields that are numbers without influence on the text, and their limits."""
NOT_OFFERED = ("logit_bias", "prompt_logprobs", "structured_outputs", "suffix")
"""Fields that the toy engine refuses unless they are empty."""
DEEPEST = 8
"""Levels of a tool's schema that arguments are made for."""
VALUES = {"string": "text", "integer": 1, "number": 1.0, "boolean": True, "array": []}
"""Arguments by the type of their schema."""
COMPLETION_TOKENS = 16
"""The length of a completion that names none, as in vLLM."""


class RequestError(Exception):
    """A request that is answered with an error: the status, vLLM's type of it, the field, and where it came from."""

    status = 400
    kind = "BadRequestError"
    source = "validation"

    def __init__(self, message: str, field: str | None = None) -> None:
        """Take the message and the field."""
        super().__init__(message)
        self.field = field


class ModelNotFound(RequestError):  # noqa: N818 - the class is a part of the record
    """The model has another name."""

    status, kind = 404, "NotFoundError"


class TemplateError(RequestError):
    """The chat template fails for this conversation."""

    source = "template"


@dataclass(frozen=True)
class Asked:
    """The parsed fields of one request.

    Attributes:
        kind: `chat` or `completion`.
        prompts: texts; token ids as numbers.
        prompt_tokens: tokens of all prompts.
        answers: number of answers to each prompt.
        length: tokens of an answer without a stop sequence.
        reason: finish reason at this length: `length` at a limit, else `stop`.
        min_tokens: tokens before stop sequences apply.
        stops: stop sequences.
        top: number of top log-probabilities at each position; None without log-probabilities.
        call: name and arguments of the answers' call; None for texts.
    """

    kind: str
    prompts: Sequence[str]
    prompt_tokens: int
    answers: int
    length: int
    reason: str
    min_tokens: int
    stops: Sequence[str]
    stream: bool
    include_usage: bool
    echo: bool
    top: int | None
    call: tuple[str, str] | None


def read(kind: str, body: Mapping[str, Any], engine: ToyEngine, names: Sequence[str]) -> Asked:
    """Return the parsed request of a body.

    Args:
        kind: `chat` or `completion`.
        body: the JSON object, checked by `openai_checks.judge`.
        engine: the engine.
        names: accepted model names.

    Raises:
        RequestError: vLLM would refuse the request, too.
    """
    body = {name: value for name, value in body.items() if value is not None}
    _check_values(kind, body)
    _check_offer(body)
    if body.get("model", names[0]) not in names:
        raise ModelNotFound(f"The model `{body['model']}` does not exist.", "model")
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or ("stream_options" in body and not body.get("stream")):
        raise RequestError("Stream options can only be defined when `stream=True`.", "stream_options")
    prompts = [_render(body.get("messages"), engine)] if kind == "chat" else _read_prompts(body.get("prompt"))
    left = engine.context_tokens - max(map(count_tokens, prompts))
    length, reason = _plan_length(kind, body, engine, left)
    return Asked(
        kind=kind,
        prompts=prompts,
        prompt_tokens=sum(map(count_tokens, prompts)),
        answers=body.get("n", 1),
        length=length,
        reason=reason,
        min_tokens=body.get("min_tokens", 0),
        stops=_read_stops(body.get("stop", [])),
        stream=body.get("stream", False),
        include_usage=bool(options.get("include_usage")),
        echo=body.get("echo", False),
        top=_read_top(kind, body),
        call=_read_call(body),
    )


def _check_values(kind: str, body: Mapping[str, Any]) -> None:
    """Refuse values of a wrong type or out of their limits."""
    for name in BOOLEANS:
        if name in body and type(body[name]) is not bool and (name, kind) != ("logprobs", "completion"):
            raise RequestError(f"{name} must be true or false.", name)
    for name, lowest in INTEGERS.items():
        if name in body and body[name] < lowest:  # that it is an integer is checked for both engines
            raise RequestError(f"{name} must be at least {lowest}, got {body[name]}.", name)
    for name, (lowest, highest) in NUMBERS.items():
        value = body.get(name, lowest)
        if type(value) not in {int, float} or not math.isfinite(value) or not lowest <= value <= highest:
            raise RequestError(f"{name} must be a number from {lowest} to {highest}.", name)
    for name in ("model", "user"):
        if name in body and not isinstance(body[name], str):
            raise RequestError(f"{name} must be a string.", name)


def _check_offer(body: Mapping[str, Any]) -> None:
    """Refuse requests beyond the toy engine's features."""
    for name in NOT_OFFERED:
        if body.get(name):
            raise RequestError(f"The toy engine does not offer {name}; leave it out.", name)
    given = body.get("response_format", {})
    if not isinstance(given, dict) or given.get("type", "text") != "text":
        raise RequestError("The toy engine offers no response_format but text.", "response_format")


def _read_call(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the call required by `tool_choice`: of the named function, or of the first one.

    Raises:
        RequestError: the tools are no functions, or lack the named one.
    """
    tools, choice = body.get("tools", []), body.get("tool_choice", "auto")
    functions = [tool.get("function") if isinstance(tool, dict) else None for tool in _as_list(tools)]
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        raise RequestError("tools must be a list of functions, each with a name.", "tools")
    if choice in ("auto", "none"):
        return None
    named = choice.get("function") if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    chosen = [function for function in functions if choice == "required" or function["name"] == name]
    if not chosen:
        raise RequestError("tool_choice must be auto, none, required, or name a function of tools.", "tool_choice")
    return chosen[0]["name"], json.dumps(_example(chosen[0].get("parameters"), DEEPEST))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _example(schema: Any, deepest: int) -> Any:
    """Return a value allowed by a schema of `enum`, `const`, `type` and `properties`."""
    if not isinstance(schema, dict) or deepest == 0:
        return {}
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else _as_list(schema["enum"])[0]
    kind = _as_list(schema.get("type", "object"))[:1]
    if kind and isinstance(kind[0], str) and kind[0] in VALUES:
        return VALUES[kind[0]]
    properties = schema.get("properties")
    return {
        name: _example(value, deepest - 1)
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    }


def _plan_length(kind: str, body: Mapping[str, Any], engine: ToyEngine, left: int) -> tuple[int, str]:
    """Return the number of tokens of an answer, and its finish reason.

    Raises:
        RequestError: prompt and answer are longer than the context.
    """
    names = ("max_completion_tokens", "max_tokens") if kind == "chat" else ("max_tokens",)
    given = next((body[name] for name in names if name in body), None)
    limit = f"This model's maximum context length is {engine.context_tokens} tokens. However, "
    used = engine.context_tokens - left
    if left < 1:
        raise RequestError(
            f"{limit}your prompt contains {used} input tokens. Please reduce the length of the input prompt.",
            "input_tokens",
        )
    if given is not None and given > left:
        raise RequestError(
            f"{limit}you requested {given} output tokens and your prompt contains {used} input tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens.",
            "input_tokens",
        )
    at_least = body.get("min_tokens", 0)
    if given is not None:
        if at_least > given:
            raise RequestError(
                f"min_tokens must be less than or equal to max_tokens={given}, got {at_least}.", "min_tokens"
            )
        return given, "length"
    highest = min(left, COMPLETION_TOKENS) if kind == "completion" else left
    natural = highest + 1 if body.get("ignore_eos") else max(engine.tokens, at_least)
    return min(natural, highest), "stop" if natural <= highest else "length"


def _read_top(kind: str, body: Mapping[str, Any]) -> int | None:
    if kind == "completion":
        top = body.get("logprobs")
        return None if top is None or top is False else int(top)
    if "top_logprobs" in body and not body.get("logprobs"):
        raise RequestError("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    return body.get("top_logprobs", 0) if body.get("logprobs") else None


def _read_stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise RequestError("stop must be a string or a list of strings, none of them empty.", "stop")
    return stops


def _read_prompts(given: Any) -> list[str]:
    """Return the prompts of a completion as texts: a text or token ids, or a list of such."""
    prompts = given if isinstance(given, list) and not _are_ids(given) else [given]
    texts = [" ".join(map(str, prompt)) if _are_ids(prompt) else prompt for prompt in prompts]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(
            "prompt must be a text or a list of token ids, or a list of such, none of them empty.", "prompt"
        )
    return texts


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _render(messages: Any, engine: ToyEngine) -> str:
    """Return the prompt of a conversation, in ChatML.

    Raises:
        RequestError: it is no conversation, or the template fails.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of messages, at least one.", "messages")
    lines = [f"<|im_start|>{_role(message)}\n{_content(message)}<|im_end|>\n" for message in messages]
    text = "".join(lines) + "<|im_start|>assistant\n"
    if engine.holds("template_fails_text", text):
        raise TemplateError("the template does not take this conversation")
    return text


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or not role:
        text = "Each message must be an object with a role."
        raise RequestError(text, "messages")
    return role


def _content(message: Mapping[str, Any]) -> str:
    content = "" if message.get("content") is None else message["content"]
    parts = [{"text": content}] if isinstance(content, str) else content
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts] if isinstance(parts, list) else []
    if not isinstance(parts, list) or not all(isinstance(text, str) for text in texts):
        text = "The content of a message must be a string or a list of text parts."
        raise RequestError(text, "messages")
    return "".join(texts)
