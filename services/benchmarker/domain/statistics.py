"""Figures from records: means, quantiles of large enough samples, throughput and goodput."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contracts.facts import Statistics
from contracts.facts.staging import NaturalAnswers, SideSummary
from contracts.policy import MetricGate, Statistic
from contracts.vocabulary import Target
from services.benchmarker.domain.records import RequestRecord

QUANTILES: dict[Statistic, float] = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
MIN_COUNT: dict[Statistic, int] = {"mean": 1, "p50": 1, "p95": 20, "p99": 100}
"""Minimum sample size by statistic, so that one observation is expected beyond a tail quantile (n (1-q) >= 1).

The quantile of a smaller sample would be its maximum.
"""


@dataclass(frozen=True)
class Slo:
    """Limits for goodput; a request must meet all that are set."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None
    tps_request: float | None = None

    def is_met(self, record: RequestRecord) -> bool:
        """Return whether a request was answered within every limit."""
        if record.error is not None:
            return False
        upper = ((record.ttft_ms, self.ttft_ms), (record.itl_ms, self.itl_ms), (record.e2e_ms, self.e2e_ms))
        within = all(limit is None or value is None or value <= limit for value, limit in upper)
        speed = record.tps_request
        return within and (self.tps_request is None or speed is None or speed >= self.tps_request)


def slo_of(gates: Iterable[MetricGate]) -> Slo:
    """Return the goodput limits: the tightest absolute bound of the gates per metric."""
    limits: dict[str, float] = {}
    for gate in gates:
        if gate.metric in ("ttft_ms", "itl_ms", "e2e_ms") and gate.max_value is not None:
            limits[gate.metric] = min(gate.max_value, limits.get(gate.metric, math.inf))
        if gate.metric == "tps_request" and gate.min_value is not None:
            limits[gate.metric] = max(gate.min_value, limits.get(gate.metric, -math.inf))
    return Slo(**limits)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return a quantile of a sorted, non-empty sample by linear interpolation."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    return low + (high - low) * (position - below)


def describe(values: Iterable[float | None]) -> Statistics:
    """Return mean and quantiles of the values other than None, as far as the sample allows."""
    ordered = sorted(value for value in values if value is not None)
    count = len(ordered)
    if count == 0:
        return Statistics(count=0)
    quantiles = {name: quantile(ordered, q) for name, q in QUANTILES.items() if count >= MIN_COUNT[name]}
    return Statistics(count=count, mean=math.fsum(ordered) / count, **quantiles)


def span_s(records: Sequence[RequestRecord]) -> float:
    """Return the seconds from the first planned arrival to the last end."""
    if not records:
        return 0.0
    return max(record.done_s for record in records) - min(record.scheduled_s for record in records)


def summarise(
    target: Target, records: Sequence[RequestRecord], slo: Slo, natural: NaturalAnswers | None = None
) -> SideSummary:
    """Summarise one side: latencies of answered requests, errors, throughput and goodput."""
    seconds = span_s(records)
    answered = [record for record in records if record.error is None]
    tokens = sum(record.output_tokens for record in answered)
    good = sum(slo.is_met(record) for record in answered)
    return SideSummary(
        target=target,
        requests=len(records),
        errors=len(records) - len(answered),
        ttft_ms=describe(record.ttft_ms for record in answered),
        itl_ms=describe(record.itl_ms for record in answered),
        e2e_ms=describe(record.e2e_ms for record in answered),
        tps_request=describe(record.tps_request for record in answered),
        tps_system=tokens / seconds if seconds > 0 else 0.0,
        output_tokens=tokens,
        goodput_rps=good / seconds if seconds > 0 else 0.0,
        natural=natural,
    )
