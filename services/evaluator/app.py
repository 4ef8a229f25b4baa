"""The evaluator's handler: evaluates each staged candidate and its baseline, and publishes report or failure."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from contracts.envelope import Event
from contracts.evaluations.results import Anchor
from contracts.facts import VariantEvaluated, VariantFailed, VariantStaged
from contracts.manifests import EvaluationReport
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef, Digest, digest_of
from decisions.evaluations.rows import read_rows
from services.evaluator.domain.plan import (
    AnchorScores,
    EvaluationPlan,
    EvaluationSet,
    find_basis,
    plan_evaluations,
    plan_output,
)
from services.evaluator.domain.report import make_report, to_event
from services.evaluator.evaluate import Asking, Role
from services.evaluator.ports import Progress, Reports
from services.evaluator.settings import EvaluatorSettings
from shared.errors import Permanent, SlipwayError
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.runtime.progress import progress_reporter

SERVICE = "evaluator"
DEFAULT_SET = Path(__file__).with_name("default_set.jsonl")
"""120 rows: 20 in each of the slices `stops`, `language`, `json`, `roles`, `refuses` and `answers`."""


@dataclass(frozen=True)
class Evaluator:
    """Makes the policy's evaluations once per staged candidate."""

    asking: Asking
    reports: Reports
    clock: Clock
    give_up_after_s: float = 900.0
    _first_lost_s: dict[Digest, float] = field(default_factory=dict, repr=False, compare=False)

    async def evaluate(self, staged: VariantStaged, progress: Progress) -> tuple[EvaluationReport, ArtifactRef]:
        """Return the committed report of a staged candidate; evaluate it if there is none.

        Raises:
            Permanent: `evaluation_invalid`: a set cannot be used; `endpoint_unreachable`: an engine was lost for longer
                than `give_up_after_s`.
            Transient: An engine was lost; try again.
        """
        plans = await self._plan(staged)
        output_key = plan_output(staged, plans)
        committed = await asyncio.to_thread(self.reports.find, output_key)
        if committed is not None:
            return committed
        try:
            report = await self._ask(staged, plans, output_key, progress)
        except SlipwayError as error:
            raise self._bound(error, output_key) from error
        self._first_lost_s.pop(output_key, None)
        return await asyncio.to_thread(self.reports.commit, report)

    async def _ask(
        self, staged: VariantStaged, plans: Sequence[EvaluationPlan], output_key: Digest, progress: Progress
    ) -> EvaluationReport:
        started_at, started_s = self.clock.now(), self.clock.monotonic()
        results, total = [], sum(len(plan.rows) for plan in plans)
        before = 0
        for plan in plans:

            def report_progress(done: int, _of: int, before: int = before) -> None:
                progress(before + done, total)

            versions: dict[Role, ServedTarget] = {"candidate": staged.candidate, "active": staged.baseline}
            results.append(await self.asking.evaluate(plan, versions, report_progress))
            before += len(plan.rows)
        return make_report(
            staged, output_key, results, started_at=started_at, duration_s=self.clock.monotonic() - started_s
        )

    def _bound(self, error: SlipwayError, output_key: Digest) -> SlipwayError:
        """Convert a failure to Permanent once an engine was lost for too long; return others unchanged.

        The staging lease may have been released, so that the engine never returns.
        """
        if error.code != "endpoint_unreachable":
            return error
        now = self.clock.monotonic()
        lost_s = now - self._first_lost_s.setdefault(output_key, now)
        if lost_s <= self.give_up_after_s:
            return error
        del self._first_lost_s[output_key]
        tried = f"tried for {lost_s:.0f} s, the limit is {self.give_up_after_s:.0f} s"
        return Permanent(error.code, f"{error.reason} {tried}. Repair its engine, then publish with a higher attempt.")

    async def _plan(self, staged: VariantStaged) -> tuple[EvaluationPlan, ...]:
        try:
            asked = staged.request.evaluations.sets
            ref = staged.request.evaluation
            read = {rows: await read_set(self.reports, rows, ref) for rows in {each.rows for each in asked}}
            sets = [read[evaluation.rows] for evaluation in asked]
            wanted = {find_basis(each, rows.digest) for each, rows in zip(asked, sets, strict=True)}
            anchors = {
                anchor.basis: await asyncio.to_thread(self._read_anchor, anchor)
                for anchor in staged.request.anchors
                if anchor.basis in wanted
            }
            return await asyncio.to_thread(plan_evaluations, staged, sets, anchors)
        except ValueError as error:
            raise Permanent("evaluation_invalid", f"An evaluation cannot be made: {error}.") from error

    def _read_anchor(self, anchor: Anchor) -> AnchorScores:
        """Return the recorded scores of an anchor.

        Raises:
            Permanent: `artifact_not_found`: the report is gone; rename the evaluation to start a new anchor.
        """
        results = self.reports.read(anchor.report).results
        rows = next((result.rows for result in results if result.basis == anchor.basis), ())
        return AnchorScores(anchor.target, {row.number: row.candidate for row in rows})


async def read_set(reports: Reports, rows: str, evaluation: ArtifactRef | None) -> EvaluationSet:
    """Return the packaged set (`default`) or the checkpoint's.

    Raises:
        ValueError: The checkpoint has none, or its rows are unreadable.
    """
    if rows == "default":
        return default_set()
    if evaluation is None:
        raise ValueError("the policy asks the checkpoint's evaluation set, and it has none; publish one")
    data = await asyncio.to_thread(reports.rows, evaluation)
    return await asyncio.to_thread(_parse, data)


@cache
def default_set() -> EvaluationSet:
    """Return the packaged evaluation set."""
    return _parse(DEFAULT_SET.read_bytes())


def _parse(data: bytes) -> EvaluationSet:
    return EvaluationSet(read_rows(data), digest_of(data))


def build(bus: Bus, *, asking: Asking, reports: Reports, settings: EvaluatorSettings, clock: Clock) -> Evaluator:
    """Register the handler on the bus and return the evaluator."""
    evaluator = Evaluator(asking, reports, clock, settings.give_up_after_s)

    @bus.on(VariantStaged, failure=_failed)
    async def evaluate(event: Event[VariantStaged]) -> VariantEvaluated | None:
        staged = event.data
        if staged.request.purpose != "evaluation":
            return None
        variant = staged.candidate.target.variant
        report_step = progress_reporter(bus, event, clock, settings.progress_interval_s, variant)

        def report_progress(done: int, total: int) -> None:
            report_step("evaluate", done, total, "rows")

        report, ref = await evaluator.evaluate(staged, report_progress)
        return to_event(report, ref)

    return evaluator


def _failed(event: Event[VariantStaged], error: SlipwayError) -> VariantFailed:
    return VariantFailed(
        variant=event.data.candidate.target.variant,
        step="evaluate",
        code=error.code,
        reason=error.reason,
        details=error.details,
    )
