"""Tables of a version's evaluations."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clients.cli.output import show_line, show_table
from contracts.evaluations.results import EvaluatedRow, EvaluationSummary, LimitResult, ScoreSummary
from contracts.facts import VariantEvaluated
from contracts.manifests import EvaluationReport
from contracts.vocabulary import ArtifactRef, Digest, digest_of
from decisions.evaluations.rows import read_rows
from shared.errors import SlipwayError
from shared.storage.blobs import Store

SCORES = ("scorer", "slice", "rows", "candidate", "active", "difference")
LIMITS = ("limit", "slice", "measured", "decision")


QUESTION_CHARS = 80


@dataclass(frozen=True)
class Rows:
    """The rows of evaluations; empty if this identity may not read them, or if they were erased.

    Attributes:
        scored: Scores by evaluation and row number.
        questions: The last message of each row, by digest of the set and row number.
    """

    scored: Mapping[tuple[str, int], EvaluatedRow] = field(default_factory=dict)
    questions: Mapping[tuple[Digest, int], str] = field(default_factory=dict)


def read_evaluated_rows(store: Store, evaluated: VariantEvaluated, rows: ArtifactRef | None) -> Rows:
    """Return the scored rows of a report, and the questions of the checkpoint's own set."""
    scored: dict[tuple[str, int], EvaluatedRow] = {}
    questions: dict[tuple[Digest, int], str] = {}
    with contextlib.suppress(SlipwayError, ValueError):
        report = EvaluationReport.model_validate_json(store.get(evaluated.report))
        scored = {(result.name, row.number): row for result in report.results for row in result.rows}
    with contextlib.suppress(SlipwayError, ValueError):
        data = store.get_texts(rows) if rows is not None else b""
        digest = digest_of(data)
        questions = {(digest, row.number): row.last for row in read_rows(data)}
    return Rows(scored, questions)


def show_evaluations(evaluated: VariantEvaluated, rows: Rows) -> None:
    """Print the scores by slice, the limits and the most changed rows of each evaluation."""
    for result in evaluated.results:
        show_line()
        against = f"{evaluated.target} against {evaluated.baseline}"
        against += f" and {result.anchor}" if result.anchor is not None else ""
        show_line(
            f"evaluation {result.name} of {against}: {result.verdict} ({result.asked} of {result.available} rows)"
        )
        show_table(SCORES, [_score(score) for score in result.scores])
        if result.limits:
            show_table(LIMITS, [_limit(limit) for limit in result.limits])
        for line in describe_changes(result, rows):
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


def describe_changes(result: EvaluationSummary, rows: Rows) -> Iterator[str]:
    """Yield a line for each of the most changed rows: its line in the set, its question, the reasons of scorers."""
    for word, numbers in (("worse", result.worse), ("better", result.better)):
        for number in numbers:
            question = " ".join(rows.questions.get((result.rows_digest, number), "").split())[:QUESTION_CHARS]
            scored = rows.scored.get((result.name, number))
            why = "; ".join(f"{scorer}: {reason}" for scorer, reason in scored.reasons.items()) if scored else ""
            yield ", ".join(filter(None, (f"{word}: line {number} of the set", question and f'"{question}"', why)))
