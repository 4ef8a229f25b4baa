"""Plans an evaluation before anything is asked: its identity, the order of its rows, and the body of each request."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from contracts.evaluations import Evaluation, Evaluations, Scorer
from contracts.facts import VariantStaged
from contracts.vocabulary import Deployable, Digest, digest_of_json
from decisions.evaluations.rows import EvaluationRow
from decisions.evaluations.verdicts import Comparison, list_limits, plan_comparison, share_alpha
from decisions.scorers.scoring import ABSENT, find_problem, needs_expectation

METHOD: Final = "1"
"""Part of every output key; increase it if a change of the scorers changes scores."""
PATH: Final = "/v1/chat/completions"
MOST_LIMITS: Final = 200
"""Most limits of all evaluations of a candidate together: they share one error budget."""


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of a set, and the digest of its text."""

    rows: tuple[EvaluationRow, ...]
    digest: Digest


@dataclass(frozen=True)
class EvaluationPlan:
    """One evaluation, with its rows in the order in which they are asked.

    Attributes:
        output_key: Evaluations with the same key have the same result.
        rows_digest: Of the whole set.
    """

    evaluation: Evaluation
    output_key: Digest
    rows_digest: Digest
    rows: tuple[EvaluationRow, ...]
    comparison: Comparison


def choose_scorers(evaluation: Evaluation, row: EvaluationRow) -> tuple[Scorer, ...]:
    """Return the scorers of a row: all but those that need an expectation and have none in it."""
    return tuple(
        scorer
        for scorer in evaluation.scorers
        if not needs_expectation(scorer) or row.expected(scorer.label, ABSENT) is not ABSENT
    )


def check_rows(evaluation: Evaluation, rows: Sequence[EvaluationRow]) -> None:
    """Check that every scorer has rows, and can score them.

    Raises:
        ValueError: One has none or cannot; the message names scorer and line, and says what to do.
    """
    used = set()
    for row in rows:
        scorers = choose_scorers(evaluation, row)
        used |= {scorer.label for scorer in scorers}
        for scorer in scorers:
            problem = find_problem(scorer, row.expected(scorer.label, ABSENT))
            if problem is not None:
                raise ValueError(f"line {row.number}: {problem}")
    unused = next((scorer.label for scorer in evaluation.scorers if scorer.label not in used), None)
    if unused is not None:
        raise ValueError(f"no row says what the scorer {unused} expects; add expected, or leave the scorer out")


def plan_evaluation(
    declared: Evaluations,
    evaluation: Evaluation,
    rows: Sequence[EvaluationRow],
    *,
    rows_digest: Digest,
    versions: Sequence[Deployable],
    limits: int,
) -> EvaluationPlan:
    """Return the plan of one evaluation of a release.

    The order is drawn from the identity of what is compared, so that a repeated delivery asks the same rows, and no
    candidate can be trained for the first ones of a set.

    Args:
        declared: The evaluations of the policy.
        evaluation: One of them.
        rows: The whole set.
        rows_digest: Its digest.
        versions: Candidate and active version.
        limits: How many limits the release has in all evaluations: they share its error budget.

    Raises:
        ValueError: A row cannot be scored, or a bound is about a slice that the set does not have.
    """
    check_rows(evaluation, rows)
    key = digest_of_json(
        {
            "stage": "evaluate",
            "method": METHOD,
            "versions": [identify(each) for each in versions],
            "evaluation": evaluation.model_dump(mode="json"),
            "levels": [declared.alpha, declared.beta, limits],
            "rows": rows_digest,
        }
    )
    order = random.Random(key)  # noqa: S311 - a repeatable order, not a secret
    chosen = tuple(order.sample(rows, min(len(rows), evaluation.max_rows)))
    comparison = plan_comparison(
        list_limits(evaluation, (row.slice for row in chosen)),
        [(row.slice, [scorer.label for scorer in choose_scorers(evaluation, row)]) for row in chosen],
        alpha=share_alpha(declared.alpha, limits),
        beta=declared.beta,
    )
    return EvaluationPlan(evaluation, key, rows_digest, chosen, comparison)


def plan_evaluations(staged: VariantStaged, sets: Sequence[EvaluationSet]) -> tuple[EvaluationPlan, ...]:
    """Return the plan of each evaluation of a staged candidate.

    Raises:
        ValueError: A set does not fit its evaluation, or there are too many limits; the message says which and why.
    """
    declared = staged.request.evaluations
    limits = sum(
        len(list_limits(evaluation, (row.slice for row in each.rows)))
        for evaluation, each in zip(declared.sets, sets, strict=True)
    )
    if limits > MOST_LIMITS:
        raise ValueError(f"the slices of the sets make {limits} limits; the most is {MOST_LIMITS}: bound fewer slices")
    return tuple(
        plan_evaluation(
            declared,
            evaluation,
            each.rows,
            rows_digest=each.digest,
            versions=(staged.request.candidate, staged.request.baseline),
            limits=limits,
        )
        for evaluation, each in zip(declared.sets, sets, strict=True)
    )


def plan_output(staged: VariantStaged, plans: Sequence[EvaluationPlan]) -> Digest:
    """Return the identity of the report: what is compared, by which rows and scorers, and the attempt."""
    return digest_of_json({"plans": [plan.output_key for plan in plans], "attempt": staged.request.attempt})


def identify(version: Deployable) -> dict[str, Any]:
    """Return what decides the answers of a version: its files, how it is served, and what runs it."""
    return {
        "target": str(version.target),
        "manifest": version.manifest.digest,
        "serving": version.serving.model_dump(mode="json") if version.serving else None,
        "runtime": version.runtime.model_dump(mode="json") if version.runtime else None,
    }


def plan_request(model: str, row: EvaluationRow, max_tokens: int) -> dict[str, Any]:
    """Return the body of the request for a row: as callers ask, greedy, ending where the model ends."""
    body = {"model": model, "messages": list(row.messages), "max_tokens": max_tokens, "temperature": 0.0, "seed": 0}
    return {**body, "tools": list(row.tools)} if row.tools else body
