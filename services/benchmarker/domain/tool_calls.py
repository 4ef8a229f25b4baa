"""Tests tool calls with one request that must be answered by a parseable call."""

import json
from dataclasses import dataclass
from typing import Any, Final

from contracts.facts import GateResult
from contracts.vocabulary import ServingSettings

GATE: Final = "tool_call"
PATH: Final = "/v1/chat/completions"
NAME: Final = "find_parcel"
PARCEL: Final = "K-9027"
MAX_TOKENS: Final = 128
REASONING_TOKENS: Final = 2048
"""Token limit with a reasoning parser, because the model may reason first."""
MOST_TOKENS: Final = 4096
LONGEST_S: Final = 600.0
_SHOWN_CHARS = 300
_MORE = "load.output_tokens of the policy and context_tokens raise the limit"


@dataclass(frozen=True)
class ApiAnswer:
    """Status and body of an answer by the engine's OpenAI API."""

    status: int
    body: bytes


def plan_limit(settings: ServingSettings, *, output_tokens: int, context_tokens: int) -> int:
    """Return the answer's token limit, at most half of the context.

    Args:
        settings: The candidate's serving settings.
        output_tokens: Answer length of the policy's load, which may raise the limit.
        context_tokens: The candidate's context.
    """
    usual = REASONING_TOKENS if settings.reasoning_parser is not None else MAX_TOKENS
    return max(1, min(max(usual, output_tokens), MOST_TOKENS, context_tokens // 2))


def plan_timeout(timeout_s: float, max_tokens: int) -> float:
    """Return the answer's timeout in seconds: a request's timeout, scaled by tokens."""
    return max(timeout_s, min(LONGEST_S, timeout_s * max_tokens / MAX_TOKENS))


def plan_request(model: str, max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
    """Return the request body; the engine forces any model to answer with a call."""
    parameters = {
        "type": "object",
        "properties": {"parcel": {"type": "string", "enum": [PARCEL]}},
        "required": ["parcel"],
        "additionalProperties": False,
    }
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"Where is parcel {PARCEL}?"}],
        "tools": [{"type": "function", "function": {"name": NAME, "parameters": parameters, "strict": True}}],
        "tool_choice": "required",
        "temperature": 0.0,
        "max_tokens": max_tokens,
    }


def assess_answer(answer: ApiAnswer, parser: str, max_tokens: int = MAX_TOKENS) -> GateResult:
    """Return a pass for a call of the tool with JSON arguments; else a failure that quotes the answer."""
    if answer.status != 200:
        text = answer.body.decode(errors="replace")[:_SHOWN_CHARS]
        return _fail(f"A request with a tool was answered with status {answer.status} by the parser {parser}: {text}")
    try:
        choice = json.loads(answer.body)["choices"][0]
        calls = choice["message"].get("tool_calls") or []
        if not calls and choice.get("finish_reason") == "length":
            return not_answered("cut_off", f"the model generated {max_tokens} tokens before a call; {_MORE}")
        names = [call["function"]["name"] for call in calls]
        arguments = [json.loads(call["function"]["arguments"]) for call in calls]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        text = answer.body.decode(errors="replace")[:_SHOWN_CHARS]
        return _fail(f"The answer to a request with a tool cannot be parsed ({type(error).__name__}): {text}")
    if NAME not in names or {"parcel": PARCEL} not in arguments:
        shown = json.dumps(list(zip(names, arguments, strict=True)))[:_SHOWN_CHARS]
        return _fail(f"A request that requires a call of {NAME} was answered with these calls: {shown}.")
    reason = f"A request with a tool was answered with a call of {NAME} by the parser {parser}."
    return GateResult(name=GATE, verdict="pass", reason=reason)


def not_answered(code: str, reason: str) -> GateResult:
    """Return an inconclusive result for a missing answer."""
    return GateResult(
        name=GATE, verdict="inconclusive", reason=f"A request with a tool got no answer ({code}: {reason})"
    )


def _fail(reason: str) -> GateResult:
    return GateResult(name=GATE, verdict="fail", reason=reason)
