"""The ratio of two system throughputs under the same load, with an interval that shows the noise of both."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.facts.staging import RatioInterval
from services.benchmarker.domain.records import RequestRecord

METRIC = "tps_system"
WINDOWS = 10
"""Number of windows: few, so that each is longer than the time for which requests influence each other."""
T_QUANTILE = 2.262
"""97.5 % quantile of Student's t with WINDOWS - 1 degrees of freedom, for a 95 % interval."""

Floats = npt.NDArray[np.float64]
Pair = tuple[RequestRecord, RequestRecord]


def throughput_ratio(pairs: Sequence[Pair]) -> RatioInterval | None:
    """Return the ratio of the tokens that both sides generated until the first of them had generated all of its own.

    Both sides have to generate the same tokens, so the whole of them says nothing; what the slower side has not done
    by then does. The interval comes from batch means (Law, Simulation Modeling and Analysis, ratio estimator): that
    time is cut into windows of equal length, and the variance of the ratio is that of the windows' differences.

    Args:
        pairs: Candidate and baseline of each pair that both sides answered.

    Returns:
        The ratio; None if either side generated nothing in that time, or there is no pair.
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
    differences = candidate / candidate.sum() - baseline / baseline.sum()  # their mean is 0
    error = math.sqrt(float(np.sum(differences**2)) * WINDOWS / (WINDOWS - 1))
    margin = math.exp(T_QUANTILE * error)
    return RatioInterval(metric=METRIC, value=value, low=value / margin, high=value * margin)


def _answers(records: Sequence[RequestRecord]) -> tuple[Floats, Floats, Floats]:
    """Return the times of the first and of the last content of each answer, and its number of tokens."""
    rows = [
        (record.first_s, record.last_s, record.output_tokens)
        for record in records
        if record.first_s is not None and record.last_s is not None
    ]
    first, last, tokens = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return first, last, tokens


def _generated(answers: tuple[Floats, Floats, Floats], edges: Floats) -> Floats:
    """Return the number of tokens generated until each edge; those of an answer come evenly from its first to last."""
    first, last, tokens = answers
    lengths = last - first
    shares = [
        np.where(lengths > 0, np.clip((edge - first) / np.where(lengths > 0, lengths, 1.0), 0.0, 1.0), edge >= last)
        for edge in edges
    ]
    return np.array([float(np.sum(tokens * share)) for share in shares])
