"""The result of an evaluation: the figure of each limit, scores by slice, and the rows behind them."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

from pydantic import Field

from ..vocabulary import ArtifactRef, Contract, Digest, Ratio, Target, Verdict

Count = Annotated[int, Field(ge=0)]
RowScores = dict[str, Optional[float]]
"""The score of one answer by scorer; None if it cannot be parsed."""


class Anchor(Contract):
    """A promoted version whose recorded scores bound how far later ones may fall.

    Attributes:
        basis: Digest of questions, set and scoring: scores with the same basis can be compared.
        report: The report of its evaluations.
    """

    basis: Digest
    target: Target
    report: ArtifactRef


class LimitResult(Contract):
    """One limit of a bound, and its result over the rows.

    Attributes:
        scorer: Whose scores.
        slice: Of which rows; empty for all.
        kind: `min_value` bounds the candidate's mean score, `max_drop` how much it is below the active version's,
            `max_drop_from_anchor` how much it is below the anchor's.
        limit: The limit.
        value: The mean score or the drop, with `low` and `high`, its 95 % interval; None without a row.
        rows: How many rows were asked.
        decision: `met` and `missed` are proved with the policy's error probabilities.
        more_rows: About how many more rows would decide it; None if none would, or if it is decided.
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
    """The mean scores of the versions by one scorer, of one slice or (empty) of all rows.

    Attributes:
        candidate, active: Mean scores; an answer that cannot be parsed is worth nothing.
        low, high: The 95 % interval of the candidate's mean score above the active version's.
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
    """One row of the set, and the scores of the answers to it."""

    number: int
    slice: str = ""
    candidate: RowScores
    active: RowScores
    reasons: dict[str, str] = {}
    """Why a score of the candidate is not 1, by scorer."""


class EvaluationSummary(Contract):
    """One evaluation of a candidate beside the active version.

    Attributes:
        name: Name of the evaluation in the policy.
        rows_digest: Digest of the set.
        asked, available: Number of rows asked, and of rows available.
        void: Rows at which the active version failed; not evidence.
        limits: Every limit.
        scores: By scorer and slice; in an event, of the slices that changed most.
        basis: Basis of the scores for later comparison; None without an anchor bound, or if too few rows have scores.
        anchor: The version whose recorded scores it was compared with; None without one.
        worse, better: Numbers of the rows that lost and gained most: their lines in the set.
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
        """Return the scores of all rows, one of each scorer."""
        return tuple(score for score in self.scores if not score.slice)


class EvaluationResult(EvaluationSummary):
    """One evaluation with every row that was asked."""

    rows: tuple[EvaluatedRow, ...] = ()
