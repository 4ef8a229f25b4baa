"""Sequential tests of whether a mean is within a limit.

The figure y of each row lies between 0 and 1; the limit is a threshold p that its mean must reach. Two e-processes
observe y and, mirrored, 1 - y and 1 - p:

| test | null hypothesis | rejected |
|---|---|---|
| `within` | the mean is p at most | met, with error probability `beta` |
| `beyond` | the mean is p at least | missed, with error probability `alpha` |

Each is the mean over stakes c of the products of 1 + c * (y - p) / p. It exceeds 1/level at any time with probability
at most the level (Ville's inequality), so that it may be examined after every row. The order of rows must be drawn
before they are scored. Stakes depend on the number of rows: 50 rows can only show a large difference, which small
stakes would not find.

For paired scores in [0, 1] the figure is (1 + candidate - other) / 2, and the threshold (1 - greatest drop) / 2.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024).
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

Decision = Literal["met", "missed", "undecided"]
MULTIPLES: Final = (0.5, 1.0, 2.5, 6.0)
GREATEST_STAKE: Final = 0.95
_VARIANCE: Final = 0.06
"""Variance of the figures of pairs, one in four of which differs; stakes need not be exact."""


@dataclass(frozen=True)
class Bet:
    """An e-process: logarithms of its products by stake; `is_won` once it exceeded 1/level."""

    threshold: float
    level: float
    stakes: tuple[float, ...]
    logs: tuple[float, ...]
    is_won: bool = False

    @property
    def log_e(self) -> float:
        """Return the logarithm of the e-value."""
        top = max(self.logs)
        return top + math.log(math.fsum(math.exp(log - top) for log in self.logs) / len(self.logs))

    def observe(self, figure: float) -> "Bet":
        """Return the bet after one more figure."""
        edge = (figure - self.threshold) / self.threshold
        logs = tuple(log + math.log1p(stake * edge) for stake, log in zip(self.stakes, self.logs, strict=True))
        seen = replace(self, logs=logs)
        return replace(seen, is_won=True) if seen.log_e >= -math.log(self.level) else seen

    def estimate_more(self, rows: int) -> float:
        """Return the further rows to win at the present rate; infinity if never."""
        best = max(self.logs)
        missing = math.log(len(self.logs) / self.level) - best
        return missing * rows / best if best > 0.0 else math.inf


def plan_bet(threshold: float, level: float, rows: int) -> Bet:
    """Return the bet that a mean is above a threshold, for at most `rows` rows."""
    edge = math.sqrt(2.0 * _VARIANCE * -math.log(level) / rows)
    stake = edge / (_VARIANCE + edge * edge) * threshold
    stakes = tuple(min(multiple * stake, GREATEST_STAKE) for multiple in MULTIPLES)
    return Bet(threshold, level, stakes, (0.0,) * len(stakes))


@dataclass(frozen=True)
class LimitTest:
    """The test of a limit over rows.

    Attributes:
        rows: Number of observed rows.
        total, squares: Sums of their figures and of the squares.
    """

    within: Bet
    beyond: Bet
    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def decision(self) -> Decision:
        """Return the result so far."""
        if self.beyond.is_won:
            return "missed"
        return "met" if self.within.is_won else "undecided"

    @property
    def mean(self) -> float | None:
        """Return the mean of the figures; None without a row."""
        return self.total / self.rows if self.rows else None

    def observe(self, figure: float) -> "LimitTest":
        """Return the test after one more row; a decided test stays unchanged."""
        if self.decision != "undecided":
            return self
        return LimitTest(
            within=self.within.observe(figure),
            beyond=self.beyond.observe(1.0 - figure),
            rows=self.rows + 1,
            total=self.total + figure,
            squares=self.squares + figure * figure,
        )

    def estimate_more(self) -> int | None:
        """Return the estimated further rows until a decision; None if never at the present rate."""
        if self.decision != "undecided" or not self.rows:
            return 0 if self.decision != "undecided" else None
        more = min(self.within.estimate_more(self.rows), self.beyond.estimate_more(self.rows))
        return math.ceil(more) if more < math.inf else None


def plan_test(threshold: float, *, alpha: float, beta: float, rows: int) -> LimitTest:
    """Return the test of a limit on at most `rows` rows."""
    return LimitTest(plan_bet(threshold, beta, rows), plan_bet(1.0 - threshold, alpha, rows))


def usual_rows(margin: float, beta: float) -> int:
    """Return the rows by which 90 % of equal candidates are found within a limit, if 10 % of answers differ.

    With the figures' variance of 0.025 the e-process grows by margin^2 / (8 * variance + 2 * margin^2) per row on
    average; nine in ten candidates need less than twice the mean number of rows.
    """
    growth = margin * margin / (8.0 * 0.025 + 2.0 * margin * margin)
    return math.ceil(2.0 * math.log(len(MULTIPLES) / beta) / growth)


def least_rows_of_loss(margin: float, alpha: float, score: float = 1.0) -> float:
    """Return the rows that show a fall of the mean score from `score` to 0 to be more than a margin.

    Rows are right or wrong, and only the greatest stake counts; infinity if no number of rows suffices.
    """
    threshold = (1.0 + margin) / 2.0
    lost, kept = (math.log1p(GREATEST_STAKE * (figure / threshold - 1.0)) for figure in (1.0, 0.5))
    growth = score * lost + (1.0 - score) * kept
    return math.ceil(math.log(len(MULTIPLES) / alpha) / growth) if growth > 0.0 else math.inf


def least_rows(margin: float, beta: float) -> int:
    """Return the fewest rows that show a figure within a limit if every row is right."""
    return math.ceil(math.log(beta) / math.log1p(-margin))
