"""Limits of an evaluation, their tests over rows, and the verdict. Pure."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from contracts.evaluations import EACH_SLICE, Bound, Evaluation, Evaluations, Schedule
from contracts.vocabulary import Verdict
from decisions.evaluations.limit_tests import LimitTest, plan_test

Kind = Literal["min_value", "max_drop", "max_drop_from_anchor"]
KINDS: Final[tuple[Kind, ...]] = ("min_value", "max_drop", "max_drop_from_anchor")
_NORMAL_95: Final = 1.96
_MONTH_HOURS: Final = 730.0


class Limit(NamedTuple):
    """A limit of a bound for one scorer and slice.

    Attributes:
        scorer: Label of the scorer.
        slice: Empty for all rows.
        kind: Field of the bound.
        may_be_undecided: Whether the release continues without a decision.
    """

    scorer: str
    slice: str
    kind: Kind
    value: float
    may_be_undecided: bool = False

    @property
    def threshold(self) -> float:
        """Return the limit of the mean score; for a maximum drop, of the mean difference scaled to 0 to 1."""
        return self.value if self.kind == "min_value" else (1.0 - self.value) / 2.0

    @property
    def margin(self) -> float:
        """Return the distance between the limit and a perfect figure: a score of 1, or no drop."""
        return 1.0 - self.value if self.kind == "min_value" else self.value

    def concerns(self, of_slice: str, scorers: Container[str], anchored: Container[str]) -> bool:
        """Return whether the limit concerns a row, given its slice, its scorers, and the anchor's scorers."""
        known = self.kind != "max_drop_from_anchor" or self.scorer in anchored
        return self.slice in ("", of_slice) and self.scorer in scorers and known


class Scores(NamedTuple):
    """The scores of a row by label of the scorer; None if an answer cannot be parsed."""

    candidate: Mapping[str, float | None]
    active: Mapping[str, float | None]
    anchor: Mapping[str, float | None] = MappingProxyType({})


def interval_of_mean(mean: float, squares: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean of figures from 0 to 1.

    Args:
        mean: The mean of the figures.
        squares: The sum of the squares of the figures.
        rows: The number of figures.
    """
    variance = max(0.0, squares / rows - mean**2)
    # two rows are added, one at each end, so that equal figures do not seem exact
    spread = _NORMAL_95 * math.sqrt((variance * rows + 0.5) / (rows + 2.0) / rows)
    return max(0.0, mean - spread), min(1.0, mean + spread)


@dataclass(frozen=True)
class Tested:
    """A limit, its test, and the number of available rows."""

    limit: Limit
    test: LimitTest
    available: int

    @property
    def is_open(self) -> bool:
        """Return whether the test is undecided and the limit has further rows."""
        return self.test.decision == "undecided" and self.test.rows < self.available

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Return the candidate's mean score or drop with its 95 % interval; None before the first row."""
        test = self.test
        if test.mean is None:
            return None
        low, high = interval_of_mean(test.mean, test.squares, test.rows)
        if self.limit.kind == "min_value":
            return test.mean, low, high
        return 1.0 - 2.0 * test.mean, 1.0 - 2.0 * high, 1.0 - 2.0 * low


@dataclass(frozen=True)
class Comparison:
    """The tests of an evaluation's limits over the rows so far.

    Attributes:
        asks_all: Whether all rows are asked, unless a limit is missed, so that an anchor has scores of all rows.
    """

    tested: tuple[Tested, ...]
    asks_all: bool = False

    def wants(self, of_slice: str, scorers: Container[str]) -> bool:
        """Return whether a row of a slice can contribute to a decision, or all rows are asked."""
        return self._asks_all or any(
            each.is_open and each.limit.concerns(of_slice, scorers, scorers) for each in self.tested
        )

    def observe(self, of_slice: str, scores: Scores) -> "Comparison":
        """Return the comparison after one more row."""
        return replace(
            self,
            tested=tuple(
                replace(each, test=each.test.observe(_figure(each.limit, scores)))
                if each.limit.concerns(of_slice, scores.candidate, scores.anchor)
                else each
                for each in self.tested
            ),
        )

    @property
    def is_open(self) -> bool:
        """Return whether further rows are to be asked."""
        return self._asks_all or any(each.is_open for each in self.tested)

    @property
    def _asks_all(self) -> bool:
        return not self.tested or (self.asks_all and not self._is_missed)

    @property
    def _is_missed(self) -> bool:
        return any(each.test.decision == "missed" for each in self.tested)

    @property
    def verdict(self) -> Verdict:
        """Return `fail` if a limit is missed, `pass` if all are met, else `inconclusive`."""
        if self._is_missed:
            return "fail"
        decided = all(each.test.decision == "met" or each.limit.may_be_undecided for each in self.tested)
        return "pass" if decided else "inconclusive"


def _figure(limit: Limit, scores: Scores) -> float:
    """Return the figure of a row, from 0 to 1; answers that cannot be parsed count as 0."""
    candidate = scores.candidate.get(limit.scorer) or 0.0
    if limit.kind == "min_value":
        return candidate
    other = scores.active if limit.kind == "max_drop" else scores.anchor
    return (1.0 + candidate - (other.get(limit.scorer) or 0.0)) / 2.0


def list_limits(evaluation: Evaluation, rows: Iterable[tuple[str, Container[str]]]) -> tuple[Limit, ...]:
    """Return the limits of an evaluation, given the slice and the scorers of each row.

    A bound of each slice limits the slices in which its scorer has rows.

    Raises:
        ValueError: The set has no slice of a bound; the message lists its slices.
    """
    scored = [(name, scorers) for name, scorers in rows if name]
    limits: list[Limit] = []
    for bound in evaluation.bounds:
        for name in _slices_of(evaluation, bound, scored):
            for kind in KINDS:
                value = getattr(bound, kind)
                if value is not None:
                    may = bound.undecided == "continue"
                    limits.append(Limit(evaluation.label_of(bound), name, kind, value, may))
    return tuple(limits)


def _slices_of(evaluation: Evaluation, bound: Bound, rows: Sequence[tuple[str, Container[str]]]) -> Sequence[str]:
    if bound.slice is None:
        return ("",)
    names = sorted({name for name, _ in rows})
    if bound.slice == EACH_SLICE and names:
        label = evaluation.label_of(bound)
        names = sorted({name for name, scorers in rows if label in scorers})
        if names:
            return names
        raise ValueError(
            f"a bound of {evaluation.name!r} is about each slice, and {label} scores rows of none: give its rows a "
            "slice, or leave slice out"
        )
    if bound.slice not in names:
        there = f"there are {', '.join(names)}" if names else "its rows name none"
        raise ValueError(f"a bound of {evaluation.name!r} is about the slice {bound.slice!r} of the set; {there}")
    return (bound.slice,)


def plan_comparison(
    limits: Sequence[Limit],
    rows: Sequence[tuple[str, Container[str], Container[str]]],
    *,
    alpha: float,
    beta: float,
    asks_all: bool = False,
) -> Comparison:
    """Return the comparison before any row.

    Args:
        limits: The limits of one evaluation.
        rows: Slice, scorer labels and the anchor's scorer labels of each available row.
        alpha: Probability that each limit is found missed if it is met (`share_alpha`).
        beta: Probability that each limit is found met if it is missed; not split over limits, because a candidate
            beyond a limit passes only if that limit is found met.
        asks_all: Whether all rows are asked, unless a limit is missed.
    """
    tested = []
    for limit in limits:
        available = sum(limit.concerns(*row) for row in rows)
        test = plan_test(limit.threshold, alpha=alpha, beta=beta, rows=max(available, 1))
        tested.append(Tested(limit, test, available))
    return Comparison(tuple(tested), asks_all)


def share_alpha(alpha: float, limits: int) -> float:
    """Return the share of the error probability `alpha` of each limit."""
    return alpha / max(limits, 1)


def list_checked(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """Return scorer and slice (empty: all rows) of each comparison in a check of a served version."""
    bounded = [(evaluation.label_of(bound), bound.slice or EACH_SLICE) for bound in evaluation.bounds]
    labels = {label for label, _ in bounded}
    others = [(scorer.label, EACH_SLICE) for scorer in evaluation.scorers if scorer.label not in labels]
    return tuple(dict.fromkeys((label, "" if of == EACH_SLICE else of) for label, of in (*bounded, *others)))


def share_alpha_of_check(declared: Evaluations, schedule: Schedule) -> float:
    """Return the share of `alpha` of a limit in one check, divided by the checks of a month and their limits."""
    limits = sum(len(list_checked(evaluation)) for evaluation in declared.sets)
    return share_alpha(declared.alpha * min(schedule.every_hours / _MONTH_HOURS, 1.0), limits)
