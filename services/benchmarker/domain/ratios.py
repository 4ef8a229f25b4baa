"""Ratios of candidate to baseline with intervals: bootstrap over pairs; batch means for throughput."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.facts.staging import RatioInterval
from contracts.policy import Statistic
from services.benchmarker.domain.records import RequestRecord
from services.benchmarker.domain.statistics import MIN_COUNT, QUANTILES

METRIC = "tps_system"
WINDOWS = 10
"""Windows for batch means: few, so that each is longer than the time over which requests interact."""
T_QUANTILE = 2.262
"""97.5 % quantile of Student's t with WINDOWS - 1 degrees of freedom, for a 95 % interval."""

Floats = npt.NDArray[np.float64]
Pair = tuple[RequestRecord, RequestRecord]


def throughput_ratio(pairs: Sequence[Pair]) -> RatioInterval | None:
    """Return the ratio of tokens that both sides generated before the first side finished.

    Both sides generate the same total, so only the slower side's lag by then is informative. The interval comes from
    batch means (Law, Simulation Modeling and Analysis, ratio estimator): the time is cut into equal windows, whose
    differences give the variance.

    Args:
        pairs: Candidate and baseline record of each pair answered by both sides.

    Returns:
        The ratio; None without pairs, or if a side generated nothing by then.
    """
    sides = [_answers(side) for side in zip(*pairs, strict=True)]
    if not sides:
        return None
    begin = min(record.scheduled_s for pair in pairs for record in pair)
    end = min(float(last.max()) for _, last, _ in sides)
    edges = np.linspace(begin, end, WINDOWS + 1)
    candidate, baseline = (np.diff(_generated(answers, edges)) for answers in sides)
    if not candidate.sum() or not baseline.sum():
        return None
    value = float(candidate.sum() / baseline.sum())
    differences = candidate / candidate.sum() - baseline / baseline.sum()  # with mean 0
    error = math.sqrt(float(np.sum(differences**2)) * WINDOWS / (WINDOWS - 1))
    margin = math.exp(T_QUANTILE * error)
    return RatioInterval(metric=METRIC, value=value, low=value / margin, high=value * margin)


def _answers(records: Sequence[RequestRecord]) -> tuple[Floats, Floats, Floats]:
    """Return each answer's times of first and last content, and its tokens."""
    rows = [
        (record.first_s, record.last_s, record.output_tokens)
        for record in records
        if record.first_s is not None and record.last_s is not None
    ]
    first, last, tokens = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return first, last, tokens


def _generated(answers: tuple[Floats, Floats, Floats], edges: Floats) -> Floats:
    """Return tokens generated until each edge, spread evenly from an answer's first to last content."""
    first, last, tokens = answers
    lengths = last - first
    shares = [
        np.where(lengths > 0, np.clip((edge - first) / np.where(lengths > 0, lengths, 1.0), 0.0, 1.0), edge >= last)
        for edge in edges
    ]
    return np.array([float(np.sum(tokens * share)) for share in shares])


MIN_PAIRS = 20
"""Minimum of pairs for a reliable bootstrap interval."""
RESAMPLES = 2_000
CONFIDENCE = 0.95
_CELLS = 4_000_000  # resampled values in memory: about 64 MB


_LATENCIES: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft_ms": lambda record: record.ttft_ms,
    "itl_ms": lambda record: record.itl_ms,
    "e2e_ms": lambda record: record.e2e_ms,
    "tps_request": lambda record: record.tps_request,
}


@dataclass(frozen=True)
class Comparison:
    """Ratios by metric (`ttft_ms.p95`), and the number of pairs answered by both sides."""

    pairs: int
    ratios: tuple[RatioInterval, ...]

    def find(self, name: str) -> RatioInterval | None:
        """Return a metric's ratio; None if there is none."""
        return next((ratio for ratio in self.ratios if ratio.metric == name), None)


def pairs_needed(statistic: Statistic) -> int:
    """Return the number of pairs for a ratio of this statistic."""
    return max(MIN_PAIRS, MIN_COUNT[statistic])


def compare(records: Sequence[RequestRecord], *, seed: int, resamples: int = RESAMPLES) -> Comparison:
    """Return the ratios over pairs that both sides answered.

    Whole pairs are resampled, to keep common influences, in blocks of neighbours (circular block bootstrap, length
    n^(1/3)), because requests close together interact. Intervals are 95 % percentile intervals. Throughput:
    `throughput_ratio`.

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
        return []  # no ratio to a baseline figure of 0
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
