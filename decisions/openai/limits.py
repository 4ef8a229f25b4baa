"""Cost limits of OpenAI requests.

Standard library only, as `decisions.openai.requests`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class CostLimits:
    """The cost limits of one request.

    Attributes:
        sequences: Simultaneous answers: prompts times `n`.
        tokens: Tokens of all answers, by the request's limit or the context.
        logprobs: Reported likely tokens per position of an answer.
        prompt_logprobs: The same per position of a prompt.
        schema_bytes: Length of a JSON schema, tools or choices as compact JSON.
        schema_depth: Nesting of these.
        whole_answers: Number of contexts that answers may fill, if `tokens` is less.
        inputs: Texts to embed.
        input_tokens: Tokens of these texts, and of a text to tokenize or detokenize.
        reported: Reported likely tokens of a request: per position times tokens.
        entries: Length of lists and maps of parameters: stop sequences, biases, tools, words, token ids.
        items: Messages or items of a conversation and their parts; the engine validates them on its event loop.
        metadata: Entries of `metadata` (OpenAI's limit).
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
    items: int = 2_048
    metadata: int = 16


@dataclass(frozen=True)
class Refusal:
    """Why a request does not reach the engine.

    Attributes:
        status: HTTP status, 400, 404 or 405.
        code: Stable code.
        message: What was refused, the value, the limit, and advice.
        field: The refused field of the body.
    """

    status: int
    code: str
    message: str
    field: str | None = None


def check_cost(kind: str, body: Mapping[str, Any], context_tokens: int, limits: CostLimits) -> Refusal | None:
    """Return why a body exceeds a limit; None if it does not.

    Args:
        kind: Kind of the request, a value of `PATHS`.
        body: The JSON object.
        context_tokens: Maximum tokens of prompt and answer together.
        limits: The cost limits.
    """
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


def most_tokens(kind: str, body: Mapping[str, Any], body_bytes: int, context_tokens: int) -> tuple[int, int]:
    """Return upper bounds of the prompt and the answer tokens of a checked request.

    A prompt has at most one token per byte of the body, without the chat template. Requests that count or convert
    tokens generate none.
    """
    if kind not in {"chat", "completion", "responses"}:
        return (body_bytes if kind == "embeddings" else 0), 0
    answers = _integer(body.get("n"))
    prompts = _count_prompts(kind, body)
    sequences = prompts * (1 if answers is None else max(1, answers))
    prompt = min(body_bytes, prompts * context_tokens)
    generated = sequences * _answer_tokens(kind, body, context_tokens)
    return prompt, max(sequences, min(generated, sequences * context_tokens - prompt))


def _check_reported(body: Mapping[str, Any], tokens: int, limits: CostLimits) -> Refusal | None:
    """Refuse too many log-probabilities."""
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
    """Refuse too many texts or tokens in a request that generates none."""
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
    """Return the number of token ids in a list, or half the number of characters of a text."""
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return len(value)
    return measure(value, 2 * enough)[0] // 2


def _count_prompts(kind: str, body: Mapping[str, Any]) -> int:
    """Return the number of prompts: a list of texts, or of lists of token ids, has several."""
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


def measure(value: Any, enough: int) -> tuple[int, int]:
    """Return the approximate length in characters and the depth of a JSON value; stop above `enough` characters."""
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
