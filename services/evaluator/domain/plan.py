"""Plans an evaluation before any request: identity, order of rows, and request bodies."""

import random
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from contracts.evaluations import Evaluation, Evaluations
from contracts.evaluations.results import EvaluatedRow, RowScores
from contracts.facts import VariantStaged
from contracts.vocabulary import Deployable, Digest, Target, digest_of_json
from decisions.evaluations.fitting import check_set, choose_scorers
from decisions.evaluations.limit_tests import least_rows
from decisions.evaluations.rows import EvaluationRow
from decisions.evaluations.verdicts import Comparison, Limit, plan_comparison, share_alpha

K = TypeVar("K", bound=Hashable)
METHOD: Final = "1"
"""Part of every output key; increase it when scorers give other scores."""
PATH: Final = "/v1/chat/completions"
MOST_LIMITS: Final = 200
"""Maximum limits over all evaluations of a candidate, because they share one error budget."""


@dataclass(frozen=True)
class EvaluationSet:
    """The rows of a set, and the digest of its text."""

    rows: tuple[EvaluationRow, ...]
    digest: Digest


@dataclass(frozen=True)
class AnchorScores:
    """An anchor's recorded scores, by row number."""

    target: Target
    scores: Mapping[int, RowScores]


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation with its rows in order of asking.

    Attributes:
        output_key: Evaluations with equal keys have equal results.
        rows_digest: Digest of the whole set.
        basis: Result of `find_basis`.
        least_scored: Fewest scored rows by which each anchor limit can be met.
    """

    evaluation: Evaluation
    output_key: Digest
    rows_digest: Digest
    rows: tuple[EvaluationRow, ...]
    comparison: Comparison
    basis: Digest | None = None
    anchor: AnchorScores | None = None
    least_scored: Mapping[Limit, int] = field(default_factory=dict)

    def may_be_anchor(self, rows: Sequence[EvaluatedRow]) -> bool:
        """Return whether enough rows have scores for comparisons with later versions."""
        return all(
            sum(limit.concerns(row.slice, row.candidate, row.candidate) for row in rows) >= least
            for limit, least in self.least_scored.items()
        )


def find_basis(evaluation: Evaluation, rows_digest: Digest) -> Digest | None:
    """Return a digest of method, set and evaluation; scores are comparable only with an anchor of the same digest.

    Return None if no bound of the evaluation is about an anchor.
    """
    if not evaluation.has_anchor:
        return None
    return digest_of_json({"method": METHOD, "set": rows_digest, **evaluation.asked})


def plan_evaluation(
    declared: Evaluations,
    evaluation: Evaluation,
    rows: Sequence[EvaluationRow],
    *,
    rows_digest: Digest,
    versions: Sequence[Deployable],
    limits_of_set: Sequence[Limit],
    limits: int,
    anchor: AnchorScores | None = None,
) -> EvaluationPlan:
    """Return the plan of one evaluation of a release.

    The order follows from a digest of the inputs, so that a redelivery asks the same rows and no candidate can be
    trained for a set's first rows. Versions compared with an anchor get the same rows, each in its own order.

    Args:
        declared: The policy's evaluations.
        evaluation: One of them.
        rows: The whole set.
        rows_digest: Digest of the set.
        versions: Candidate and active version.
        limits_of_set: Limits of this evaluation (`check_set`).
        limits: Number of limits over all evaluations, which share an error budget.
        anchor: The anchor's scores; None omits limits against an anchor.
    """
    bounded = [limit for limit in limits_of_set if anchor is not None or limit.kind != "max_drop_from_anchor"]
    basis, scores = find_basis(evaluation, rows_digest), anchor.scores if anchor is not None else {}
    asks_all = basis is not None or declared.schedule is not None
    key = digest_of_json(
        {
            "stage": "evaluate",
            "method": METHOD,
            "versions": [identify(each) for each in versions],
            "evaluation": evaluation.model_dump(mode="json"),
            "levels": [declared.alpha, declared.beta, limits],
            "asks all": asks_all,
            "rows": rows_digest,
            "anchor": str(anchor.target) if anchor is not None else None,
        }
    )
    slices = {limit.slice for limit in limits_of_set if limit.slice}
    shares = dict.fromkeys(sorted(slices), evaluation.max_rows // (len(slices) + 1))
    chosen = draw(
        choose(draw(rows, basis or key), evaluation.max_rows, shares, {row.number: (row.slice,) for row in rows}), key
    )
    comparison = plan_comparison(
        bounded,
        [
            (row.slice, [scorer.label for scorer in choose_scorers(evaluation, row)], scores.get(row.number, ()))
            for row in chosen
        ],
        alpha=share_alpha(declared.alpha, limits),
        beta=declared.beta,
        asks_all=asks_all,
    )
    least_scored = {
        limit: least_rows(limit.margin, declared.beta)
        for limit in limits_of_set
        if limit.kind == "max_drop_from_anchor" and not limit.may_be_undecided
    }
    return EvaluationPlan(evaluation, key, rows_digest, tuple(chosen), comparison, basis, anchor, least_scored)


def draw(rows: Sequence[EvaluationRow], seed: Digest) -> Sequence[EvaluationRow]:
    """Return rows in an order determined by a seed."""
    return random.Random(seed).sample(rows, len(rows))  # noqa: S311 - a repeatable order, not a secret


def choose(
    drawn: Sequence[EvaluationRow],
    most: int,
    shares: Mapping[K, int],
    names: Mapping[int, Container[K]],
) -> Sequence[EvaluationRow]:
    """Return the first `most` drawn rows, after reserving each name's share; shares may exceed `most`."""
    first = dict[int, None]()
    for name, share in shares.items():
        first |= dict.fromkeys([row.number for row in drawn if name in names[row.number]][:share])
    kept = {*list({**first, **dict.fromkeys(row.number for row in drawn)})[: max(most, len(first))]}
    return [row for row in drawn if row.number in kept]


def plan_evaluations(
    staged: VariantStaged, sets: Sequence[EvaluationSet], anchors: Mapping[Digest, AnchorScores]
) -> tuple[EvaluationPlan, ...]:
    """Plan all evaluations of a staged candidate; `anchors` are by basis.

    Raises:
        ValueError: A set does not fit its evaluation, or there are too many limits; the message explains.
    """
    declared = staged.request.evaluations
    checked = [check_set(declared, evaluation, each.rows) for evaluation, each in zip(declared.sets, sets, strict=True)]
    limits = sum(map(len, checked))
    if limits > MOST_LIMITS:
        raise ValueError(f"the slices of the sets make {limits} limits; the most is {MOST_LIMITS}: bound fewer slices")
    return tuple(
        plan_evaluation(
            declared,
            evaluation,
            each.rows,
            rows_digest=each.digest,
            versions=(staged.request.candidate, staged.request.baseline),
            limits_of_set=limits_of_set,
            limits=limits,
            anchor=anchors.get(find_basis(evaluation, each.digest) or ""),
        )
        for evaluation, each, limits_of_set in zip(declared.sets, sets, checked, strict=True)
    )


def plan_output(staged: VariantStaged, plans: Sequence[EvaluationPlan]) -> Digest:
    """Return the report's identity: versions, rows, scorers and attempt."""
    return digest_of_json({"plans": [plan.output_key for plan in plans], "attempt": staged.request.attempt})


def identify(version: Deployable) -> dict[str, Any]:
    """Return the inputs that determine a version's answers: files, serving settings and runtime."""
    return {
        "target": str(version.target),
        "manifest": version.manifest.digest,
        "serving": version.serving.model_dump(mode="json") if version.serving else None,
        "runtime": version.runtime.model_dump(mode="json") if version.runtime else None,
    }


def plan_request(model: str, row: EvaluationRow, max_tokens: int) -> dict[str, Any]:
    """Return a row's request body: greedy, as callers ask, ending where the model ends."""
    body = {"model": model, "messages": list(row.messages), "max_tokens": max_tokens, "temperature": 0.0, "seed": 0}
    return {**body, "tools": list(row.tools)} if row.tools else body
