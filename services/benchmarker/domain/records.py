"""What happened to one request of a benchmark."""

from dataclasses import dataclass
from typing import Literal

Side = Literal["candidate", "baseline"]
SIDES: tuple[Side, Side] = ("candidate", "baseline")

DISTURBED = frozenset({"endpoint_unreachable", "engine_dead"})
"""Kinds of error that say the engine is gone, whatever was asked of it."""


@dataclass(frozen=True)
class RequestRecord:
    """One request, its instants in seconds since the load began.

    Attributes:
        side: Which of the two targets it went to.
        pair: Number of the pair; the other side's request of the same pair has the same prompt.
        prompt: Index of the prompt.
        scheduled_s: When it was to arrive, decided before the load began.
        sent_s: When it was sent; later than scheduled only when the load generator itself is late.
        first_s: When its first non-empty content came; None when none came.
        last_s: When its last content came.
        done_s: When the stream ended, with an answer or an error.
        input_tokens: Tokens of the prompt, as the engine counts them.
        output_tokens: Tokens generated.
        error: Kind of error (a code, or `timeout`, `empty`, `template`); None when it was answered.
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
        """Time to first token from the *scheduled* arrival, so that queueing is never omitted."""
        return self._since(self.scheduled_s, self.first_s)

    @property
    def send_ttft_ms(self) -> float | None:
        """Time to first token from the send; differs from `ttft_ms` by the load generator's own lateness."""
        return self._since(self.sent_s, self.first_s)

    @property
    def itl_ms(self) -> float | None:
        """Mean inter-token latency: (last - first) / (tokens - 1); None below two tokens."""
        between = self._since(self.first_s, self.last_s)
        return between / (self.output_tokens - 1) if between is not None and self.output_tokens > 1 else None

    @property
    def e2e_ms(self) -> float | None:
        """Time from the scheduled arrival to the last content."""
        return self._since(self.scheduled_s, self.last_s)

    @property
    def tps_request(self) -> float | None:
        """Output tokens per second as this caller saw them, waiting included."""
        whole_ms = self.e2e_ms
        return self.output_tokens / whole_ms * 1000.0 if whole_ms else None

    def _since(self, begin_s: float | None, end_s: float | None) -> float | None:
        if self.error is not None or begin_s is None or end_s is None:
            return None
        return (end_s - begin_s) * 1000.0


def is_disturbed(records: tuple[RequestRecord, ...]) -> bool:
    """Return whether the measurement says nothing about the candidate: the *baseline's* engine went away.

    A candidate that loses its engine is a finding. Losing the yardstick is not, whatever became of the candidate
    meanwhile: what takes down both is the machine.
    """
    return any(record.side == "baseline" and record.error in DISTURBED for record in records)
