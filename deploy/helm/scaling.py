"""Thresholds of autoscaling, from service times that were measured (docs/benchmarks.md, docs/scale.md, `make demo`)."""

from dataclasses import dataclass
from typing import Any, Final

from contracts.facts import Fact, InferenceBatch, ReleaseOpened, VariantRequested, VariantStaged
from contracts.services import durable_name, stream_of


@dataclass(frozen=True)
class MeasuredWork:
    """What one replica of a service takes for one message, and how long a message may wait for it.

    Attributes:
        fact: The messages whose consumer is looked at.
        service_s: Seconds that one replica was measured to take for one of them.
        wait_s: Seconds that the last of those waiting may wait.
        why: Where `service_s` is from.
    """

    fact: type[Fact]
    service_s: float
    wait_s: float
    why: str

    @property
    def lag(self) -> int:
        """Return how many messages one replica works off within the wait; at least one."""
        return max(1, int(self.wait_s / self.service_s))


SCALED: Final[dict[str, MeasuredWork]] = {
    "merger": MeasuredWork(ReleaseOpened, 29.6 + 40.1, 300, "3.05 GB on two cores: 29.6 s to merge, 40.1 s to verify"),
    "quantiser": MeasuredWork(VariantRequested, 211, 600, "GPTQ of SmolLM2-135M on two cores: 211 s"),
    "benchmarker": MeasuredWork(VariantStaged, 27, 30, "`make demo`: 26 s and 27 s for its two versions"),
    "monitor": MeasuredWork(InferenceBatch, 500 / 5_418, 5, "5,418 records/s (docs/scale.md), 500 in a full message"),
}
"""Services that scale by the lag of a consumer."""


def consumers() -> dict[str, dict[str, Any]]:
    """Return stream and durable consumer of each service that scales by lag."""
    return {
        name: {"stream": stream_of(work.fact), "consumer": durable_name(name, work.fact)}
        for name, work in SCALED.items()
    }
