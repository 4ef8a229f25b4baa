"""One evaluation: rows are asked of candidate and active version until each limit is decided."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from contracts.evaluation_results import EvaluatedRow, EvaluationResult
from contracts.routes import ServedTarget
from decisions.evaluations.rows import EvaluationRow
from decisions.evaluations.verdicts import Scores
from decisions.scorers.answers import Answer
from decisions.scorers.languages import Recognise
from decisions.scorers.scoring import ABSENT, Asked, score_answer
from services.evaluator.domain.plan import EvaluationPlan, choose_scorers, plan_request
from services.evaluator.domain.report import make_result
from services.evaluator.ports import Endpoint, Progress

Role = Literal["candidate", "active"]
_AHEAD: Final = 2
"""So many times the rows that are asked at once may wait for the one before them."""


@dataclass(frozen=True)
class Asking:
    """Asks a candidate and the active version the rows of an evaluation.

    Attributes:
        recognise: Recognises the language of a text.
        together: Rows that are asked at the same time.
        timeout_s: Time limit of one answer.
    """

    endpoint: Endpoint
    recognise: Recognise
    together: int = 4
    timeout_s: float = 120.0

    async def evaluate(
        self, plan: EvaluationPlan, versions: Mapping[Role, ServedTarget], progress: Progress
    ) -> EvaluationResult:
        """Return the result of an evaluation; it ends when each limit is met or missed, or without further rows.

        Raises:
            SlipwayError: An engine is lost; the evaluation can be repeated.
        """
        comparison, rows, void = plan.comparison, list[EvaluatedRow](), 0
        waiting = deque(plan.rows)
        labels = {row.number: {each.label for each in choose_scorers(plan.evaluation, row)} for row in waiting}
        at_work, running = asyncio.Semaphore(self.together), deque[asyncio.Task[EvaluatedRow | None]]()
        try:
            while comparison.is_open:
                while waiting and len(running) < _AHEAD * self.together:
                    row = waiting.popleft()
                    if comparison.wants(row.slice, labels[row.number]):
                        running.append(asyncio.create_task(self._evaluate_row(plan, row, versions, at_work)))
                if not running:
                    break
                evaluated = await running.popleft()  # in the order that was drawn, however long each one takes
                if evaluated is None:
                    void += 1
                else:
                    rows.append(evaluated)
                    comparison = comparison.observe(evaluated.slice, Scores(evaluated.candidate, evaluated.active))
                await progress(len(rows) + void, len(plan.rows))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return make_result(plan, comparison, rows, void)

    async def _evaluate_row(
        self,
        plan: EvaluationPlan,
        row: EvaluationRow,
        versions: Mapping[Role, ServedTarget],
        at_work: asyncio.Semaphore,
    ) -> EvaluatedRow | None:
        """Return the scores of a row; None if the active version could not answer it."""
        async with at_work:
            given = await asyncio.gather(*(self._ask(plan, row, served) for served in versions.values()))
        answers = dict(zip(versions, given, strict=True))
        if answers["active"] is None:
            return None
        scored: dict[Role, dict[str, float | None]] = {role: {} for role in versions}
        reasons = {}
        for scorer in choose_scorers(plan.evaluation, row):
            asked = Asked(row.expected(scorer.label, ABSENT), row.last)
            for role, answer in answers.items():
                if answer is None:
                    scored[role][scorer.label], reasons[scorer.label] = None, "the request was rejected"
                    continue
                score = score_answer(scorer, asked, answer, self.recognise)
                scored[role][scorer.label] = score.value
                if role == "candidate" and score.reason:
                    reasons[scorer.label] = score.reason
        return EvaluatedRow(
            number=row.number,
            slice=row.slice,
            candidate=scored["candidate"],
            active=scored["active"],
            reasons=reasons,
        )

    async def _ask(self, plan: EvaluationPlan, row: EvaluationRow, served: ServedTarget) -> Answer | None:
        body = plan_request(served.target.model, row, plan.evaluation.max_tokens)
        return await self.endpoint.ask(served, body, timeout_s=self.timeout_s)
