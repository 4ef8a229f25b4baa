"""Results of evaluations: limits, scores by slice, and rows."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

from pydantic import Field

from ..vocabulary import ArtifactRef, Contract, Digest, Ratio, Target, Verdict

Count = Annotated[int, Field(ge=0)]
RowScores = dict[str, Optional[float]]
"""Scores of one answer by scorer; None if the answer cannot be parsed."""


class Anchor(Contract):
    """A promoted version with recorded scores, the reference of `max_drop_from_anchor`.

    Attributes:
        basis: Digest of questions, set and scoring; scores are comparable if it is equal.
        report: The version's evaluation report.
    """

    basis: Digest
    target: Target
    report: ArtifactRef


class LimitResult(Contract):
    """The result of one limit of a bound.

    Attributes:
        scorer: Label of the scorer.
        slice: Slice of the rows; empty for all rows.
        kind: `min_value` bounds the candidate's mean score, `max_drop` its distance below the active version's,
            `max_drop_from_anchor` its distance below the anchor's.
        value: Mean score or drop; `low` and `high` are its 95 % interval. None without rows.
        rows: Number of rows.
        decision: `met` or `missed` with the policy's error probabilities.
        more_rows: Estimated further rows until a decision; None if decided, or if more rows would not decide.
    """

    scorer: str
    slice: str = ""
    kind: Literal["min_value", "max_drop", "max_drop_from_anchor"]
    limit: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows: Count = 0
    decision: Literal["met", "missed", "undecided"]
    more_rows: Count | None = None


class ScoreSummary(Contract):
    """The mean scores by one scorer on a slice; an empty slice stands for all rows.

    Attributes:
        candidate, active: Mean scores; an answer that cannot be parsed counts as 0.
        low, high: 95 % interval of the candidate's mean score minus the active version's.
        candidate_unparsed: Share of the candidate's answers that cannot be parsed.
    """

    scorer: str
    slice: str = ""
    rows: Count
    candidate: Ratio
    active: Ratio
    low: float
    high: float
    candidate_unparsed: Ratio = 0.0


class EvaluatedRow(Contract):
    """The scores of the answers to one row of the set."""

    number: int
    slice: str = ""
    candidate: RowScores
    active: RowScores
    reasons: dict[str, str] = {}
    """Reasons for candidate scores below 1, by scorer."""


class EvaluationSummary(Contract):
    """One evaluation of a candidate beside the active version.

    Attributes:
        name: Name of the evaluation in the policy.
        rows_digest: Digest of the set.
        asked, available: Numbers of rows.
        void: Number of rows that the active version failed to answer; excluded.
        scores: By scorer and slice; events hold the slices that changed most.
        basis: `Anchor.basis` of these scores; None without an anchor bound, or with too few scored rows.
        anchor: The version of the anchor's scores; None without an anchor.
        worse, better: Line numbers of the rows with the largest loss and gain.
        verdict: `fail` if a limit is missed, `inconclusive` if the rows do not suffice.
    """

    name: str
    rows_digest: Digest
    asked: Count
    available: Count
    void: Count = 0
    limits: tuple[LimitResult, ...] = ()
    scores: tuple[ScoreSummary, ...] = ()
    worse: tuple[int, ...] = ()
    better: tuple[int, ...] = ()
    basis: Digest | None = None
    anchor: Target | None = None
    verdict: Verdict

    @property
    def whole(self) -> tuple[ScoreSummary, ...]:
        """Return the score over all rows of each scorer."""
        return tuple(score for score in self.scores if not score.slice)


class EvaluationResult(EvaluationSummary):
    """One evaluation with every row that was asked."""

    rows: tuple[EvaluatedRow, ...] = ()
