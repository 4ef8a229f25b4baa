"""An engine's reports about a request: records that accompany an answer's bytes, and failures.

Records are untrusted: fields of an unexpected type are ignored.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from decisions.evidence.attribution import ErrorKind

LARGEST_COUNT = 2**53
"""Larger counts are ignored: floating-point counters would not be exact."""

_WORD_CHARS = 80
_OK = 200
FIRST_ERROR_STATUS = 400
_FIRST_SERVER_ERROR_STATUS = 500
_ABORTED: Final = frozenset({"abort", "error"})
"""Finish reasons of an answer that the engine aborted."""
REJECTED: Final[frozenset[ErrorKind]] = frozenset({"bad_request", "template_refused"})
"""Failures that the caller must fix in the request."""
_KINDS: Final[Mapping[str, ErrorKind]] = {
    "validation": "bad_request",
    "settings": "bad_request",
    "template_refused": "template_refused",
    "template": "template_failed",
    "deadline": "deadline_exceeded",
}
"""Error kinds by the `source` in the backend's record; other sources are `engine_failed`."""
_NO_SUCH_TASK: Final = frozenset({404, 405})
"""Status codes for a task that the model lacks, such as chat with an embedding model."""
_CALLERS: Final = frozenset({"schema_too_costly", "schemas_busy"})
"""Refusals by the backend that the caller caused: its schemas are too costly."""
_SENTENCES: Final[Mapping[str, str]] = {
    "engine_failed": "The engine failed to answer this request; try again, or change the request.",
    "engine_dead": "The engine ended while it had this request; try again.",
    "endpoint_unreachable": "The engine cannot be reached now; try again.",
    "not_loaded": "The engine cannot be reached now; try again.",
}


@dataclass(frozen=True)
class ReportedFailure:
    """A failure reported by the engine: the exception's class name, and the failing part of the target."""

    name: str
    source: str


_UNREADABLE = ReportedFailure(name="UnreadableRecord", source="")


@dataclass(frozen=True)
class EngineRecord:
    """The engine's progress on a request (see the backend's `openai_record`).

    Attributes:
        input_tokens, output_tokens: totals over all answers so far.
        texts: new texts, as (answer name, text).
        finish_reasons: by answer name, of ended answers.
        queue_ms: time in the engine's queue.
        logprob_mean: mean log-probability of the generated tokens, in nats.
        nan_logits: whether logits contained NaN; None if unknown.
        error: the failure; None without one.
        is_whole: whether the answer arrived in one piece, so that the time of its first token is unknown.
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
    """Return the record in a backend's JSON; a non-finite `logprob_mean` counts as NaN logits."""
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
    """Return whether logits contained NaN, as reported or shown by a non-finite mean; None if unknown."""
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
    """Return a name cut to `_WORD_CHARS` and encodable: an unencodable one fails its telemetry batch."""
    return str(value)[:_WORD_CHARS].encode(errors="replace").decode()


@dataclass(frozen=True)
class EngineResponse:
    """A complete error response of the engine's application."""

    status: int
    content_type: str
    body: bytes


class AnswerFailed(Exception):  # noqa: N818 - it is an outcome of a request
    """A target gave no complete answer.

    Attributes:
        kind: the failure's kind.
        reason: a sentence for people.
        response: the engine's error response; None without one.
        silent_s: seconds of the target's silence, if that was the failure.
        public: whether the caller may read the reason.
        is_callers: whether the caller caused it, so that no fallback is asked.
        is_cut: whether the answer broke off without a report by the engine.
        is_stall: whether the endpoint's server is silent while another answers.
        is_not_loaded: whether the endpoint's server reports the target as not loaded.
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
    """Return the failure that a piece of an answer reports; None if none.

    Args:
        status: HTTP status, in the first piece with bytes; None in others.
        record: the piece's record.
        body: the piece's bytes.
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
    """Return the caller's message of a failure; details of engine failures are only logged."""
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
