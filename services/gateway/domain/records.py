"""The records that come with an answer's bytes, read without trust: what has another form than expected is left out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LARGEST_COUNT = 2**53
"""A count or a figure from here on is not believed: counters are floating-point numbers, and would not be exact."""

_WORD_CHARS = 80


@dataclass(frozen=True)
class ReportedFailure:
    """A failure as the engine reports it: the class of the exception, and the part of the target that it came from."""

    name: str
    source: str


_UNREADABLE = ReportedFailure(name="UnreadableRecord", source="")


@dataclass(frozen=True)
class EngineRecord:
    """What the engine did for a request (see the backend's `openai_record`).

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
    """Return whether the engine met a NaN: a mean that is not finite shows one, too; None if nothing is known."""
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
    """Return a name of limited length that can be published: one that cannot would end a whole batch of telemetry."""
    return str(value)[:_WORD_CHARS].encode(errors="replace").decode()
