"""Makes an evaluation's result from its rows, the report of all results, and its event."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from statistics import fmean
from typing import Final

from contracts.evaluations.results import EvaluatedRow, EvaluationResult, EvaluationSummary, LimitResult, ScoreSummary
from contracts.facts import VariantEvaluated, VariantStaged
from contracts.manifests import EvaluationReport
from contracts.vocabulary import ArtifactRef, Digest, Verdict
from decisions.evaluations.verdicts import Comparison, Tested, interval_of_mean
from services.evaluator.domain.plan import METHOD, EvaluationPlan

SHOWN_ROWS: Final = 3
"""Rows named that lost most, and as many that gained most."""
SHOWN_SLICES: Final = 64
"""Maximum slice scores in an event, half of them the largest losses."""


def make_result(
    plan: EvaluationPlan, comparison: Comparison, rows: Sequence[EvaluatedRow], void: int
) -> EvaluationResult:
    """Return the result of an evaluation.

    Args:
        plan: The plan.
        comparison: State of the limits after the last row.
        rows: The compared rows.
        void: Number of rows without a comparison.
    """
    names = sorted({row.slice for row in rows if row.slice})
    scores = [
        _summarise(scorer.label, name, scored)
        for scorer in plan.evaluation.scorers
        for name in ("", *names)
        if (scored := [row for row in rows if name in ("", row.slice) and scorer.label in row.candidate])
    ]
    changes = sorted(((_change(row), row.number) for row in rows), key=lambda change: (change[0], change[1]))
    return EvaluationResult(
        name=plan.evaluation.name,
        rows_digest=plan.rows_digest,
        asked=len(rows) + void,
        available=len(plan.rows),
        void=void,
        limits=tuple(_describe(tested) for tested in comparison.tested),
        scores=tuple(scores),
        worse=tuple(number for change, number in changes if change < 0)[:SHOWN_ROWS],
        better=tuple(number for change, number in reversed(changes) if change > 0)[:SHOWN_ROWS],
        basis=plan.basis if plan.anchor is not None or plan.may_be_anchor(rows) else None,
        anchor=plan.anchor.target if plan.anchor is not None else None,
        verdict=comparison.verdict,
        rows=tuple(rows),
    )


def _describe(tested: Tested) -> LimitResult:
    limit, test = tested.limit, tested.test
    value, low, high = tested.interval or (None, None, None)
    is_open = test.decision == "undecided"
    return LimitResult(
        scorer=limit.scorer,
        slice=limit.slice,
        kind=limit.kind,
        limit=limit.value,
        value=value,
        low=low,
        high=high,
        rows=test.rows,
        decision=test.decision,
        more_rows=test.estimate_more() if is_open else None,
    )


def _summarise(scorer: str, name: str, rows: Sequence[EvaluatedRow]) -> ScoreSummary:
    candidate, active = [row.candidate[scorer] for row in rows], [row.active[scorer] for row in rows]
    figures = [(1.0 + (own or 0.0) - (other or 0.0)) / 2.0 for own, other in zip(candidate, active, strict=True)]
    low, high = interval_of_mean(fmean(figures), sum(figure * figure for figure in figures), len(figures))
    return ScoreSummary(
        scorer=scorer,
        slice=name,
        rows=len(rows),
        candidate=_mean(candidate),
        active=_mean(active),
        low=2.0 * low - 1.0,
        high=2.0 * high - 1.0,
        candidate_unparsed=candidate.count(None) / len(rows),
    )


def _mean(scores: Sequence[float | None]) -> float:
    return fmean(score or 0.0 for score in scores)


def _change(row: EvaluatedRow) -> float:
    """Return a row's gain, summed over scorers."""
    return sum((score or 0.0) - (row.active[scorer] or 0.0) for scorer, score in row.candidate.items())


def make_report(
    staged: VariantStaged,
    output_key: Digest,
    results: Sequence[EvaluationResult],
    *,
    started_at: datetime,
    duration_s: float,
) -> EvaluationReport:
    """Return the report of all evaluations of a candidate, with one verdict and reason."""
    verdict = assess_overall([result.verdict for result in results])
    return EvaluationReport(
        output_key=output_key,
        target=staged.candidate.target,
        baseline=staged.baseline.target,
        attempt=staged.request.attempt,
        evaluation=staged.request.evaluation,
        method=METHOD,
        results=tuple(results),
        verdict=verdict,
        reason="; ".join(_reasons(results, verdict)),
        started_at=started_at,
        duration_s=duration_s,
    )


def assess_overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return `fail` if any verdict is, else `inconclusive` if any is, else `pass`."""
    return next((verdict for verdict in ("fail", "inconclusive") if verdict in verdicts), "pass")


def to_event(report: EvaluationReport, ref: ArtifactRef) -> VariantEvaluated:
    """Return the event of a committed report; the same report always gives the same event."""
    return VariantEvaluated(
        target=report.target,
        baseline=report.baseline,
        report=ref,
        results=tuple(summarise(result) for result in report.results),
        verdict=report.verdict,
        reason=report.reason,
    )


def summarise(result: EvaluationResult) -> EvaluationSummary:
    """Return a result without rows, keeping the slices that changed most: events must stay small."""
    known = result.model_dump(exclude={"rows", "scores"})
    slices = sorted((score for score in result.scores if score.slice), key=lambda score: score.candidate - score.active)
    gained = slices[SHOWN_SLICES // 2 :][-SHOWN_SLICES // 2 :]
    kept = {id(score) for score in (*slices[: SHOWN_SLICES // 2], *gained)}
    scores = tuple(score for score in result.scores if not score.slice or id(score) in kept)
    return EvaluationSummary.model_validate({**known, "scores": scores})


def _reasons(results: Sequence[EvaluationResult], verdict: Verdict) -> Iterator[str]:
    """Yield the limits that decided the verdict; for a pass, the counts of limits and rows."""
    wanted = {"fail": "missed", "inconclusive": "undecided"}.get(verdict)
    for result in results:
        if wanted is None:
            alone = ", without an anchor to compare with yet" if result.basis and result.anchor is None else ""
            met, bound = sum(limit.decision == "met" for limit in result.limits), len(result.limits)
            shown = f"{met} of {bound} limits are met and none is missed, after " if bound else ""
            yield f"{result.name}: {shown}{result.asked} rows{alone}{'' if bound else ', nothing is bounded'}"
        elif result.verdict == verdict:
            limits = [limit for limit in result.limits if limit.decision == wanted]
            yield from (f"{result.name}: {_explain(limit)}" for limit in limits[:2])
            if limits[2:]:
                yield f"{len(limits[2:])} more of its limits are {wanted}"
            if result.void:
                yield f"{result.name}: the active version failed at {result.void} of {result.asked} rows"


def _explain(limit: LimitResult) -> str:
    """Describe a limit with measurement and rows; if undecided, with the rows still needed."""
    rows = f"{limit.rows} rows" + (f" of slice {limit.slice}" if limit.slice else "")
    other = "active version" if limit.kind == "max_drop" else "anchor"
    bound = f"at least {limit.limit:g}" if limit.kind == "min_value" else f"at most {limit.limit:g} below the {other}"
    what = "scores" if limit.kind == "min_value" else "is lower by"
    measured = "" if limit.value is None else f" {what} {limit.value:.3f} ({limit.low:.3f} to {limit.high:.3f})"
    if limit.decision == "missed":
        return f"{limit.scorer}{measured} on {rows}, which must be {bound}"
    more = f"about {limit.more_rows} more rows would decide" if limit.more_rows else "such rows do not decide it"
    return f"{limit.scorer}{measured} on {rows} are insufficient for {bound}: {more}"
