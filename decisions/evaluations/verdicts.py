"""The verdict of an evaluation: its limits, and their tests row by row. Pure."""

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
    """One limit of one bound, about one scorer and one slice.

    Attributes:
        scorer: The label of the scorer.
        slice: The slice; empty for all rows.
        kind: What the bound calls it.
        value: The limit.
        may_be_undecided: Whether the release goes on without a decision.
    """

    scorer: str
    slice: str
    kind: Kind
    value: float
    may_be_undecided: bool = False

    @property
    def threshold(self) -> float:
        """Return the limit on the mean score; for a maximum drop, on the mean difference scaled to 0 to 1."""
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
    """The scores of one row by label of the scorer, None where an answer cannot be parsed."""

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
    """A limit, its test, and the number of rows of the set that it concerns."""

    limit: Limit
    test: LimitTest
    available: int

    @property
    def is_open(self) -> bool:
        """Return whether the test is undecided and the limit has further rows."""
        return self.test.decision == "undecided" and self.test.rows < self.available

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Return the candidate's mean score, or its drop, and a 95 % interval of it; None before the first row."""
        test = self.test
        if test.mean is None:
            return None
        low, high = interval_of_mean(test.mean, test.squares, test.rows)
        if self.limit.kind == "min_value":
            return test.mean, low, high
        return 1.0 - 2.0 * test.mean, 1.0 - 2.0 * high, 1.0 - 2.0 * low


@dataclass(frozen=True)
class Comparison:
    """The limits of an evaluation, and their tests over the rows so far.

    Attributes:
        asks_all: Whether every row is asked, unless a limit is missed; the scores of a possible later anchor
            must not be those of the rows that decided early.
    """

    tested: tuple[Tested, ...]
    asks_all: bool = False

    def wants(self, of_slice: str, scorers: Container[str]) -> bool:
        """Return whether a row of a slice can still decide something; every row, if all are asked."""
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
        """Return `fail` if a limit is missed, `pass` if all are met, `inconclusive` if rows do not suffice."""
        if self._is_missed:
            return "fail"
        decided = all(each.test.decision == "met" or each.limit.may_be_undecided for each in self.tested)
        return "pass" if decided else "inconclusive"


def _figure(limit: Limit, scores: Scores) -> float:
    """Return the figure of a row, from 0 to 1; an answer that cannot be parsed is worth nothing."""
    candidate = scores.candidate.get(limit.scorer) or 0.0
    if limit.kind == "min_value":
        return candidate
    other = scores.active if limit.kind == "max_drop" else scores.anchor
    return (1.0 + candidate - (other.get(limit.scorer) or 0.0)) / 2.0


def list_limits(evaluation: Evaluation, rows: Iterable[tuple[str, Container[str]]]) -> tuple[Limit, ...]:
    """Return every limit of an evaluation of a set, given the slice and the scorers of each row.

    A bound of each slice concerns those in which its scorer has rows.

    Raises:
        ValueError: A bound is about a slice that the set does not have; the message says which there are.
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
        rows: Of each row that may be asked, its slice, the labels of its scorers, and those that scored the anchor.
        alpha: The error probability of each limit: the release's share, by `share_alpha`.
        beta: Of each limit as well. It is not split: a candidate beyond a limit passes only if that very limit is met.
        asks_all: Whether every row is asked, unless a limit is missed.
    """
    tested = []
    for limit in limits:
        available = sum(limit.concerns(*row) for row in rows)
        test = plan_test(limit.threshold, alpha=alpha, beta=beta, rows=max(available, 1))
        tested.append(Tested(limit, test, available))
    return Comparison(tuple(tested), asks_all)


def share_alpha(alpha: float, limits: int) -> float:
    """Return the error probability of each limit: the false-rejection rate `alpha` divided by the number of limits."""
    return alpha / max(limits, 1)


def list_checked(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    """Return scorer and slice (empty: all rows) of each comparison of a served version's check."""
    bounded = [(evaluation.label_of(bound), bound.slice or EACH_SLICE) for bound in evaluation.bounds]
    labels = {label for label, _ in bounded}
    others = [(scorer.label, EACH_SLICE) for scorer in evaluation.scorers if scorer.label not in labels]
    return tuple(dict.fromkeys((label, "" if of == EACH_SLICE else of) for label, of in (*bounded, *others)))


def share_alpha_of_check(declared: Evaluations, schedule: Schedule) -> float:
    """Return a limit's share of `alpha` in one check: `alpha` is divided by a month's checks and their limits."""
    limits = sum(len(list_checked(evaluation)) for evaluation in declared.sets)
    return share_alpha(declared.alpha * min(schedule.every_hours / _MONTH_HOURS, 1.0), limits)
