"""Measures what was staged, and says what it found."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.envelope import Event
from contracts.facts import ServedQuality, VariantBenchmarked, VariantFailed, VariantStaged, WorkProgressed
from contracts.manifests import BenchmarkReport
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import BenchmarkPlan, plan_arrivals, plan_benchmark
from services.benchmarker.domain.prompts import Prompt, choose_fitting, digest_prompts, parse_evaluation
from services.benchmarker.domain.records import RequestRecord, Side, is_disturbed
from services.benchmarker.domain.report import announce, make_report
from services.benchmarker.domain.served_quality import not_measured
from services.benchmarker.load import Load, LoadedSide
from services.benchmarker.ports import Engine, Progress, Reports, Template
from services.benchmarker.prompts import PROMPTS
from services.benchmarker.scoring import LEAST_TIMEOUT_S, Scoring
from shared.errors import Permanent, Transient
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock

SERVICE = "benchmarker"
_ANSWERING = (None, "template", "empty")
_SILENT = not_measured("The engine did not answer its warm-up.")


@dataclass(frozen=True)
class Benchmarker:
    """Makes one measurement; the outside comes in through its ports.

    Attributes:
        give_up_after_s: How long after staging a measurement whose baseline went away is tried again.
    """

    engine: Engine
    reports: Reports
    template: Template
    clock: Clock
    hardware: Hardware
    give_up_after_s: float = 900.0

    async def measure(
        self, staged: VariantStaged, staged_at: datetime, progress: Progress
    ) -> tuple[BenchmarkReport, ArtifactRef]:
        """Return the committed report of a staged candidate: the one already there, or a new one.

        Raises:
            Permanent: The evaluation set cannot be used, or the baseline stays away for too long.
            Transient: The baseline's engine went away, so that there is nothing to measure against.
        """
        prompts = await self._prompts(staged)
        plan = plan_benchmark(staged, hardware=self.hardware.fingerprint(), prompts=digest_prompts(prompts))
        found = await asyncio.to_thread(self.reports.find, plan.output_key)
        if found is not None:
            return found
        started_at, began = self.clock.now(), self.clock.monotonic()
        records, served_quality = await self._load(staged, plan, prompts, progress)
        self._refuse_disturbed(records, staged_at)
        report = await asyncio.to_thread(
            make_report,
            staged,
            plan,
            records,
            served_quality=served_quality,
            hardware=self.hardware,
            started_at=started_at,
            duration_s=self.clock.monotonic() - began,
        )
        return await asyncio.to_thread(self.reports.commit, report)

    async def _prompts(self, staged: VariantStaged) -> tuple[Prompt, ...]:
        order = staged.request
        prompts: tuple[Prompt, ...] = PROMPTS
        if order.evaluation is not None:
            data = await asyncio.to_thread(self.reports.evaluation, order.evaluation)
            try:
                prompts = parse_evaluation(data)
            except ValueError as error:
                raise Permanent("evaluation_invalid", f"The evaluation set cannot be read: {error}.") from error
        context = min(staged.candidate.context_tokens, staged.baseline.context_tokens)
        fitting = choose_fitting(prompts, context_tokens=context, output_tokens=order.load.output_tokens)
        if not fitting:
            reason = f"No prompt fits {context} tokens of context with {order.load.output_tokens} tokens of answer."
            raise Permanent("evaluation_invalid", reason)
        return fitting

    async def _load(
        self, staged: VariantStaged, plan: BenchmarkPlan, prompts: Sequence[Prompt], progress: Progress
    ) -> tuple[tuple[RequestRecord, ...], ServedQuality]:
        profile = staged.request.load
        sides: dict[Side, LoadedSide] = {
            "candidate": await self._render(staged.candidate, prompts),
            "baseline": await self._render(staged.baseline, prompts),
        }
        await self.engine.retire([staged.candidate, staged.baseline])
        load = Load(engine=self.engine, clock=self.clock, sides=sides, profile=profile)
        warm_up = await load.warm_up()
        if is_disturbed(warm_up):
            return warm_up, _SILENT  # the load would only meet the same silence, for longer
        silent = any(record.side == "candidate" and record.error not in _ANSWERING for record in warm_up)
        timeout_s = max(LEAST_TIMEOUT_S, profile.timeout_s)
        scoring = Scoring(engine=self.engine, reports=self.reports, sides=sides, timeout_s=timeout_s)
        served_quality = _SILENT if silent else await scoring.measure(staged)
        arrivals = plan_arrivals(
            requests=profile.requests, rate_rps=profile.rate_rps, prompts=len(prompts), seed=plan.seed
        )
        return await load.run(arrivals, progress), served_quality

    async def _render(self, served: ServedTarget, prompts: Sequence[Prompt]) -> LoadedSide:
        return LoadedSide(served, tuple([await self._render_one(served, prompt) for prompt in prompts]))

    async def _render_one(self, served: ServedTarget, prompt: Prompt) -> str | None:
        if not prompt.messages:
            return prompt.text
        try:
            return await self.template(served, prompt.messages)
        except Permanent:
            return None  # counted as an error of each request with this prompt: production would refuse it as well

    def _refuse_disturbed(self, records: tuple[RequestRecord, ...], staged_at: datetime) -> None:
        if not is_disturbed(records):
            return
        kinds = ", ".join(sorted({record.error for record in records if record.error}))
        reason = f"The baseline's engine went away while measuring ({kinds})."
        waited_s = (self.clock.now() - staged_at).total_seconds()
        if waited_s > self.give_up_after_s:
            raise Permanent("endpoint_unreachable", f"{reason} It was staged {waited_s:.0f} s ago.")
        raise Transient("endpoint_unreachable", reason)


def build(bus: Bus, benchmarker: Benchmarker, *, progress_interval_s: float = 0.5) -> None:
    """Register the handlers."""
    clock = benchmarker.clock

    @bus.on(VariantStaged, failure=_failed)
    async def benchmark(event: Event[VariantStaged]) -> VariantBenchmarked | None:
        staged = event.data
        if staged.request.purpose != "benchmark":
            return None
        last = -float("inf")

        async def report_progress(done: int, total: int) -> None:
            nonlocal last
            now = clock.monotonic()
            if done < total and now - last < progress_interval_s:
                return
            last = now
            variant = staged.candidate.target.variant
            step = WorkProgressed(step="benchmark", done=done, total=total, unit="requests", variant=variant)
            await bus.progress(event, step)

        report, ref = await benchmarker.measure(staged, event.time, report_progress)
        return announce(report, ref)


def _failed(failed: Failed) -> VariantFailed | None:
    if failed.event is None:
        return None  # nobody's variant: the bus keeps it as a dead letter
    return VariantFailed(
        variant=failed.event.data.candidate.target.variant,
        step="benchmark",
        code=failed.error.code,
        reason=failed.error.reason,
        details=failed.error.details,
        measurement_number=failed.event.data.request.measurement_number,
    )
