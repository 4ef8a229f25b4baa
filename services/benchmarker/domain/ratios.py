"""Ratios of candidate to baseline, with intervals: by bootstrap over pairs, of throughput by batch means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.facts.staging import RatioInterval
from contracts.policy import Statistic
from services.benchmarker.domain.records import RequestRecord
from services.benchmarker.domain.statistics import MIN_COUNT, QUANTILES
from services.benchmarker.domain.throughput import Pair, throughput_ratio

MIN_PAIRS = 20
"""Least number of pairs for an interval; a bootstrap of fewer is not reliable."""
RESAMPLES = 2_000
CONFIDENCE = 0.95
_CELLS = 4_000_000  # resampled values in memory at once: about 64 MB

Floats = npt.NDArray[np.float64]

_LATENCIES: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft_ms": lambda record: record.ttft_ms,
    "itl_ms": lambda record: record.itl_ms,
    "e2e_ms": lambda record: record.e2e_ms,
    "tps_request": lambda record: record.tps_request,
}


@dataclass(frozen=True)
class Comparison:
    """Ratios by name (`ttft_ms.p95`), and the number of pairs that both sides answered."""

    pairs: int
    ratios: tuple[RatioInterval, ...]

    def find(self, name: str) -> RatioInterval | None:
        """Return the ratio of a figure; None if there were too few pairs."""
        return next((ratio for ratio in self.ratios if ratio.metric == name), None)


def pairs_needed(statistic: Statistic) -> int:
    """Return the number of pairs that a ratio of this statistic needs."""
    return max(MIN_PAIRS, MIN_COUNT[statistic])


def compare(records: Sequence[RequestRecord], *, seed: int, resamples: int = RESAMPLES) -> Comparison:
    """Return the ratios of the two sides over the pairs that both of them answered.

    Pairs are resampled whole, which keeps their common influences, and in blocks of neighbours (circular block
    bootstrap, length n^(1/3)), because requests that arrive close together wait for each other. The interval is
    the percentile interval at 95 %. The throughput of a side is no mean over requests: see `throughput_ratio`.

    Args:
        records: Requests of both sides.
        seed: Makes the intervals repeatable.
        resamples: Number of bootstrap resamples.
    """
    pairs = _answered_pairs(records)
    ratios: list[RatioInterval] = []
    for metric, read in _LATENCIES.items():
        both = [(read(candidate), read(baseline)) for candidate, baseline in pairs]
        values = np.array([pair for pair in both if None not in pair], dtype=np.float64).reshape(-1, 2)
        for statistic in ("mean", *QUANTILES):
            if len(values) >= pairs_needed(statistic):
                ratios += _ratio(f"{metric}.{statistic}", values, _reducer(statistic), seed, resamples)
    if len(pairs) >= MIN_PAIRS:
        throughput = throughput_ratio(pairs)
        ratios += [throughput] if throughput is not None else []
    return Comparison(pairs=len(pairs), ratios=tuple(ratios))


def _answered_pairs(records: Sequence[RequestRecord]) -> list[Pair]:
    answered = {(record.side, record.pair): record for record in records if record.error is None}
    numbers = sorted({number for _, number in answered})
    return [
        (answered["candidate", number], answered["baseline", number])
        for number in numbers
        if ("candidate", number) in answered and ("baseline", number) in answered
    ]


def _reducer(statistic: Statistic) -> Callable[[Floats], Floats]:
    if statistic == "mean":
        return lambda values: np.asarray(np.mean(values, axis=-1))
    q = QUANTILES[statistic]
    return lambda values: np.asarray(np.quantile(values, q, axis=-1))


def _ratio(
    name: str, values: Floats, reduce: Callable[[Floats], Floats], seed: int, resamples: int
) -> list[RatioInterval]:
    value = _divide(reduce(values[:, 0]), reduce(values[:, 1]))
    drawn = _resample(values, reduce, seed, resamples)
    if not np.isfinite(value) or not np.isfinite(drawn).all():
        return []  # a baseline figure of 0 has no ratio
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return [RatioInterval(metric=name, value=float(value), low=float(low), high=float(high))]


def _divide(candidate: Floats, baseline: Floats) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(candidate, baseline)


def _resample(values: Floats, reduce: Callable[[Floats], Floats], seed: int, resamples: int) -> Floats:
    count = len(values)
    block = max(1, round(count ** (1.0 / 3.0)))
    blocks = -(-count // block)
    rng = np.random.default_rng(seed)
    offsets = np.arange(block)
    drawn: list[Floats] = []
    remaining = resamples
    while remaining > 0:
        rows = min(remaining, max(1, _CELLS // count))
        starts = rng.integers(0, count, size=(rows, blocks, 1))
        indices = ((starts + offsets) % count).reshape(rows, -1)[:, :count]
        drawn.append(_divide(reduce(values[indices, 0]), reduce(values[indices, 1])))
        remaining -= rows
    return np.concatenate(drawn)
