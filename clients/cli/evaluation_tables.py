"""What the evaluations of a version showed, as tables."""

from collections.abc import Iterator

from clients.cli.output import show_line, show_table
from contracts.evaluation_results import EvaluationSummary, LimitResult, ScoreSummary
from contracts.facts import VariantEvaluated

SCORES = ("scorer", "slice", "rows", "candidate", "active", "difference")
LIMITS = ("limit", "slice", "measured", "decision")


def show_evaluations(evaluated: VariantEvaluated) -> None:
    """Print each evaluation: scores by slice, limits, and the rows that changed most."""
    for result in evaluated.results:
        show_line()
        against = f"{evaluated.target} against {evaluated.baseline}"
        show_line(
            f"evaluation {result.name} of {against}: {result.verdict} ({result.asked} of {result.available} rows)"
        )
        show_table(SCORES, [_score(score) for score in result.scores])
        if result.limits:
            show_table(LIMITS, [_limit(limit) for limit in result.limits])
        for line in _rows(result):
            show_line(f"  {line}")


def _score(score: ScoreSummary) -> tuple[object, ...]:
    unparsed = f" ({score.candidate_unparsed:.0%} cannot be parsed)" if score.candidate_unparsed else ""
    difference = f"{score.candidate - score.active:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"
    name = score.slice or "all"
    return score.scorer, name, score.rows, f"{score.candidate:.3f}{unparsed}", f"{score.active:.3f}", difference


def _limit(limit: LimitResult) -> tuple[object, ...]:
    bound = f"{limit.scorer} {limit.kind} {limit.limit:g}"
    measured = "-" if limit.value is None else f"{limit.value:.3f} [{limit.low:.3f}, {limit.high:.3f}]"
    more = f", about {limit.more_rows} more rows" if limit.more_rows else ""
    return bound, limit.slice or "all", measured, f"{limit.decision}{more}"


def _rows(result: EvaluationSummary) -> Iterator[str]:
    for word, numbers in (("worse", result.worse), ("better", result.better)):
        if numbers:
            yield f"{word}: {', '.join(f'line {number}' for number in numbers)} of the set"
