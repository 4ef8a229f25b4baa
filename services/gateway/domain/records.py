"""An engine's reports about a request: records that come with an answer's bytes, and failures of its target.

They are read without trust: what has another form than expected is left out.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from decisions.evidence.attribution import ErrorKind

LARGEST_COUNT = 2**53
"""A count or a figure from here on is not believed: counters are floating-point numbers, and would not be exact."""

_WORD_CHARS = 80
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


@dataclass(frozen=True)
class ReportedFailure:
    """A failure as the engine reports it: the class of the exception, and the part of the target that it came from."""

    name: str
    source: str


_UNREADABLE = ReportedFailure(name="UnreadableRecord", source="")


@dataclass(frozen=True)
class EngineRecord:
    """The engine's work for a request (see the backend's `openai_record`).

    Attributes:
        input_tokens, output_tokens: of all answers of the request, so far.
        texts: new texts, each with the name of its answer.
        finish_reasons: of the answers that ended.
        queue_ms: time in the engine's queue.
        logprob_mean: mean log-probability of the generated tokens, in nats.
        nan_logits: whether the engine met a NaN; None if it does not check, or has computed nothing yet.
        error: a failure.
        is_whole: the answer came at once, and when its first token was generated is not known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    texts: tuple[tuple[str, str], ...] = ()
    finish_reasons: Mapping[str, str] = field(default_factory=dict)
    queue_ms: float | None = None
    logprob_mean: float | None = None
    nan_logits: bool | None = None
    error: ReportedFailure | None = None
    is_whole: bool = False


def read_record(raw: Any) -> EngineRecord:
    """Return a record; a number that is not finite counts as NaN logits, not as a figure."""
    if not isinstance(raw, Mapping):
        return EngineRecord(error=_UNREADABLE)
    reasons, mean, error = raw.get("finish_reasons"), raw.get("logprob_mean"), raw.get("error")
    return EngineRecord(
        input_tokens=_read_count(raw.get("prompt_tokens")),
        output_tokens=_read_count(raw.get("output_tokens")),
        texts=tuple(_read_texts(raw.get("texts"))),
        finish_reasons={str(name): _read_word(reason) for name, reason in reasons.items()}
        if isinstance(reasons, Mapping)
        else {},
        queue_ms=_read_number(raw.get("queue_ms"), low=0.0),
        logprob_mean=_read_number(mean, high=0.0),
        nan_logits=_read_nan(raw.get("nan_logits"), mean),
        error=None if not error else _read_error(error),
        is_whole=raw.get("is_whole") is True,
    )


def _read_count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST_COUNT else 0


def _read_number(value: Any, *, low: float = -math.inf, high: float = math.inf) -> float | None:
    if isinstance(value, int) and abs(value) >= LARGEST_COUNT:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(float(value), low), high)


def _read_nan(noted: Any, mean: Any) -> bool | None:
    """Return whether the engine met a NaN, also shown by a mean that is not finite; None if unknown."""
    if isinstance(mean, float) and not math.isfinite(mean):
        return True
    return noted if isinstance(noted, bool) else None


def _read_texts(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        return []
    return [
        (item[0], item[1])
        for item in value
        if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], str)
    ]


def _read_error(value: Any) -> ReportedFailure:
    if not isinstance(value, Mapping):
        return _UNREADABLE
    return ReportedFailure(_read_word(value.get("class")), _read_word(value.get("source")))


def _read_word(value: Any) -> str:
    """Return a name shortened and encodable, as an unencodable one would fail a whole batch of telemetry."""
    return str(value)[:_WORD_CHARS].encode(errors="replace").decode()


@dataclass(frozen=True)
class EngineResponse:
    """A complete response of the engine's application, with an error status."""

    status: int
    content_type: str
    body: bytes


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
    """Return the message of a failure for the caller; details of engine failures go to the log only."""
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
