"""The record of a benchmark request, and the check for a lost baseline engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["candidate", "baseline"]
SIDES: tuple[Side, Side] = ("candidate", "baseline")

ENGINE_LOST = frozenset({"endpoint_unreachable", "engine_dead"})
"""Error codes of a lost engine, whatever the request."""
MAX_LOST_RATIO = 0.01
"""Share of the baseline's requests that may be lost before a measurement is void."""


@dataclass(frozen=True)
class RequestRecord:
    """A request, with times in seconds since the start of the load.

    Attributes:
        side: The target it was sent to.
        pair: Number of its pair; both requests of a pair have the same prompt.
        prompt: Index of the prompt.
        scheduled_s: Planned arrival.
        sent_s: Time of sending; later than planned only if the load generator is late.
        first_s: Time of the first non-empty content; None without content.
        last_s: Time of the last content.
        done_s: End of the stream, with answer or error.
        input_tokens: Prompt tokens as the engine counts them.
        output_tokens: Generated tokens.
        error: Error code, or `timeout`, `empty`, `template`; None if answered.
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
        """Time from the *planned* arrival to the first token, so that queueing counts."""
        return self._since(self.scheduled_s, self.first_s)

    @property
    def itl_ms(self) -> float | None:
        """Mean inter-token latency: (last - first) / (tokens - 1); None below two tokens."""
        between = self._since(self.first_s, self.last_s)
        return between / (self.output_tokens - 1) if between is not None and self.output_tokens > 1 else None

    @property
    def e2e_ms(self) -> float | None:
        """Time from the planned arrival to the last content."""
        return self._since(self.scheduled_s, self.last_s)

    @property
    def tps_request(self) -> float | None:
        """Output tokens per second, including waiting."""
        whole_ms = self.e2e_ms
        return self.output_tokens / whole_ms * 1000.0 if whole_ms else None

    def _since(self, begin_s: float | None, end_s: float | None) -> float | None:
        if self.error is not None or begin_s is None or end_s is None:
            return None
        return (end_s - begin_s) * 1000.0


def has_lost_baseline(records: Sequence[RequestRecord]) -> bool:
    """Return whether the *baseline's* engine was lost, so that the measurement shows nothing about the candidate.

    A lost candidate fails; without the baseline there is no comparison, and if both are lost the machine may be at
    fault. Up to `MAX_LOST_RATIO` of the requests may be lost if the engine answered afterwards; their pairs are
    omitted.
    """
    baseline = [record for record in records if record.side == "baseline"]
    lost_s = [record.done_s for record in baseline if record.error in ENGINE_LOST]
    if not baseline or len(lost_s) > MAX_LOST_RATIO * len(baseline):
        return True
    return bool(lost_s) and not any(record.error is None and record.sent_s > max(lost_s) for record in baseline)


def without_lost_baseline(records: Sequence[RequestRecord]) -> tuple[RequestRecord, ...]:
    """Return the records without requests lost by the baseline's engine, which would distort its figures."""
    return tuple(record for record in records if record.side == "candidate" or record.error not in ENGINE_LOST)


def describe_lost(records: Sequence[RequestRecord]) -> str:
    """Describe the requests that the baseline's engine lost."""
    baseline = [record for record in records if record.side == "baseline"]
    kinds = sorted({str(record.error) for record in baseline if record.error in ENGINE_LOST})
    if not kinds:
        return "no answer before the load"
    lost = sum(record.error in ENGINE_LOST for record in baseline)
    return f"{lost} of {len(baseline)} requests: {', '.join(kinds)}; the limit is {MAX_LOST_RATIO:.0%}"
