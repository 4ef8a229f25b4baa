"""Makes and measures one variant per request; publishes `variant.quantised` or `variant.failed`."""

from contracts.envelope import Event
from contracts.facts import VariantFailed, VariantQuantised, VariantRequested
from contracts.manifests import VariantManifest
from contracts.vocabulary import ArtifactRef
from services.quantiser import domain
from services.quantiser.cancellation import unless_finished
from services.quantiser.ports import Artifacts, Engine, PackagedText, WatchRelease
from services.quantiser.quantise import Quantiser
from services.quantiser.settings import QuantiserSettings
from shared.errors import Permanent
from shared.messaging.bus import Bus, Failed
from shared.runtime.clock import Clock
from shared.runtime.progress import progress_reporter

SERVICE = "quantiser"


def check_gate(request: VariantRequested, manifest: VariantManifest, ref: ArtifactRef) -> None:
    """Raise an error if a variant fails the policy's quality gate; its files stay in the store for inspection.

    Raises:
        Permanent: `quality_gate_failed`, or `inconclusive` if too few tokens were measured or the precision of the
            measurement could not be checked.
    """
    assessment = domain.assess_quality(
        manifest.quality,
        request.gate,
        own=manifest.evaluation_quality,
        identical=manifest.settings.get("engine") == "pass-through",
        check=manifest.measurement.check if manifest.measurement else None,
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
    """Register the handlers on the bus and return the use case behind them."""
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
            calibration_digest=manifest.calibration_digest,
            size_ratio=manifest.size_ratio,
            quality=manifest.quality,
            duration_s=manifest.duration_s,
            peak_rss_bytes=manifest.peak_rss_bytes,
            evaluation_quality=manifest.evaluation_quality,
            measurement=manifest.measurement,
        )

    return quantiser


def _failed(failed: Failed) -> VariantFailed | None:
    if failed.event is None:
        return None  # the release is unknown: the bus keeps the message as a dead letter
    error, request = failed.error, failed.event.data
    details = dict(error.details)
    kept = {name: details.pop(name) for name in ("manifest", "quality") if name in details}
    return VariantFailed(
        variant=request.variant,
        step="quantise",
        code=error.code,
        reason=error.sentence(),
        details=details,
        **kept,
    )
