"""The quantiser's handler: makes and measures the variant of each request, and answers with it or a failure."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from contracts.envelope import Event
from contracts.evaluations.text_sets import evaluation_records
from contracts.facts import VariantFailed, VariantQuantised, VariantRequested
from contracts.manifests import FileEntry, MergedManifest, VariantManifest
from contracts.vocabulary import ArtifactRef
from services.quantiser import domain
from services.quantiser.ports import (
    Artifacts,
    Engine,
    PackagedText,
    QuantisationJob,
    QuantisationResult,
    ReleaseWatch,
    WatchRelease,
)
from services.quantiser.settings import QuantiserSettings
from shared.errors import Permanent, SlipwayError
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock
from shared.runtime.progress import ReportProgress, progress_reporter

CHECK_INTERVAL_S = 2.0
T = TypeVar("T")


async def unless_finished(
    work: Coroutine[Any, Any, T], release: ReleaseWatch, *, interval_s: float = CHECK_INTERVAL_S
) -> T | None:
    """Return the result of `work`; None if its release finishes first, then `work` is cancelled or never starts.

    Args:
        work: The work.
        release: Watches the release; checked before the start and at each interval.
        interval_s: Seconds between checks.
    """
    if await _has_finished(release):
        work.close()
        return None
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=interval_s))[0]:
            if await _has_finished(release):
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _has_finished(release: ReleaseWatch) -> bool:
    finished = await release.finished()
    if finished is None:
        return False
    structlog.get_logger().info("the release has finished", outcome=finished.outcome)
    return True


@dataclass(frozen=True)
class PlannedVariant:
    """A request with its plan; `calibration_digest` is None if the plan needs no calibration."""

    request: VariantRequested
    merged: MergedManifest
    plan: domain.QuantisationPlan
    calibration_digest: str | None
    output_key: str


@dataclass(frozen=True)
class Quantiser:
    """Makes one variant per request."""

    artifacts: Artifacts
    engine: Engine
    packaged: PackagedText
    clock: Clock
    defaults: domain.QuantiserDefaults = field(default_factory=domain.QuantiserDefaults)

    async def quantise(
        self, request: VariantRequested, progress: ReportProgress
    ) -> tuple[VariantManifest, ArtifactRef]:
        """Return a request's committed variant; make it if there is none.

        Raises:
            Permanent: The variant is rejected or cannot be made.
        """
        started = self.clock.monotonic()
        merged = await asyncio.to_thread(self.artifacts.open_merged, request.merged)
        if merged.settings_of is not None:
            return await self._with_settings(request, merged, merged.settings_of, progress)
        async with self.artifacts.scratch_dir(f"{request.variant}-{request.merged.digest}") as scratch_dir:
            planned = await self._plan(request, merged, scratch_dir)
            committed = await asyncio.to_thread(self.artifacts.find_variant, request.merged, planned.output_key)
            if committed is not None:
                return committed
            files, result = await self._make(planned, scratch_dir, progress)
        held_out = await asyncio.to_thread(self.artifacts.put_held_out, request.merged, result.held_out)
        manifest = self._manifest(planned, files, result, held_out, self.clock.monotonic() - started)
        return await asyncio.to_thread(self.artifacts.commit, request.merged, manifest)

    async def _with_settings(
        self, request: VariantRequested, merged: MergedManifest, settings_of: ArtifactRef, progress: ReportProgress
    ) -> tuple[VariantManifest, ArtifactRef]:
        """Return the variant for a merged model with other serving settings; it reuses the existing files."""
        variant, _ = await self.quantise(request.model_copy(update={"merged": settings_of}), progress)
        output_key = domain.plan_settings_key(variant.output_key, request.merged.digest)
        committed = await asyncio.to_thread(self.artifacts.find_variant, request.merged, output_key)
        if committed is not None:
            return committed
        update = {
            "output_key": output_key,
            "merged": request.merged,
            "serving": merged.serving,
            "created_at": self.clock.now(),
        }
        return await asyncio.to_thread(self.artifacts.commit, request.merged, variant.model_copy(update=update))

    async def _plan(self, request: VariantRequested, merged: MergedManifest, scratch_dir: Path) -> PlannedVariant:
        config = [file for file in merged.files if file.path == "config.json"]
        if not config:
            raise Permanent("artifact_not_found", "The merged model has no config.json.")
        local = scratch_dir / "config"
        await asyncio.to_thread(self.artifacts.fetch, request.merged, config, local, _ignore_progress)
        parsed: dict[str, Any] = json.loads((local / "config.json").read_bytes())
        shape = domain.read_shape(parsed, merged.method.dtype)
        plan = plan_or_raise(domain.plan_quantisation(request.variant, shape, request.settings, self.defaults))
        calibration = None
        if plan.calibration is not None:
            calibration = request.calibration.digest if request.calibration else self.packaged.calibration
        output_key = domain.plan_output_key(
            plan,
            merged=request.merged.digest,
            calibration=calibration,
            held_out=self.packaged.held_out,
            libraries=self.engine.library_versions(plan),
            evaluation=request.evaluation.digest if request.evaluation else None,
        )
        return PlannedVariant(request, merged, plan, calibration, output_key)

    async def _make(
        self, planned: PlannedVariant, scratch_dir: Path, progress: ReportProgress
    ) -> tuple[tuple[FileEntry, ...], QuantisationResult]:
        request, merged, plan = planned.request, planned.merged, planned.plan
        unchanged = plan.engine == "pass-through"
        calibration = await self._fetch_texts(
            request.calibration if plan.calibration else None, scratch_dir / "calibration"
        )
        evaluation = await self._fetch_texts(request.evaluation, scratch_dir / "evaluation")
        if evaluation is not None:
            await asyncio.to_thread(validate_evaluation, evaluation)
        job = QuantisationJob(
            plan=plan,
            merged=scratch_dir / "merged",
            output=scratch_dir / ("merged" if unchanged else "output"),
            calibration=calibration,
            evaluation=evaluation,
        )
        await asyncio.to_thread(self.artifacts.fetch, request.merged, merged.files, job.merged, progress)
        result = await self.engine.quantise(job, progress)
        if unchanged:
            return merged.files, result
        files = await asyncio.to_thread(self.artifacts.put, request.merged, job.output, progress)
        return files, result

    async def _fetch_texts(self, ref: ArtifactRef | None, into: Path) -> Path | None:
        return None if ref is None else await asyncio.to_thread(self.artifacts.fetch_texts, ref, into)

    def _manifest(
        self,
        planned: PlannedVariant,
        files: tuple[FileEntry, ...],
        result: QuantisationResult,
        held_out: FileEntry | None,
        duration_s: float,
    ) -> VariantManifest:
        request, plan = planned.request, planned.plan
        weights_bytes = sum(file.size_bytes for file in files if file.path.endswith(".safetensors"))
        return VariantManifest(
            model=planned.merged.model,
            variant=request.variant,
            output_key=planned.output_key,
            merged=request.merged,
            files=files,
            engine=self.engine.version(plan),
            settings={**plan.model_dump(mode="json"), "calibration_tokens_used": result.calibration_tokens},
            calibration_digest=planned.calibration_digest,
            held_out_digest=self.packaged.held_out,
            held_out_text=held_out,
            size_ratio=weights_bytes / max(planned.merged.weights_bytes, 1),
            quality=result.quality,
            weights_bytes=weights_bytes,
            duration_s=duration_s,
            peak_rss_bytes=result.peak_rss_bytes,
            created_at=self.clock.now(),
            evaluation_quality=result.evaluation_quality,
            evaluation_digest=request.evaluation.digest if request.evaluation else None,
            serving=planned.merged.serving,
        )


def plan_or_raise(plan: T | domain.Rejection) -> T:
    """Return the plan, or raise its rejection, which becomes `variant.failed`.

    Raises:
        Permanent: The plan is a rejection.
    """
    if isinstance(plan, domain.Rejection):
        raise Permanent(plan.code, plan.reason)
    return plan


def validate_evaluation(path: Path) -> None:
    """Check that the benchmarker can read the evaluation set, before hours of work depend on it.

    Raises:
        Permanent: `evaluation_invalid`, naming the line.
    """
    try:
        evaluation_records(path.read_bytes())
    except ValueError as error:
        raise Permanent("evaluation_invalid", f"The evaluation set cannot be read: {error}.") from error


def _ignore_progress(_step: str, _done: float, _total: float, _unit: str) -> None:
    """Ignore progress, for downloads of about a kilobyte."""


SERVICE = "quantiser"


def check_gate(request: VariantRequested, manifest: VariantManifest, ref: ArtifactRef) -> None:
    """Raise Permanent if a variant fails its quality gate; its files stay in the store for inspection.

    Raises:
        Permanent: `quality_gate_failed`, or `inconclusive` with too few measured tokens.
    """
    assessment = domain.assess_quality(
        manifest.quality,
        request.gate,
        own=manifest.evaluation_quality,
        identical=manifest.settings.get("engine") == "pass-through",
    )
    if assessment.verdict == "pass":
        return
    code: domain.GateCode = "quality_gate_failed" if assessment.verdict == "fail" else "inconclusive"
    details = {"manifest": ref.model_dump(mode="json"), "quality": manifest.quality.model_dump(mode="json")}
    if manifest.evaluation_quality is not None:
        details["evaluation_quality"] = manifest.evaluation_quality.model_dump(mode="json")
    raise Permanent(code, assessment.reason, **details)


def build(
    bus: Bus,
    *,
    artifacts: Artifacts,
    engine: Engine,
    packaged: PackagedText,
    watch_release: WatchRelease,
    settings: QuantiserSettings,
    clock: Clock,
) -> Quantiser:
    """Register the handler on the bus and return the quantiser."""
    quantiser = Quantiser(
        artifacts=artifacts, engine=engine, packaged=packaged, clock=clock, defaults=settings.defaults()
    )

    @bus.on(VariantRequested, failure=_failed)
    async def quantise(event: Event[VariantRequested]) -> VariantQuantised | None:
        progress = progress_reporter(bus, event, clock, settings.progress_interval_s, event.data.variant)
        variant = await unless_finished(quantiser.quantise(event.data, progress), watch_release(event))
        if variant is None:
            return None
        manifest, ref = variant
        check_gate(event.data, manifest, ref)
        return VariantQuantised(
            variant=manifest.variant,
            manifest=ref,
            weights_bytes=manifest.weights_bytes,
            engine=manifest.engine,
            settings=manifest.settings,
            size_ratio=manifest.size_ratio,
            quality=manifest.quality,
            duration_s=manifest.duration_s,
            evaluation_quality=manifest.evaluation_quality,
        )

    return quantiser


def _failed(event: Event[VariantRequested], error: SlipwayError) -> VariantFailed:
    details = dict(error.details)
    kept = {name: details.pop(name) for name in ("manifest", "quality") if name in details}
    return VariantFailed(
        variant=event.data.variant,
        step="quantise",
        code=error.code,
        reason=error.sentence(),
        details=details,
        **kept,
    )
