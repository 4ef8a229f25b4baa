"""Drift of features: two-sample Kolmogorov-Smirnov per column, Holm over the columns, an effect-size floor."""

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from contracts.vocabulary import Contract

EXACT_PRODUCT = 1_000_000
"""Up to this product of the sample sizes the p-value is counted exactly; beyond, Kolmogorov's limit is close."""
DEFAULT_ALPHA = 0.001
DEFAULT_FLOOR = 0.1
RESAMPLES = 200

Columns = Mapping[str, Sequence[float]]


class ColumnDrift(Contract):
    """The comparison of one column: its distance, its p-value, and its threshold."""

    column: str
    statistic: float
    p_value: float
    adjusted_p_value: float
    floor: float
    drifted: bool


class DriftVerdict(Contract):
    """All columns compared."""

    alpha: float
    current_rows: int
    columns: tuple[ColumnDrift, ...]

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The columns that drifted, the farthest first."""
        return tuple(sorted((column for column in self.columns if column.drifted), key=lambda item: -item.statistic))


def ks_statistic(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the largest distance between two samples' distribution functions."""
    first_sorted, second_sorted = sorted(first), sorted(second)
    points = sorted({*first_sorted, *second_sorted})
    return max(
        abs(bisect_right(first_sorted, point) / len(first) - bisect_right(second_sorted, point) / len(second))
        for point in points
    )


def ks_p_value(statistic: float, first: int, second: int) -> float:
    """Return the two-sided p-value of a distance between samples of these sizes, as for samples without ties."""
    if first * second > EXACT_PRODUCT:
        return _limit_p_value(statistic * math.sqrt(first * second / (first + second)))
    return _exact_p_value(statistic, min(first, second), max(first, second))


def _exact_p_value(statistic: float, rows: int, columns: int) -> float:
    """Count the lattice paths that stay within the distance (Hodges 1957), as probabilities."""
    bound = (math.floor(statistic * rows * columns - 1e-7) + 0.5) / (rows * columns)
    inside = [0.0 if column / columns > bound else 1.0 for column in range(columns + 1)]
    for row in range(1, rows + 1):
        weight, level = row / (row + columns), row / rows
        inside[0] = 0.0 if level > bound else weight * inside[0]
        for column in range(1, columns + 1):
            if abs(level - column / columns) > bound:
                inside[column] = 0.0
            else:
                inside[column] = weight * inside[column] + inside[column - 1]
    return min(max(1.0 - inside[columns], 0.0), 1.0)


def _limit_p_value(scaled: float) -> float:
    if scaled < 0.2:  # the series below needs thousands of terms there, and the answer is 1
        return 1.0
    terms = (2.0 * (-1.0) ** (k - 1) * math.exp(-2.0 * k * k * scaled * scaled) for k in range(1, 101))
    return min(max(math.fsum(terms), 0.0), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, which controls the family-wise error rate."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def calibrate(reference: Columns, rows: int, *, seed: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """Return, per column, the largest distance between resamples of the reference: distances that occur without drift.

    Both sides are drawn anew, of the sizes that will be compared, so that ties and heavy tails are as in the data.
    """
    draw = random.Random(seed)  # noqa: S311 - a seeded resampling, the same for the same reference
    distances = {}
    for name, values in reference.items():
        sample = list(values)
        distances[name] = max(
            ks_statistic(draw.choices(sample, k=len(sample)), draw.choices(sample, k=rows)) for _ in range(resamples)
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
    """Compare the columns that both sides have; a column drifted when it is both surprising and far enough away."""
    names = sorted(name for name in reference if reference[name] and current.get(name))
    distances = [ks_statistic(reference[name], current[name]) for name in names]
    p_values = [
        ks_p_value(distance, len(reference[name]), len(current[name]))
        for name, distance in zip(names, distances, strict=True)
    ]
    columns = []
    for name, distance, p_value, adjusted in zip(names, distances, p_values, holm(p_values), strict=True):
        needed = max(floor, floors.get(name, 0.0))
        columns.append(
            ColumnDrift(
                column=name,
                statistic=distance,
                p_value=p_value,
                adjusted_p_value=adjusted,
                floor=needed,
                drifted=adjusted <= alpha and distance > needed,
            )
        )
    return DriftVerdict(
        alpha=alpha,
        current_rows=max((len(current[name]) for name in names), default=0),
        columns=tuple(columns),
    )
