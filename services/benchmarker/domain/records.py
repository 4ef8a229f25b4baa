"""The record of one request of a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["candidate", "baseline"]
SIDES: tuple[Side, Side] = ("candidate", "baseline")

ENGINE_LOST = frozenset({"endpoint_unreachable", "engine_dead"})
"""Kinds of error of a lost engine, independent of the request."""
MAX_LOST_RATIO = 0.01
"""The most requests of the baseline that may be lost before a measurement is void."""


@dataclass(frozen=True)
class RequestRecord:
    """One request, with times in seconds since the start of the load.

    Attributes:
        side: The target that it was sent to.
        pair: Number of the pair; the other side's request of the same pair has the same prompt.
        prompt: Index of the prompt.
        scheduled_s: Planned arrival, fixed before the start of the load.
        sent_s: Time of sending; later than planned only if the load generator itself is late.
        first_s: Time of the first non-empty content; None if there was none.
        last_s: Time of the last content.
        done_s: End of the stream, with an answer or an error.
        input_tokens: Tokens of the prompt, as the engine counts them.
        output_tokens: Tokens generated.
        error: Kind of error (a code, or `timeout`, `empty`, `template`); None if it was answered.
    """

    side: Side
    pair: int
    prompt: int
    scheduled_s: float
    sent_s: float
    first_s: float | None
    last_s: float | None
    done_s: float
    input_tokens: int
    output_tokens: int
    error: str | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Return the time to first token since the *planned* arrival, so that queueing is included."""
        return self._since(self.scheduled_s, self.first_s)

    @property
    def itl_ms(self) -> float | None:
        """Return the mean inter-token latency: (last - first) / (tokens - 1); None below two tokens."""
        between = self._since(self.first_s, self.last_s)
        return between / (self.output_tokens - 1) if between is not None and self.output_tokens > 1 else None

    @property
    def e2e_ms(self) -> float | None:
        """Return the time from the planned arrival to the last content."""
        return self._since(self.scheduled_s, self.last_s)

    @property
    def tps_request(self) -> float | None:
        """Return the output tokens per second of this request, waiting included."""
        whole_ms = self.e2e_ms
        return self.output_tokens / whole_ms * 1000.0 if whole_ms else None

    def _since(self, begin_s: float | None, end_s: float | None) -> float | None:
        if self.error is not None or begin_s is None or end_s is None:
            return None
        return (end_s - begin_s) * 1000.0


def has_lost_baseline(records: Sequence[RequestRecord]) -> bool:
    """Return whether the *baseline's* engine was lost, so that the measurement says nothing about the candidate.

    A candidate that loses its engine fails. Without the baseline there is nothing to compare with, and a failure of
    both points to the machine. At most `MAX_LOST_RATIO` of the requests may be lost if the engine answered afterwards:
    their pairs are left out.
    """
    baseline = [record for record in records if record.side == "baseline"]
    lost_s = [record.done_s for record in baseline if record.error in ENGINE_LOST]
    if not baseline or len(lost_s) > MAX_LOST_RATIO * len(baseline):
        return True
    return bool(lost_s) and not any(record.error is None and record.sent_s > max(lost_s) for record in baseline)


def without_lost_baseline(records: Sequence[RequestRecord]) -> tuple[RequestRecord, ...]:
    """Return the records without requests that the baseline's engine lost: they are no measure for the candidate's."""
    return tuple(record for record in records if record.side == "candidate" or record.error not in ENGINE_LOST)


def describe_lost(records: Sequence[RequestRecord]) -> str:
    """Return the requests that the baseline's engine lost, as text."""
    baseline = [record for record in records if record.side == "baseline"]
    kinds = sorted({str(record.error) for record in baseline if record.error in ENGINE_LOST})
    if not kinds:
        return "no answer before the load"
    lost = sum(record.error in ENGINE_LOST for record in baseline)
    return f"{lost} of {len(baseline)} requests: {', '.join(kinds)}; the limit is {MAX_LOST_RATIO:.0%}"
