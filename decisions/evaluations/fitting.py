"""Checks that a set of rows fits an evaluation."""

from collections.abc import Sequence
from typing import Any, Final

from contracts.evaluations import Evaluation, Evaluations, Scorer
from decisions.evaluations.limit_tests import least_rows
from decisions.evaluations.rows import EvaluationRow
from decisions.evaluations.verdicts import Limit, list_limits
from decisions.scorers.scoring import ABSENT, find_problem, needs_expectation

_OF_ANSWERS: Final = frozenset({"equals", "contains", "regex"})
"""Scorers that use a row's `expected`, the right answer; others use `expect` only."""


def find_expected(scorer: Scorer, row: EvaluationRow) -> Any:
    """Return a row's expectation for a scorer; `ABSENT` without one."""
    stated = dict(row.expectations)
    shared = stated.get("", ABSENT) if scorer.kind in _OF_ANSWERS else ABSENT
    return stated.get(scorer.label, shared)


def choose_scorers(evaluation: Evaluation, row: EvaluationRow) -> tuple[Scorer, ...]:
    """Return the scorers of a row, without those that need an expectation that it lacks."""
    return tuple(
        scorer
        for scorer in evaluation.scorers
        if not needs_expectation(scorer) or find_expected(scorer, row) is not ABSENT
    )


def check_set(declared: Evaluations, evaluation: Evaluation, rows: Sequence[EvaluationRow]) -> tuple[Limit, ...]:
    """Return the limits of an evaluation on a set of rows.

    Raises:
        ValueError: The evaluation cannot score the set, or cannot pass with it; the message includes advice.
    """
    if evaluation.rows != "default":
        _check_labels(declared, evaluation, rows)
    scorers = [choose_scorers(evaluation, row) for row in rows]
    for row, chosen in zip(rows, scorers, strict=True):
        for scorer in chosen:
            problem = find_problem(scorer, find_expected(scorer, row))
            if problem is not None:
                raise ValueError(f"line {row.number}: {problem}")
    labels = [{scorer.label for scorer in chosen} for chosen in scorers]
    used = set[str]().union(*labels)
    unused = next((scorer.label for scorer in evaluation.scorers if scorer.label not in used), None)
    if unused is not None:
        raise ValueError(f"no row says what the scorer {unused} expects; add expect, or leave the scorer out")
    limits = list_limits(evaluation, [(row.slice, label) for row, label in zip(rows, labels, strict=True)])
    for limit in limits:
        available = sum(limit.concerns(row.slice, label, label) for row, label in zip(rows, labels, strict=True))
        _check_limit(limit, min(available, evaluation.max_rows), declared.beta)
    return limits


def _check_labels(declared: Evaluations, evaluation: Evaluation, rows: Sequence[EvaluationRow]) -> None:
    known = {scorer.label for each in declared.sets if each.rows == evaluation.rows for scorer in each.scorers}
    for row in rows:
        unknown = next((label for label, _ in row.expectations if label and label not in known), None)
        if unknown is not None:
            there = ", ".join(sorted(known))
            raise ValueError(f"line {row.number}: expect names {unknown[:63]!r}, which is no scorer; there are {there}")


def _check_limit(limit: Limit, available: int, beta: float) -> None:
    needed = least_rows(limit.margin, beta)
    if limit.may_be_undecided or available >= needed:
        return
    of = f" of slice {limit.slice}" if limit.slice else ""
    raise ValueError(
        f"{limit.kind} {limit.value:g} of {limit.scorer} needs {needed:,} rows{of} at least, and there are "
        f"{available:,}: add rows, widen the limit, or set undecided to continue"
    )
