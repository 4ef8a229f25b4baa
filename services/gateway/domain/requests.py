"""Parses an OpenAI request for routing: environment, model, texts, and parameters that shape the answer.

Bodies are parsed strictly: UTF-8 JSON objects of limited size, without values on which parsers disagree. The engine
receives the body unchanged; `decisions.openai.requests` checks fields and cost.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.vocabulary import Environment
from decisions.openai.json_values import find_excess_values
from decisions.openai.limits import CostLimits
from decisions.openai.paths import PATHS
from decisions.openai.requests import check_body
from services.gateway.domain.errors import Problem, RequestRejected, bad_request
from services.gateway.domain.excerpts import FIELDS
from services.gateway.domain.shaping import GENERATING

HEADER = "x-slipway-environment"
MAX_DEPTH = 64
SHOWN_CHARS = 80
MAX_MODEL_CHARS = 256
MAX_USER_CHARS = 512
_TOKEN_IDS = ("allowed_token_ids", "logit_bias", "logprob_token_ids", "stop_token_ids")
MAX_CHARS_PER_TOKEN = 64
"""A text with more characters than this per context token is too long; it is rejected."""
_NO_MATTER = frozenset({"model", "stream", "stream_options", "user"})
"""Fields that do not change the engine's computation, only routing and delivery."""
_LIMITS = CostLimits()
_LARGE_BYTES = 2**16
"""Longer bodies are hashed as raw bytes: serialising them again would take too long."""


@dataclass(frozen=True)
class ParsedRequest:
    """A parsed request that the gateway can route.

    Attributes:
        path, kind: the API path and its kind of request (`decisions.openai.paths.PATHS`).
        raw: the body's bytes.
        body: the parsed body.
        model: the model name, perhaps with a version, as the caller wrote it.
        stream: whether the answer is server-sent events.
    """

    path: str
    kind: str
    raw: bytes
    body: Mapping[str, Any]
    model: str
    stream: bool = False

    @property
    def generates(self) -> bool:
        """Return whether the answer is generated text."""
        return self.kind in GENERATING

    @property
    def computes(self) -> bool:
        """Return whether the model computes the answer, text or embeddings; only then is there telemetry."""
        return self.generates or self.kind == "embeddings"

    @property
    def has_stops(self) -> bool:
        """Return whether the caller's stop sequences can end the answer."""
        return bool(self.body.get("stop") or self.body.get("stop_token_ids"))

    @property
    def names_tokens(self) -> bool:
        """Return whether the request contains token ids, which depend on the vocabulary."""
        return any(self.body.get(name) for name in _TOKEN_IDS) or any(
            isinstance(prompt, list) for name in ("prompt", "input") for prompt in _prompts(self.body, name)
        )

    @property
    def has_conversation(self) -> bool:
        """Return whether the request passes through the target's chat template."""
        return self.kind in {"chat", "responses"} or "messages" in self.body

    @property
    def text(self) -> str:
        """Return all texts of the request; only their features are used."""
        return "\n".join(_texts(self.body))

    @property
    def asked(self) -> str:
        """Return the user's last text; only its features are used."""
        return next(_texts_of_user(self.body), "")

    @property
    def form(self) -> Mapping[str, Any]:
        """Return the fields that prescribe the answer's format."""
        return {name: self.body[name] for name in FIELDS if self.body.get(name)}


def read_environment(values: Sequence[str]) -> Environment:
    """Return the environment that a header's values name; production without a header.

    Raises:
        RequestRejected: 400 for any other value, so that a typo never reaches production.
    """
    match list(values):
        case [] | ["production"]:
            return "production"
        case ["staging"]:
            return "staging"
    value = ", ".join(values)[:200]
    raise bad_request(f"{HEADER} is {value!r}; it must be production or staging, given once.", HEADER)


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return a request's body as a JSON object in which every number is finite.

    Raises:
        RequestRejected: 400 for anything else, including bodies that many JSON parsers accept: encodings other than
            UTF-8, NaN and infinity, duplicate keys, more than `MAX_DEPTH` levels, too many values.
            `decisions.openai.requests` checks lone surrogates and large integers.
    """
    if excess := find_excess_values(raw):
        raise bad_request(excess, code="invalid_json")
    try:
        body = json.loads(
            raw.decode(),
            object_pairs_hook=_read_object,
            parse_float=_read_number,
            parse_constant=_reject_constant,
        )
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from error
    except RecursionError as error:
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json") from error
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request(f"The body is a JSON {type(body).__name__}, not an object.", code="invalid_json")
    _check_depth(body)
    return body


def read_request(path: str, raw: bytes, body: Mapping[str, Any]) -> ParsedRequest:
    """Return the request of a parsed body, after checking `model`, `stream` and `user`.

    Raises:
        RequestRejected: 400, with the field.
    """
    model = _read_text(body, "model", MAX_MODEL_CHARS)
    if not model:
        raise bad_request("you must provide a model parameter", "model")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad_request("stream must be true or false.", "stream")
    _read_text(body, "user", MAX_USER_CHARS)
    return ParsedRequest(path, PATHS[path], raw, body, model, bool(stream))


def check_request(parsed: ParsedRequest, context_tokens: int) -> None:
    """Check a request's fields, cost and length for a target with `context_tokens`.

    Raises:
        RequestRejected: 400, with the field.
    """
    refusal = check_body(parsed.path, parsed.body, context_tokens, _LIMITS)
    if refusal is not None:
        problem = Problem(refusal.status, refusal.message, param=refusal.field, code=refusal.code)
        raise RequestRejected(problem)
    max_chars = context_tokens * MAX_CHARS_PER_TOKEN
    for name, text in _bounded(parsed):
        chars = _count_chars(text, max_chars)
        if chars > max_chars:
            message = (
                f"The text has more than {max_chars} characters, the limit of a context of {context_tokens} tokens."
            )
            raise bad_request(message, name, "context_length_exceeded")


def _bounded(parsed: ParsedRequest) -> Iterator[tuple[str, Any]]:
    """Yield fields with the texts that must fit into one context: each prompt or input alone, all else together."""
    body = parsed.body
    alone = {"prompt", "input"} if parsed.kind == "embeddings" else {"prompt"}
    for name in alone & body.keys():
        value = body[name]
        yield from ((name, item) for item in (value if isinstance(value, list) else [value]))
    # `CostLimits` bounds the format fields
    rest = {name: value for name, value in body.items() if name not in alone | {*FIELDS}}
    yield next((name for name in ("messages", "input") if name in rest), "model"), rest


def _count_chars(value: Any, enough: int) -> int:
    """Return the number of characters in all texts of a JSON value; stop counting above `enough`."""
    chars, pending = 0, [value]
    while pending and chars <= enough:
        item = pending.pop()
        if isinstance(item, str):
            chars += len(item)
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += [part for part in item if not isinstance(part, int | float)]
    return chars


def _prompts(body: Mapping[str, Any], name: str) -> list[Any]:
    """Return the prompts or inputs of a body: one text, one list of tokens, or a list of these."""
    prompt = body.get(name)
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


def _texts_of_user(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of the user, the last one first."""
    for name in ("messages", "input", "prompt"):
        value = body.get(name)
        for item in reversed(value if isinstance(value, list) else [value]):
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict) and item.get("role") == "user":
                yield "\n".join(_contents(item))


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


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        duplicate, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {duplicate[:SHOWN_CHARS]!r} is given twice")
    return values


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:SHOWN_CHARS]} is too large")
    return value


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _check_depth(body: Mapping[str, Any]) -> None:
    """Reject bodies nested deeper than `MAX_DEPTH`."""
    pending: list[tuple[Any, int]] = [(body, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
        members = value.values() if isinstance(value, dict) else value
        pending += [(member, depth + 1) for member in members if isinstance(member, dict | list)]


def digest_of(parsed: ParsedRequest) -> str:
    """Return the SHA-256 of a request, independent of whitespace, field order and delivery options."""
    if len(parsed.raw) > _LARGE_BYTES:
        asked = parsed.raw
    else:
        fields = {name: value for name, value in parsed.body.items() if name not in _NO_MATTER}
        asked = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(parsed.path.encode() + b"\n" + asked).hexdigest()
