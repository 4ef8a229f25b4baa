"""What every backend refuses itself of a request of the OpenAI API, so that the gateway is not the only check.

Copied next to each backend's ``model.py`` when the run folder is prepared.
"""

import json
from collections.abc import Container

from engine_tensors import HttpAsk, HttpPiece

from decisions.openai_requests import CostLimits, Refusal, check_body, check_path

JSON_HEADERS = (("content-type", "application/json"),)


def check(ask: HttpAsk, paths: Container[str], context_tokens: int, limits: CostLimits) -> Refusal | None:
    """Return why a request does not reach the engine; None if it does.

    Args:
        ask: the request.
        paths: those that the engine has for this model.
        context_tokens: tokens that a prompt and its answer may have together.
        limits: what a request may cost.
    """
    if refusal := check_path(ask.method, ask.path):
        return refusal
    if ask.path not in paths:
        message = f"This model does not support {ask.path}: its engine offers no such task."
        return Refusal(404, "unsupported_by_model", message)
    try:
        body = json.loads(ask.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Refusal(400, "invalid_json", "The body must be a JSON object.")
    return check_body(ask.path, body, context_tokens, limits)


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
