"""What the gateway reads of a request of the OpenAI API: the model, who decides its length, and what shapes its answer.

The body itself goes to the engine as it came; `decisions.openai_requests` judges its fields and its cost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from decisions.openai_fields import PATHS
from decisions.openai_requests import CostLimits, check_body
from services.gateway.domain.errors import Problem, RequestRejected, bad_request

MAX_MODEL_CHARS = 256
MAX_USER_CHARS = 512
MAX_CHARS_PER_TOKEN = 64
"""A text with more characters than this per token of the context cannot fit; it is not sent to the engine."""
_COMPLETION_TOKENS = 16
"""OpenAI's default of `/v1/completions`."""
GENERATING: Final = frozenset({"chat", "completion", "responses"})
"""The kinds of requests whose answers are generated, so that they are evidence for or against a target."""
_TOKEN_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_USUAL_TEMPERATURE = 1.0
_SHAPING: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "logit_bias": ({},),
    "logprob_token_ids": ([],),
    "min_tokens": (0,),
    "n": (1,),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_detection": (),
    "repetition_penalty": (1,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop": ([], ""),
    "stop_token_ids": ([],),
    "structured_outputs": ({},),
    "suffix": ("",),
    "thinking_token_budget": (),
    "tools": ([],),
    "truncate_prompt_tokens": (),
}
"""Fields with which a caller shapes an answer or its times, with the values that do not."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request that the gateway can route.

    Attributes:
        path, kind: its endpoint, and the kind of request that it takes (`decisions.openai_fields.PATHS`).
        raw: the body as it came.
        body: the same, parsed.
        model: the model name as the caller wrote it.
        stream: the answer comes as server-sent events.
        user: the caller's name for its user; the same user always gets the same side of a canary.
    """

    path: str
    kind: str
    raw: bytes
    body: Mapping[str, Any]
    model: str
    stream: bool = False
    user: str | None = None

    @property
    def generates(self) -> bool:
        """Return whether the answer is generated text."""
        return self.kind in GENERATING

    @property
    def max_tokens(self) -> int | None:
        """Return the caller's limit of the answer; None means as many tokens as the context allows."""
        for name in _TOKEN_LIMITS:
            value = self.body.get(name)
            if isinstance(value, int):
                return value
        return _COMPLETION_TOKENS if self.kind == "completion" else None

    @property
    def has_stops(self) -> bool:
        """Return whether the caller's own stop sequences can end the answer."""
        return bool(self.body.get("stop") or self.body.get("stop_token_ids"))

    @property
    def forces_length(self) -> bool:
        """Return whether the caller forces a minimum length."""
        return bool(self.body.get("ignore_eos") or self.body.get("min_tokens"))

    @property
    def shapes_answer(self) -> bool:
        """Return whether the caller's parameters shape the answer, or what it costs: it shows little of the target."""
        body = self.body
        if any(body[name] is not None and body[name] not in usual for name, usual in _SHAPING.items() if name in body):
            return True
        temperature = body.get("temperature")
        hot = isinstance(temperature, int | float) and temperature > _USUAL_TEMPERATURE
        return hot or _has_structure(body) or len(_prompts(body)) > 1

    @property
    def text(self) -> str:
        """Return the text of the caller; it is used for its features only."""
        return "\n".join(_texts(self.body))


def read_request(path: str, raw: bytes, body: Mapping[str, Any]) -> ParsedRequest:
    """Return a request whose target can be chosen.

    Raises:
        RequestRejected: 400, with the field.
    """
    model = _read_text(body, "model", MAX_MODEL_CHARS)
    if not model:
        raise bad_request("you must provide a model parameter", "model")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad_request("stream must be true or false.", "stream")
    return ParsedRequest(path, PATHS[path], raw, body, model, bool(stream), _read_text(body, "user", MAX_USER_CHARS))


def check_request(parsed: ParsedRequest, context_tokens: int, limits: CostLimits) -> None:
    """Check the fields of a request, its cost and its length for a target with this context.

    Raises:
        RequestRejected: 400, with the field.
    """
    refusal = check_body(parsed.path, parsed.body, context_tokens, limits)
    if refusal is not None:
        problem = Problem(refusal.status, refusal.message, param=refusal.field, code=refusal.code)
        raise RequestRejected(problem)
    max_chars = context_tokens * MAX_CHARS_PER_TOKEN
    chars = max((len(text) for text in _prompts(parsed.body)), default=0)
    if "messages" in parsed.body or "input" in parsed.body:
        chars = max(chars, len(parsed.text))
    if chars > max_chars:
        message = f"The text has {chars} characters; the limit of a context of {context_tokens} tokens is {max_chars}."
        raise bad_request(message, _text_field(parsed.body), "context_length_exceeded")


def _text_field(body: Mapping[str, Any]) -> str:
    return next((name for name in ("messages", "input", "prompt") if name in body), "model")


def _has_structure(body: Mapping[str, Any]) -> bool:
    """Return whether an answer must follow a schema."""
    given = body.get("response_format")
    text = body.get("text")
    formats = (given, text.get("format") if isinstance(text, dict) else None)
    return any(isinstance(value, dict) and value.get("type", "text") != "text" for value in formats)


def _prompts(body: Mapping[str, Any]) -> list[Any]:
    """Return the prompts of a completion: one text, one list of tokens, or a list of these."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not all(isinstance(token, int) for token in prompt):
        return prompt
    return [] if prompt is None else [prompt]


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a request: instructions, messages, prompts and inputs."""
    for name in ("instructions", "prompt", "input", "messages"):
        value = body.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from _contents(item)


def _contents(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content", message.get("output"))
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


def _read_text(body: Mapping[str, Any], name: str, max_chars: int) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a string.", name)
    if value is not None and len(value) > max_chars:
        raise bad_request(f"{name} has {len(value)} characters; the limit is {max_chars}.", name, "above_maximum_value")
    return value
