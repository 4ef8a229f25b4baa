"""Checks of OpenAI requests in every backend, in addition to the gateway's.

Copied beside each backend's ``model.py`` when the run folder is prepared.
"""

import asyncio
import functools
import json
import threading
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from engine_tensors import HttpAsk, HttpPiece

from decisions.openai.json_values import find_excess_values
from decisions.openai.limits import CostLimits, Refusal
from decisions.openai.requests import check_body, check_path
from decisions.openai.turns import Turns

JSON_HEADERS = (("content-type", "application/json"),)
P = ParamSpec("P")
T = TypeVar("T")
LARGE_BODY_BYTES = 2**13


@dataclass(frozen=True)
class Rules:
    """The limits of one model's engine.

    Attributes:
        paths: the engine's paths for this model.
        context_tokens: limit of prompt and answer together, in tokens.
        limits: cost limits of a request.
    """

    paths: Container[str]
    context_tokens: int
    limits: CostLimits


class JudgingThread:
    """Judges large bodies one after the other, with turns among callers.

    One thread for all: threads cannot be cancelled, so callers who hang up would accumulate them.
    """

    def __init__(self) -> None:
        """Start no thread before the first body."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judging")
        self._turns = Turns[tuple[Future[Any], Callable[[], Any]]]()
        self._lock = threading.Lock()

    async def run(self, holder: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread at its caller's turn, and return its result."""
        future: Future[T] = Future()
        with self._lock:
            self._turns.add(holder, (future, functools.partial(work, *args, **kwargs)))
        self._thread.submit(self._take_turn)
        return await asyncio.wrap_future(future)

    def _take_turn(self) -> None:
        with self._lock:
            turn = self._turns.take()
        if turn is None or not turn[0].set_running_or_notify_cancel():
            return
        future, work = turn
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)


async def judge_apart(ask: HttpAsk, rules: Rules, thread: JudgingThread) -> Mapping[str, Any] | Refusal:
    """Return the parsed body of a request, or its refusal; large bodies are judged in the thread."""
    return judge(ask, rules) if len(ask.body) <= LARGE_BODY_BYTES else await thread.run(ask.holder, judge, ask, rules)


def judge(ask: HttpAsk, rules: Rules) -> Mapping[str, Any] | Refusal:
    """Return the parsed body of a request, or its refusal."""
    if refusal := check_path(ask.method, ask.path):
        return refusal
    if ask.path not in rules.paths:
        return Refusal(
            404, "unsupported_by_model", f"This model does not support {ask.path}: its engine offers no such task."
        )
    if excess := find_excess_values(ask.body):  # a parser keeps the interpreter's lock for the whole text
        return Refusal(400, "invalid_json", excess)
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
    """Return the body (status 504) for an answer that did not begin before its deadline."""
    message = f"The answer was not complete within {deadline_s:g} s; ask for fewer tokens, or wait longer."
    return error_body(message, "timeout_error", None, "deadline_exceeded")


def error_body(message: str, kind: str, field: str | None, code: str) -> bytes:
    """Return an error in OpenAI's form."""
    return json.dumps({"error": {"message": message, "type": kind, "param": field, "code": code}}).encode()
