"""Scheduled checks of serving versions: due times, rows and results. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from contracts.evaluations import Evaluations, Schedule
from contracts.evaluations.results import EvaluationResult, EvaluationSummary, LimitResult
from contracts.facts import EvaluationCheck
from contracts.manifests import EvaluationReport
from contracts.vocabulary import Target, digest_of_json
from decisions.evaluations.limit_tests import least_rows_of_loss
from decisions.evaluations.verdicts import Limit, list_checked, plan_comparison, share_alpha_of_check
from services.evaluator.domain.plan import METHOD, AnchorScores, EvaluationPlan, EvaluationSet, choose, draw
from services.evaluator.domain.report import summarise

_SPARE: Final = 1.25
"""Factor on the rows that prove a total loss, because one answer in ten may still be right."""


def is_due(last: datetime | None, schedule: Schedule, now: datetime) -> bool:
    """Return whether a check is due: the first, or `every_hours` after the last."""
    return last is None or now - last >= timedelta(hours=schedule.every_hours)


def plan_check(
    declared: Evaluations,
    sets: Sequence[EvaluationSet],
    report: EvaluationReport,
    *,
    schedule: Schedule,
    max_drop: float,
    seed: str,
) -> tuple[EvaluationPlan, ...]:
    """Plan a check's evaluations, with rows that the version answered at its release.

    Scores by changed scorers or sets are omitted. Each limit gets enough rows to prove a total loss. `alpha` does not
    take into account that two successive checks must agree.

    Args:
        declared: The evaluations of the version's release.
        sets: Their sets.
        report: The scores at the release.
        schedule: Schedule of the serving version.
        max_drop: Largest drop of a mean score since the release.
        seed: Determines which rows are asked.
    """
    before = {result.name: result for result in report.results if report.method == METHOD}
    alpha, most = share_alpha_of_check(declared, schedule), max(1, schedule.rows // max(1, len(declared.sets)))
    plans = []
    for evaluation, each in zip(declared.sets, sets, strict=True):
        result = before.get(evaluation.name)
        if result is None or result.rows_digest != each.digest:
            continue
        recorded = {row.number: row.candidate for row in result.rows}
        drawn = draw([row for row in each.rows if recorded.get(row.number)], digest_of_json([seed, evaluation.name]))
        scores = {(score.scorer, score.slice): score for score in result.scores}
        checked = [pair for pair in list_checked(evaluation) if pair in scores]
        least = {pair: least_rows_of_loss(max_drop, alpha, scores[pair].candidate) for pair in checked}
        shares = {pair: int(_SPARE * rows) for pair, rows in least.items() if rows <= min(most, scores[pair].rows)}
        names = {row.number: {(label, of) for label in recorded[row.number] for of in ("", row.slice)} for row in drawn}
        rows = tuple(choose(drawn, most, shares, names))
        comparison = plan_comparison(
            [Limit(scorer, of_slice, "max_drop_from_anchor", max_drop) for scorer, of_slice in checked],
            [(row.slice, recorded[row.number], recorded[row.number]) for row in rows],
            alpha=alpha,
            beta=declared.beta,
        )
        anchor = AnchorScores(report.target, recorded)
        plans.append(EvaluationPlan(evaluation, digest_of_json(seed), each.digest, rows, comparison, anchor=anchor))
    return tuple(plans)


def assess_check(
    target: Target, results: Sequence[EvaluationResult], before: EvaluationCheck | None
) -> EvaluationCheck:
    """Return the result of a check; an undecided check keeps the previous state.

    A check without a proven drop is undecided if the engine failed at half of the rows, if no row was answered, or if a
    measured drop exceeds its limit without proof.
    """
    is_fallen = any(result.verdict == "fail" for result in results)
    shown = EvaluationCheck(target=target, results=tuple(map(summarise, results)), is_fallen=is_fallen, in_a_row=1)
    asked, void = sum(result.asked for result in results), sum(result.void for result in results)
    if not is_fallen and (2 * void >= asked or any(_list_undecided(result) for result in results)):
        was = {"is_fallen": before.is_fallen, "in_a_row": before.in_a_row} if before is not None else {"in_a_row": 0}
        return shown.model_copy(update=was)
    if before is None or before.is_fallen != is_fallen:
        return shown
    return shown.model_copy(update={"in_a_row": before.in_a_row + 1})


def _list_undecided(result: EvaluationSummary) -> list[LimitResult]:
    """Return undecided limits with a measured drop beyond the limit."""
    return [
        limit
        for limit in result.limits
        if limit.decision == "undecided" and limit.value is not None and limit.value > limit.limit
    ]


def describe(checks: Sequence[EvaluationCheck]) -> str:
    """Describe the checks of active and previous version in a sentence."""
    return f"{'; '.join(map(_describe, checks))}."


def _describe(check: EvaluationCheck) -> str:
    missed = [
        f"{result.name}: {_describe_limit(limit)}"
        for result in check.results
        for limit in result.limits
        if limit.decision == "missed"
    ]
    undecided = [_describe_limit(limit) for result in check.results for limit in _list_undecided(result)]
    asked, void = (sum(getattr(result, name) for result in check.results) for name in ("asked", "void"))
    if missed:
        return f"{check.target} is worse than at its release ({'; '.join(missed)})"
    if not check.results:
        return f"{check.target} did not answer"
    failed = f", its engine failed at {void}" if void else ""
    failed += f", which do not decide: {'; '.join(undecided)}" if undecided else ""
    return f"{check.target} is not shown to be worse than at its release by {asked} rows{failed}"


def _describe_limit(limit: LimitResult) -> str:
    of = limit.slice and f" of {limit.slice}"
    return (
        f"{limit.scorer}{of} is lower by {limit.value:.3f} ({limit.low:.3f} to {limit.high:.3f}) on {limit.rows} rows, "
        f"more than {limit.limit:g}"
    )
