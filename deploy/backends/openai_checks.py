"""What every backend refuses itself of a request of the OpenAI API, so that the gateway is not the only check.

Copied next to each backend's ``model.py`` when the run folder is prepared.
"""

import asyncio
import json
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from engine_tensors import HttpAsk, HttpPiece

from decisions.json_values import MAX_VALUES, has_too_many_values
from decisions.openai_limits import CostLimits, Refusal
from decisions.openai_requests import check_body, check_path

JSON_HEADERS = (("content-type", "application/json"),)
_LARGE_BODY_BYTES = 2**13


@dataclass(frozen=True)
class Rules:
    """What the engine of one model takes.

    Attributes:
        paths: those that the engine has for this model.
        context_tokens: tokens that a prompt and its answer may have together.
        limits: what a request may cost.
    """

    paths: Container[str]
    context_tokens: int
    limits: CostLimits


class JudgingThread(ThreadPoolExecutor):
    """Judges large bodies, one after the other.

    A thread cannot be cancelled: if each caller had one, those who send a large body and hang up would have many.
    """

    def __init__(self) -> None:
        """Start no thread before the first body."""
        super().__init__(max_workers=1, thread_name_prefix="judging")


async def judge_apart(ask: HttpAsk, rules: Rules, thread: JudgingThread) -> Mapping[str, Any] | Refusal:
    """Return the parsed body of a request, or why it does not reach the engine.

    A large body is judged in the thread, so that answers in progress are not delayed.
    """
    if len(ask.body) <= _LARGE_BODY_BYTES:
        return judge(ask, rules)
    return await asyncio.get_running_loop().run_in_executor(thread, judge, ask, rules)


def judge(ask: HttpAsk, rules: Rules) -> Mapping[str, Any] | Refusal:
    """Return the parsed body of a request, or why it does not reach the engine."""
    if refusal := check_path(ask.method, ask.path):
        return refusal
    if ask.path not in rules.paths:
        message = f"This model does not support {ask.path}: its engine offers no such task."
        return Refusal(404, "unsupported_by_model", message)
    if has_too_many_values(ask.body):  # a parser keeps the interpreter's lock for the whole text
        return Refusal(400, "invalid_json", f"The body has more than {MAX_VALUES} values.")
    try:
        body = json.loads(ask.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Refusal(400, "invalid_json", "The body must be a JSON object.")
    return check_body(ask.path, body, rules.context_tokens, rules.limits) or body


def refuse(refusal: Refusal) -> HttpPiece:
    """Return the whole answer to a refused request."""
    body = error_body(refusal.message, "invalid_request_error", refusal.field, refusal.code)
    record = {"error": {"class": refusal.code, "source": "validation"}}
    return HttpPiece(body, record, refusal.status, JSON_HEADERS, last=True)


def late_body(deadline_s: float) -> bytes:
    """Return the body of an answer that did not begin before its deadline; its status is 504."""
    message = f"The answer was not complete within {deadline_s:g} s; ask for fewer tokens, or wait longer."
    return error_body(message, "timeout_error", None, "deadline_exceeded")


def error_body(message: str, kind: str, field: str | None, code: str) -> bytes:
    """Return an error in OpenAI's form."""
    return json.dumps({"error": {"message": message, "type": kind, "param": field, "code": code}}).encode()
