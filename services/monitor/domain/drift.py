"""Drift of features: two-sample Kolmogorov-Smirnov per column, Holm over the columns, an effect-size floor."""

import random
from collections.abc import Mapping, Sequence

from contracts.vocabulary import Contract

DEFAULT_ALPHA = 0.001
DEFAULT_FLOOR = 0.1
RESAMPLES = 200

Columns = Mapping[str, Sequence[float]]


class ColumnDrift(Contract):
    """The comparison of one column: distance (`statistic`), p-value, and minimum distance (`floor`)."""

    column: str
    statistic: float
    p_value: float
    floor: float
    drifted: bool


class DriftVerdict(Contract):
    """The comparison of all columns."""

    alpha: float
    current_rows: int
    columns: tuple[ColumnDrift, ...]

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The drifted columns, the largest distance first."""
        return tuple(sorted((column for column in self.columns if column.drifted), key=lambda item: -item.statistic))


def compare_samples(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the two-sample Kolmogorov-Smirnov statistic, and its two-sided p-value."""
    from scipy.stats import ks_2samp  # takes most of a second

    result = ks_2samp(first, second)
    return float(result.statistic), float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method (family-wise error rate)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def calibrate(reference: Columns, rows: int, *, seed: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """Return, per column, the largest distance between bootstrap resamples of the reference, as occurs without drift.

    Both sides have the sizes of the later comparison, so that ties and heavy tails are as in the data.
    """
    draw = random.Random(seed)  # noqa: S311 - a seeded resampling, the same for the same reference
    distances = {}
    for name, values in reference.items():
        sample = list(values)
        distances[name] = max(
            compare_samples(draw.choices(sample, k=len(sample)), draw.choices(sample, k=rows))[0]
            for _ in range(resamples)
        )
    return distances


def assess_drift(
    reference: Columns,
    current: Columns,
    *,
    floors: Mapping[str, float],
    alpha: float = DEFAULT_ALPHA,
    floor: float = DEFAULT_FLOOR,
) -> DriftVerdict:
    """Compare the common columns; drifted: adjusted p-value ≤ `alpha`, distance > `floor` and > its `floors`."""
    names = sorted(name for name in reference if reference[name] and current.get(name))
    compared = [compare_samples(reference[name], current[name]) for name in names]
    columns = []
    adjusted_p_values = holm([p_value for _, p_value in compared])
    for name, (distance, p_value), adjusted in zip(names, compared, adjusted_p_values, strict=True):
        needed = max(floor, floors.get(name, 0.0))
        columns.append(
            ColumnDrift(
                column=name,
                statistic=distance,
                p_value=p_value,
                floor=needed,
                drifted=adjusted <= alpha and distance > needed,
            )
        )
    return DriftVerdict(
        alpha=alpha,
        current_rows=max((len(current[name]) for name in names), default=0),
        columns=tuple(columns),
    )
