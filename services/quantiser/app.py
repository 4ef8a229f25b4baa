"""Takes a request for one precision of a merged model, makes it, measures it, and says what came of it."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from contracts.envelope import Event
from contracts.facts import VariantFailed, VariantQuantised, VariantRequested
from contracts.manifests import FileEntry, MergedManifest, VariantManifest
from contracts.text_sets import evaluation_records
from contracts.vocabulary import ArtifactRef
from services.quantiser import domain
from services.quantiser.ports import Artifacts, End, Engine, FindEnd, Made, Order, PackagedText, Progress
from shared.errors import Permanent
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock
from shared.runtime.progress import teller

SERVICE = "quantiser"
LOOK_EVERY_S = 2.0
"""How often a piece of work looks whether its release has ended meanwhile."""
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """One work item, planned; `calibration_digest` is None when nothing calibrates."""

    request: VariantRequested
    merged: MergedManifest
    plan: domain.QuantisationPlan
    calibration_digest: str | None
    output_key: str


@dataclass(frozen=True)
class Quantiser:
    """Makes one variant; the outside comes in through its ports."""

    artifacts: Artifacts
    engine: Engine
    packaged: PackagedText
    clock: Clock
    defaults: domain.QuantiserDefaults = field(default_factory=domain.QuantiserDefaults)

    async def quantise(self, request: VariantRequested, progress: Progress) -> tuple[VariantManifest, ArtifactRef]:
        """Return the committed variant: the one already there, or a new one; its second measurement, if that is asked.

        Raises:
            Permanent: The variant is refused or cannot be made.
        """
        started = self.clock.monotonic()
        merged = await asyncio.to_thread(self.artifacts.open_merged, request.merged)
        if request.measurement_number > 1:
            return await self._measure_again(request, merged, progress)
        async with self.artifacts.workshop(f"{request.variant}-{request.merged.digest}") as room:
            work = await self._plan(request, merged, room)
            found = await asyncio.to_thread(self.artifacts.find_variant, request.merged, work.output_key)
            if found is not None:
                return found
            files, made = await self._make(work, room, progress)
        manifest = self._manifest(work, files, made, self.clock.monotonic() - started)
        return await asyncio.to_thread(self.artifacts.commit, request.merged, manifest)

    async def _measure_again(
        self, request: VariantRequested, merged: MergedManifest, progress: Progress
    ) -> tuple[VariantManifest, ArtifactRef]:
        """Measure the files of a committed variant once more; no weight is made."""
        started = self.clock.monotonic()
        first, made = await self._first(request)
        plan = domain.QuantisationPlan.model_validate(first.settings)
        output_key = domain.plan_measurement_key(
            made.digest,
            measurement_number=request.measurement_number,
            release_id=request.release_id,
            held_out=self.packaged.held_out,
            libraries=self.engine.library_versions(plan),
            evaluation=request.evaluation.digest if request.evaluation else None,
            processor=await self.engine.processor(),
        )
        found = await asyncio.to_thread(self.artifacts.find_variant, request.merged, output_key)
        if found is not None:
            return found
        async with self.artifacts.workshop(f"{request.variant}-{output_key}") as room:
            evaluation = await self._texts(request.evaluation, room / "evaluation")
            output = room / ("merged" if plan.engine == "pass-through" else "output")
            order = Order(plan=plan, merged=room / "merged", output=output, evaluation=evaluation, measure_again=True)
            await asyncio.to_thread(self.artifacts.fetch, request.merged, merged.files, order.merged, progress)
            if output != order.merged:
                await asyncio.to_thread(self.artifacts.fetch, request.merged, first.files, output, progress)
            measured = await self.engine.quantise(order, progress)
        manifest = first.model_copy(
            update={
                "output_key": output_key,
                "held_out": measured.held_out,
                "held_out_digest": self.packaged.held_out,
                "quality": measured.quality,
                "evaluation_quality": measured.evaluation_quality,
                "created_at": self.clock.now(),
                "duration_s": self.clock.monotonic() - started,
                "peak_rss_bytes": measured.peak_rss_bytes,
                "measurement": measured.measurement,
            }
        )
        return await asyncio.to_thread(self.artifacts.commit, request.merged, manifest)

    async def _first(self, request: VariantRequested) -> tuple[VariantManifest, ArtifactRef]:
        """Return the manifest whose files are to be measured again.

        Raises:
            Permanent: None is named, it is not there, or it is another variant's.
        """
        if request.existing_manifest is None:
            number = request.measurement_number
            reason = f"Measurement {number} of {request.variant} has no `existing_manifest`."
            raise Permanent("artifact_not_found", reason)
        first = await asyncio.to_thread(self.artifacts.open_variant, request.existing_manifest)
        if (first.variant, first.merged) != (request.variant, request.merged):
            reason = (
                f"{request.existing_manifest.uri} is {first.variant} of {first.merged.uri}; {request.variant} of "
                f"{request.merged.uri} was to be measured again."
            )
            raise Permanent("digest_mismatch", reason)
        return first, request.existing_manifest

    async def _plan(self, request: VariantRequested, merged: MergedManifest, room: Path) -> Work:
        config = [file for file in merged.files if file.path == "config.json"]
        if not config:
            raise Permanent("artifact_not_found", "The merged model has no config.json.")
        await asyncio.to_thread(self.artifacts.fetch, request.merged, config, room / "config", _quiet)
        parsed: dict[str, Any] = json.loads((room / "config" / "config.json").read_bytes())
        shape = domain.shape_of(parsed, merged.method.dtype)
        plan = accept(domain.plan_quantisation(request.variant, shape, request.settings, self.defaults))
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
            processor=await self.engine.processor(),
        )
        return Work(request, merged, plan, calibration, output_key)

    async def _make(self, work: Work, room: Path, progress: Progress) -> tuple[tuple[FileEntry, ...], Made]:
        request, merged, plan = work.request, work.merged, work.plan
        unchanged = plan.engine == "pass-through"
        calibration = await self._texts(request.calibration if plan.calibration else None, room / "calibration")
        evaluation = await self._texts(request.evaluation, room / "evaluation")
        if evaluation is not None:
            await asyncio.to_thread(check_evaluation, evaluation)
        output = room / ("merged" if unchanged else "output")
        order = Order(plan=plan, merged=room / "merged", output=output, calibration=calibration, evaluation=evaluation)
        await asyncio.to_thread(self.artifacts.fetch, request.merged, merged.files, order.merged, progress)
        made = await self.engine.quantise(order, progress)
        if unchanged:
            return merged.files, made
        files = await asyncio.to_thread(self.artifacts.put, request.merged, order.output, progress)
        return files, made

    async def _texts(self, ref: ArtifactRef | None, into: Path) -> Path | None:
        return None if ref is None else await asyncio.to_thread(self.artifacts.fetch_texts, ref, into)

    def _manifest(self, work: Work, files: tuple[FileEntry, ...], made: Made, duration_s: float) -> VariantManifest:
        weights_bytes = sum(file.size_bytes for file in files if file.path.endswith(".safetensors"))
        return VariantManifest(
            model=work.merged.model,
            variant=work.request.variant,
            output_key=work.output_key,
            merged=work.request.merged,
            files=files,
            engine=self.engine.version(work.plan),
            settings={**work.plan.model_dump(mode="json"), "calibration_tokens_used": made.calibration_tokens},
            calibration_digest=work.calibration_digest,
            held_out_digest=self.packaged.held_out,
            held_out=made.held_out,
            size_ratio=weights_bytes / max(work.merged.weights_bytes, 1),
            quality=made.quality,
            weights_bytes=weights_bytes,
            duration_s=duration_s,
            peak_rss_bytes=made.peak_rss_bytes,
            created_at=self.clock.now(),
            evaluation_quality=made.evaluation_quality,
            evaluation_digest=work.request.evaluation.digest if work.request.evaluation else None,
            measurement=made.measurement,
        )


def accept(plan: T | domain.Refusal) -> T:
    """Return the plan, or turn the domain's refusal into the error that becomes `variant.failed`.

    Raises:
        Permanent: There is a refusal.
    """
    if isinstance(plan, domain.Refusal):
        raise Permanent(plan.code, plan.reason)
    return plan


def check_evaluation(path: Path) -> None:
    """See that the benchmarker will be able to read the evaluation set, before hours of work depend on it.

    Raises:
        Permanent: `evaluation_invalid`, with the line.
    """
    try:
        evaluation_records(path.read_bytes())
    except ValueError as error:
        raise Permanent("evaluation_invalid", f"The evaluation set cannot be read: {error}.") from error


def check_gate(request: VariantRequested, manifest: VariantManifest, ref: ArtifactRef) -> None:
    """Hold a variant against the policy's gate; one outside it stays in the store, to be looked at.

    Raises:
        Permanent: `quality_gate_failed`, or `inconclusive` when too little was measured, or its precision is unknown.
    """
    identical = manifest.settings.get("engine") == "pass-through"
    own = manifest.evaluation_quality
    check = manifest.measurement.check if manifest.measurement else None
    assessment = domain.assess_quality(manifest.quality, request.gate, own=own, identical=identical, check=check)
    if assessment.verdict == "pass":
        return
    code: domain.GateCode = "quality_gate_failed" if assessment.verdict == "fail" else "inconclusive"
    details = {"manifest": ref.model_dump(mode="json"), "quality": manifest.quality.model_dump(mode="json")}
    if own is not None:
        details["evaluation_quality"] = own.model_dump(mode="json")
    raise Permanent(code, assessment.reason, **details)


async def unless_over(work: Coroutine[Any, Any, T], end: End) -> T | None:
    """Return what the work gives; None, with the work ended or never begun, once its release has ended."""
    if await _is_over(end):
        work.close()
        return None
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_EVERY_S))[0]:
            if await _is_over(end):
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _is_over(end: End) -> bool:
    finished = await end.look()
    if finished is None:
        return False
    structlog.get_logger().info("release is over", outcome=finished.outcome)
    return True


def build(bus: Bus, quantiser: Quantiser, *, find_end: FindEnd, progress_interval_s: float = 0.5) -> None:
    """Register the handlers."""

    @bus.on(VariantRequested, failure=_failed)
    async def quantise(event: Event[VariantRequested]) -> VariantQuantised | None:
        tell = teller(bus, event, quantiser.clock, progress_interval_s, event.data.variant)
        made = await unless_over(quantiser.quantise(event.data, tell), find_end(event))
        if made is None:
            return None
        manifest, ref = made
        check_gate(event.data, manifest, ref)
        return VariantQuantised(
            variant=manifest.variant,
            manifest=ref,
            weights_bytes=manifest.weights_bytes,
            engine=manifest.engine,
            settings=manifest.settings,
            calibration_digest=manifest.calibration_digest,
            size_ratio=manifest.size_ratio,
            quality=manifest.quality,
            duration_s=manifest.duration_s,
            peak_rss_bytes=manifest.peak_rss_bytes,
            evaluation_quality=manifest.evaluation_quality,
            measurement_number=event.data.measurement_number,
            measurement=manifest.measurement,
        )


def _failed(failed: Failed) -> VariantFailed | None:
    if failed.event is None:
        return None  # nobody's release: the bus keeps it as a dead letter
    error, request = failed.error, failed.event.data
    details = dict(error.details)
    kept = {name: details.pop(name) for name in ("manifest", "quality") if name in details}
    return VariantFailed(
        variant=request.variant,
        step="quantise",
        code=error.code,
        reason=error.sentence(),
        details=details,
        measurement_number=request.measurement_number,
        **kept,
    )


def _quiet(_step: str, _done: float, _total: float, _unit: str) -> None:
    """Tell nobody: the file is a kilobyte."""
