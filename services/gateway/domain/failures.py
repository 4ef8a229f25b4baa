"""Failures of a target, read from what its engine reported about a request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from decisions.evidence.attribution import ErrorKind
from services.gateway.domain.records import EngineRecord

_OK = 200
FIRST_ERROR_STATUS = 400
_FIRST_SERVER_ERROR_STATUS = 500
_ABORTED: Final = frozenset({"abort", "error"})
"""Finish reasons of an answer that the engine aborted."""
REJECTED: Final[frozenset[ErrorKind]] = frozenset({"bad_request", "template_refused"})
"""What an engine answers to a request that the caller must change."""
_KINDS: Final[Mapping[str, ErrorKind]] = {
    "validation": "bad_request",
    "settings": "bad_request",
    "template_refused": "template_refused",
    "template": "template_failed",
    "deadline": "deadline_exceeded",
}
"""Kinds of errors by the source that the backend's record names; all other sources are parts of the target."""


@dataclass(frozen=True)
class EngineResponse:
    """A complete response of the engine's application, with an error status."""

    status: int
    content_type: str
    body: bytes


_NO_SUCH_TASK: Final = frozenset({404, 405})
"""The model has no such task: an embedding model does not chat."""
_CALLERS: Final = frozenset({"schema_too_costly", "schemas_busy"})
"""Refusals of the backend that depend on time: another target may take the same request."""
_SENTENCES: Final[Mapping[str, str]] = {
    "engine_failed": "The engine failed to answer this request; try again, or change the request.",
    "engine_dead": "The engine ended while it had this request; try again.",
    "endpoint_unreachable": "The engine cannot be reached now; try again.",
    "not_loaded": "The engine cannot be reached now; try again.",
}


class AnswerFailed(Exception):  # noqa: N818 - it is an outcome of a request
    """A target gave no complete answer.

    Attributes:
        kind: what failed.
        reason: a sentence for a person.
        response: what the engine answered instead; None if it answered nothing, or had begun its answer.
        silent_s: how long the target was silent, if that was the failure.
        public: the caller may read the reason.
        is_callers: the caller caused it, whatever another target makes of the request.
        is_cut: the answer broke off without a report of the engine.
        is_stall: the server of the endpoint answers nothing, while another one does.
        is_not_loaded: the server of the endpoint answers, and has not loaded the target.
    """

    def __init__(
        self,
        kind: ErrorKind,
        reason: str,
        *,
        response: EngineResponse | None = None,
        silent_s: float | None = None,
        public: bool = False,
    ) -> None:
        super().__init__(reason)
        self.kind: ErrorKind = kind
        self.reason = reason
        self.response = response
        self.silent_s = silent_s
        self.public = public
        self.is_callers = False
        self.is_cut = False
        self.is_stall = False
        self.is_not_loaded = False


def read_failure(status: int | None, record: EngineRecord, body: bytes) -> AnswerFailed | None:
    """Return the failure that a part of an answer reports; None if it reports none.

    Args:
        status: of the first part with bytes; None for the others.
        record: what the engine did.
        body: the bytes of the part.
    """
    error = record.error
    if error is not None:
        dead = "EngineDead" in error.name
        kind = "engine_dead" if dead else _KINDS.get(error.source, "engine_failed")
        failure = AnswerFailed(kind, read_message(body) or f"The target failed with {error.name}.")
        failure.is_callers = error.name in _CALLERS or status in _NO_SUCH_TASK
        return failure
    if status not in (None, _OK):
        caller = isinstance(status, int) and FIRST_ERROR_STATUS <= status < _FIRST_SERVER_ERROR_STATUS
        kind = "bad_request" if caller else "engine_failed"
        return AnswerFailed(kind, read_message(body) or f"The engine answered with status {status}.")
    aborted = _ABORTED & set(record.finish_reasons.values())
    return AnswerFailed("engine_failed", "The engine aborted the answer.") if aborted else None


def describe_failure(failure: AnswerFailed) -> str:
    """Return what a caller is told of a failure; what the engine says of its own failures goes to the log only."""
    return _SENTENCES.get(failure.kind, failure.reason) if not failure.public else failure.reason


def read_message(body: bytes) -> str:
    """Return the error message in a JSON body or a server-sent event; empty if there is none."""
    text = body.removeprefix(b"data: ").split(b"\n\n", 1)[0]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    error = value.get("error", value) if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""
