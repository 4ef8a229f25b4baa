"""Runs one evaluation: sends rows to one or two versions until each limit is decided."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from contracts.evaluations.results import EvaluatedRow, EvaluationResult
from contracts.routes import ServedTarget
from decisions.evaluations.fitting import choose_scorers, find_expected
from decisions.evaluations.rows import EvaluationRow
from decisions.evaluations.verdicts import Scores
from decisions.scorers.answers import Answer, unparsed
from decisions.scorers.languages import Recognise
from decisions.scorers.scoring import Asked, score_answer
from services.evaluator.domain.plan import EvaluationPlan, plan_request
from services.evaluator.domain.report import make_result
from services.evaluator.ports import Endpoint, Progress
from shared.errors import SlipwayError

Role = Literal["candidate", "active"]
_AHEAD: Final = 2
"""Factor of rows in flight or waiting to be scored, over rows asked at once."""
_TRIES: Final = 2
"""Attempts to ask a version a row."""
MOST_VOID: Final = 10
"""Void rows that end an evaluation, if they are at least as many as the compared rows."""


class NoAnswer(NamedTuple):
    """Why a version did not answer a row; `has_failed` marks failures that say nothing about its answers."""

    reason: str
    has_failed: bool = False


@dataclass(frozen=True)
class Asking:
    """Sends rows to candidate and active version, or to one version with recorded scores.

    Attributes:
        recognise: Recognises the language of a text.
        together: Maximum concurrent rows.
        timeout_s: Timeout of an answer in seconds, plus `token_s` per token.
        token_s: Seconds per allowed token.
    """

    endpoint: Endpoint
    recognise: Recognise
    together: int = 4
    timeout_s: float = 120.0
    token_s: float = 0.25

    async def evaluate(
        self, plan: EvaluationPlan, versions: Mapping[Role, ServedTarget], progress: Progress
    ) -> EvaluationResult:
        """Return the result of an evaluation, which ends when all limits are decided or rows run out.

        Without an active version, the anchor's scores replace its answers.

        Raises:
            SlipwayError: An endpoint is unreachable; repeat the evaluation.
        """
        comparison, rows, void = plan.comparison, list[EvaluatedRow](), 0
        waiting = deque(plan.rows)
        labels = {row.number: {each.label for each in choose_scorers(plan.evaluation, row)} for row in waiting}
        at_work, running = asyncio.Semaphore(self.together), deque[asyncio.Task[EvaluatedRow | None]]()
        try:
            while comparison.is_open and void < max(MOST_VOID, len(rows)):
                while waiting and len(running) < _AHEAD * self.together:
                    row = waiting.popleft()
                    if comparison.wants(row.slice, labels[row.number]):
                        running.append(asyncio.create_task(self._evaluate_row(plan, row, versions, at_work)))
                if not running:
                    break
                evaluated = await running.popleft()  # in drawn order, however long each row takes
                if evaluated is None:
                    void += 1
                else:
                    rows.append(evaluated)
                    before = plan.anchor.scores.get(evaluated.number, {}) if plan.anchor is not None else {}
                    scores = Scores(evaluated.candidate, evaluated.active, before)
                    comparison = comparison.observe(evaluated.slice, scores)
                progress(len(rows) + void, len(plan.rows))
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
        """Return a row's scores; None if the active version, or else the only version, failed to answer."""
        async with at_work:
            given = await asyncio.gather(*(self._ask(plan, row, served) for served in versions.values()))
        answers = dict(zip(versions, given, strict=True))
        compared = answers.get("active", answers["candidate"])
        if isinstance(compared, NoAnswer) and compared.has_failed:
            return None
        return await asyncio.to_thread(self._score, plan, row, answers)

    def _score(
        self, plan: EvaluationPlan, row: EvaluationRow, answers: Mapping[Role, Answer | NoAnswer]
    ) -> EvaluatedRow:
        """Return a row's scores; a scorer without evidence on one version is omitted for both."""
        scored: dict[Role, dict[str, float | None]] = {role: {} for role in answers}
        recorded = plan.anchor.scores.get(row.number, {}) if plan.anchor is not None else {}
        reasons = {}
        for scorer in choose_scorers(plan.evaluation, row):
            asked = Asked(find_expected(scorer, row), row.last)
            scores = {
                role: unparsed(answer.reason)
                if isinstance(answer, NoAnswer)
                else score_answer(scorer, asked, answer, self.recognise)
                for role, answer in answers.items()
            }
            is_comparable = "active" in answers or scorer.label in recorded
            if not is_comparable or not all(score.is_evidence for score in scores.values()):
                continue
            for role, score in scores.items():
                scored[role][scorer.label] = score.value
            if scores["candidate"].reason:
                reasons[scorer.label] = scores["candidate"].reason
        return EvaluatedRow(
            number=row.number,
            slice=row.slice,
            candidate=scored["candidate"],
            active=scored.get("active", {label: recorded.get(label) for label in scored["candidate"]}),
            reasons=reasons,
        )

    async def _ask(self, plan: EvaluationPlan, row: EvaluationRow, served: ServedTarget) -> Answer | NoAnswer:
        """Return a version's answer to a row, or why there is none after `_TRIES` attempts.

        Raises:
            SlipwayError: `endpoint_unreachable`, which concerns all rows.
        """
        most = plan.evaluation.max_tokens
        body, timeout_s = plan_request(served.target.model, row, most), self.timeout_s + most * self.token_s
        failure = ""
        for _ in range(_TRIES):
            try:
                answer = await self.endpoint.ask(served, body, timeout_s=timeout_s)
            except SlipwayError as error:
                if error.code == "endpoint_unreachable":
                    raise
                failure = error.code
            else:
                return NoAnswer("the request was rejected") if answer is None else answer
        return NoAnswer(f"the request failed: {failure}", has_failed=True)
