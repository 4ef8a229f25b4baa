"""The benchmarker's handler: measures each staged candidate against its baseline, and publishes report or failure.

Both sides also answer prompts without a fixed length, to count answers that end by themselves.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from contracts.envelope import Event
from contracts.facts import GateResult, ServedQuality, VariantBenchmarked, VariantFailed, VariantStaged
from contracts.facts.staging import NaturalAnswers
from contracts.manifests import BenchmarkReport
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain import tool_calls
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import BenchmarkPlan, plan_arrivals, plan_benchmark
from services.benchmarker.domain.prompts import Prompt, choose_fitting, digest_prompts, parse_evaluation
from services.benchmarker.domain.records import RequestRecord, Side, describe_lost, has_lost_baseline
from services.benchmarker.domain.report import make_report, to_event
from services.benchmarker.domain.served_quality import not_measured
from services.benchmarker.fitting import Fitting
from services.benchmarker.load import Load, LoadedSide
from services.benchmarker.ports import Engine, Progress, Reports, Template
from services.benchmarker.prompts import PROMPTS
from services.benchmarker.scoring import LEAST_TIMEOUT_S, Scoring
from services.benchmarker.settings import BenchmarkerSettings
from shared.errors import Permanent, SlipwayError, Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.runtime.progress import progress_reporter

ASKED: Final = 16
"""Prompts per side for counting natural endings."""
MOST_TOKENS: Final = 256
"""Token limit of a natural answer; an answer at the limit did not end by itself."""
TOGETHER: Final = 4
"""Prompts asked at the same time."""
LONGEST_S: Final = 10.0
"""Seconds after which no further prompt is asked; all of them would take minutes on a CPU."""


async def count_endings(
    engine: Engine,
    sides: Mapping[Side, ServedTarget],
    prompts: Sequence[Prompt],
    *,
    context_tokens: int,
    timeout_s: float,
) -> dict[Side, NaturalAnswers]:
    """Return each side's natural answers to prompts that both sides answered; empty if there are none."""
    limit = min(MOST_TOKENS, context_tokens // 2)
    fitting = choose_fitting(prompts, context_tokens=context_tokens, output_tokens=limit)
    chosen = fitting[:: max(1, len(fitting) // ASKED)][:ASKED]  # spread, because sets may be ordered by slice
    at_work, failures = asyncio.Semaphore(TOGETHER), list[SlipwayError]()
    loop = asyncio.get_running_loop()
    until = loop.time() + LONGEST_S

    async def ask(served: ServedTarget, prompt: Prompt) -> tuple[bool, int]:
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        asked = {"messages": messages} if messages else {"prompt": prompt.text}
        path = tool_calls.PATH if messages else "/v1/completions"
        body = {"model": served.target.model, **asked, "max_tokens": limit, "temperature": 0.0}
        answer = await engine.ask_api(served, path, body, timeout_s=tool_calls.plan_timeout(timeout_s, limit))
        given = json.loads(answer.body)
        return given["choices"][0]["finish_reason"] != "length", given["usage"]["completion_tokens"]

    async def ask_both(prompt: Prompt) -> dict[Side, tuple[bool, int]] | None:
        async with at_work:
            if failures or loop.time() > until:
                return None  # each further request could take its full timeout
            try:
                answers = await asyncio.gather(*(ask(served, prompt) for served in sides.values()))
            except SlipwayError as error:
                failures.append(error)
                return None
            except (ValueError, LookupError, TypeError):
                return None
        return dict(zip(sides, answers, strict=True))

    pairs = [pair for pair in await asyncio.gather(*map(ask_both, chosen)) if pair is not None]
    return {
        side: NaturalAnswers(
            asked=len(pairs),
            ended=sum(pair[side][0] for pair in pairs),
            mean_tokens=fmean(pair[side][1] for pair in pairs),
            most_tokens=limit,
        )
        for side in (sides if pairs else ())
    }


SERVICE = "benchmarker"
_ENGINE_ANSWERS = (None, "template", "empty", "bad_request")
_NO_WARM_UP_ANSWER = not_measured("The engine did not answer its warm-up.")


@dataclass(frozen=True)
class Benchmarker:
    """Measures each staged candidate once.

    Attributes:
        give_up_after_s: Seconds after the first attempt during which a measurement that lost the baseline's engine is
            repeated; at least one repetition.
    """

    engine: Engine
    reports: Reports
    template: Template
    clock: Clock
    hardware: Hardware
    give_up_after_s: float = 900.0
    machine_price_per_hour: float | None = None
    _first_lost_s: dict[str, float] = field(default_factory=dict)

    async def measure(self, staged: VariantStaged, progress: Progress) -> tuple[BenchmarkReport, ArtifactRef]:
        """Return the committed report of a staged candidate; measure it if there is none.

        Raises:
            Permanent: The evaluation set cannot be used.
            Transient: The baseline's engine was lost; try again.
        """
        prompts = await self._prompts(staged)
        plan = plan_benchmark(staged, hardware=self.hardware.fingerprint(), prompts=digest_prompts(prompts))
        committed = await asyncio.to_thread(self.reports.find, plan.output_key)
        if committed is not None:
            return committed
        started_at, started_s = self.clock.now(), self.clock.monotonic()
        records, served_quality = await self._run(staged, plan, prompts, progress)
        tool_call = await self._check_tools(staged)
        void_because = self._assess_baseline(plan, records, started_s)
        endings = await self._count_endings(staged, prompts, records)
        report = await asyncio.to_thread(
            make_report,
            staged,
            plan,
            records,
            served_quality=served_quality,
            tool_call=tool_call,
            endings=endings,
            void_because=void_because,
            hardware=self.hardware,
            started_at=started_at,
            duration_s=self.clock.monotonic() - started_s,
            machine_price_per_hour=self.machine_price_per_hour,
        )
        return await asyncio.to_thread(self.reports.commit, report)

    async def _prompts(self, staged: VariantStaged) -> tuple[Prompt, ...]:
        request = staged.request
        prompts: tuple[Prompt, ...] = PROMPTS
        if request.evaluation is not None:
            data = await asyncio.to_thread(self.reports.evaluation, request.evaluation)
            try:
                prompts = parse_evaluation(data)
            except ValueError as error:
                raise Permanent("evaluation_invalid", f"The evaluation set cannot be read: {error}.") from error
        output_tokens = request.load.output_tokens
        fitting = choose_fitting(prompts, context_tokens=_context(staged), output_tokens=output_tokens)
        if not fitting:
            raise _none_fits(staged)
        return fitting

    async def _run(
        self, staged: VariantStaged, plan: BenchmarkPlan, prompts: Sequence[Prompt], progress: Progress
    ) -> tuple[tuple[RequestRecord, ...], ServedQuality]:
        profile = staged.request.load
        await self.engine.retire([staged.candidate, staged.baseline])
        sides = await self._load_sides(staged, plan, prompts)
        if sides is None:
            return (), _NO_WARM_UP_ANSWER
        salt = f"{plan.output_key}-{self.clock.now().isoformat()}"
        load = Load(engine=self.engine, clock=self.clock, sides=sides, profile=profile, salt=salt)
        warm_up = await load.warm_up()
        if profile.warmup_requests and has_lost_baseline(warm_up):
            return warm_up, _NO_WARM_UP_ANSWER  # the load would fail too, but take longer
        silent = any(record.side == "candidate" and record.error not in _ENGINE_ANSWERS for record in warm_up)
        timeout_s = max(LEAST_TIMEOUT_S, profile.timeout_s)
        scoring = Scoring(engine=self.engine, reports=self.reports, sides=sides, timeout_s=timeout_s)
        served_quality = _NO_WARM_UP_ANSWER if silent else await scoring.measure(staged)
        arrivals = plan_arrivals(
            requests=profile.requests,
            rate_rps=profile.rate_rps,
            prompts=len(sides["candidate"].prompts),
            seed=plan.seed,
        )
        return await load.run(arrivals, progress), served_quality

    async def _load_sides(
        self, staged: VariantStaged, plan: BenchmarkPlan, prompts: Sequence[Prompt]
    ) -> dict[Side, LoadedSide] | None:
        """Return both sides with the prompts that fit; None if the baseline's engine counts no tokens.

        Raises:
            Permanent: `evaluation_invalid`: no prompt fits.
        """
        sides: dict[Side, LoadedSide] = {
            "candidate": await self._render(staged.candidate, prompts),
            "baseline": await self._render(staged.baseline, prompts),
        }
        profile = staged.request.load
        limit_tokens = _context(staged) - profile.output_tokens
        fitting = Fitting(engine=self.engine, sides=sides, limit_tokens=limit_tokens, timeout_s=profile.timeout_s)
        chosen = await fitting.choose(requests=profile.requests, seed=plan.seed)
        if not chosen and fitting.is_silent("baseline"):
            return None
        if not chosen:
            raise _none_fits(staged)
        return {
            side: LoadedSide(loaded.served, tuple(loaded.prompts[index] for index in chosen))
            for side, loaded in sides.items()
        }

    async def _check_tools(self, staged: VariantStaged) -> GateResult | None:
        """Return the tool-call gate; None if the candidate has no tool parser."""
        settings = staged.candidate.serving
        if settings is None or settings.tool_parser is None:
            return None
        load, context_tokens = staged.request.load, staged.candidate.context_tokens
        limit = tool_calls.plan_limit(settings, output_tokens=load.output_tokens, context_tokens=context_tokens)
        body = tool_calls.plan_request(staged.candidate.target.model, limit)
        timeout_s = tool_calls.plan_timeout(max(LEAST_TIMEOUT_S, load.timeout_s), limit)
        try:
            answer = await self.engine.ask_api(staged.candidate, tool_calls.PATH, body, timeout_s=timeout_s)
        except SlipwayError as error:
            return tool_calls.not_answered(error.code, error.reason)
        return tool_calls.assess_answer(answer, settings.tool_parser, limit)

    async def _count_endings(
        self, staged: VariantStaged, prompts: Sequence[Prompt], records: Sequence[RequestRecord]
    ) -> dict[Side, NaturalAnswers]:
        """Return both sides' natural answers; empty if a side answered nothing, to avoid a timeout per request."""
        sides: dict[Side, ServedTarget] = {"candidate": staged.candidate, "baseline": staged.baseline}
        if {record.side for record in records if record.error is None} != set(sides):
            return {}
        timeout_s = max(LEAST_TIMEOUT_S, staged.request.load.timeout_s)
        return await count_endings(self.engine, sides, prompts, context_tokens=_context(staged), timeout_s=timeout_s)

    async def _render(self, served: ServedTarget, prompts: Sequence[Prompt]) -> LoadedSide:
        return LoadedSide(served, tuple([await self._render_one(served, prompt) for prompt in prompts]))

    async def _render_one(self, served: ServedTarget, prompt: Prompt) -> str | None:
        if not prompt.messages:
            return prompt.text
        try:
            return await self.template(served, prompt.messages)
        except Permanent:
            return None  # its requests count as errors: production would reject them too

    def _assess_baseline(self, plan: BenchmarkPlan, records: tuple[RequestRecord, ...], started_s: float) -> str:
        """Return why a measurement is void; empty if it is valid.

        Raises:
            Transient: The baseline's engine was lost, and the measurement must be repeated.
        """
        if not has_lost_baseline(records):
            self._first_lost_s.pop(plan.output_key, None)
            return ""
        reason = f"The baseline's engine was lost during the measurement ({describe_lost(records)})"
        first_s = self._first_lost_s.get(plan.output_key)
        tried_s = self.clock.monotonic() - (started_s if first_s is None else first_s)
        if first_s is None or tried_s <= self.give_up_after_s:
            self._first_lost_s.setdefault(plan.output_key, started_s)
            raise Transient("endpoint_unreachable", f"{reason}; it is repeated.")
        del self._first_lost_s[plan.output_key]
        tried = f"tried for {tried_s:.0f} s, the limit is {self.give_up_after_s:.0f} s"
        return f"{reason}; {tried}. It says nothing about the candidate: repair the baseline's engine, then retry."


def _context(staged: VariantStaged) -> int:
    return min(staged.candidate.context_tokens, staged.baseline.context_tokens)


def _none_fits(staged: VariantStaged) -> Permanent:
    answer = staged.request.load.output_tokens
    reason = f"No prompt fits a context of {_context(staged)} tokens with an answer of {answer}."
    return Permanent("evaluation_invalid", reason)


def build(
    bus: Bus,
    *,
    engine: Engine,
    reports: Reports,
    template: Template,
    hardware: Hardware,
    settings: BenchmarkerSettings,
    clock: Clock,
) -> Benchmarker:
    """Register the handler on the bus and return the benchmarker."""
    benchmarker = Benchmarker(
        engine=engine,
        reports=reports,
        template=template,
        clock=clock,
        hardware=hardware,
        give_up_after_s=settings.give_up_after_s,
        machine_price_per_hour=settings.machine_price_per_hour,
    )

    @bus.on(VariantStaged, failure=_failed)
    async def benchmark(event: Event[VariantStaged]) -> VariantBenchmarked | None:
        staged = event.data
        if staged.request.purpose != "benchmark":
            return None
        variant = staged.candidate.target.variant
        report_step = progress_reporter(bus, event, clock, settings.progress_interval_s, variant)

        def report_progress(done: int, total: int) -> None:
            report_step("benchmark", done, total, "requests")

        report, ref = await benchmarker.measure(staged, report_progress)
        return to_event(report, ref)

    return benchmarker


def _failed(event: Event[VariantStaged], error: SlipwayError) -> VariantFailed:
    return VariantFailed(
        variant=event.data.candidate.target.variant,
        step="benchmark",
        code=error.code,
        reason=error.reason,
        details=error.details,
    )
