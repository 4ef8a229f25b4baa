"""Makes what the benchmarker's tests are about, every part given only where it matters."""

from datetime import UTC, datetime

from contracts.facts import (
    EngineVersion,
    Quality,
    ServedQuality,
    StageRequested,
    VariantStaged,
)
from contracts.manifests import FileEntry, HeldOutWindow, VariantManifest
from contracts.policy import LoadProfile, MetricGate, QualityGate
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef, Deployable, Target, digest_of
from services.benchmarker.domain.records import RequestRecord, Side

CANDIDATE = Target(model="support-bot", version=2, variant="int8")
BASELINE = Target(model="support-bot", version=1, variant="bf16")
QUALITY = Quality(perplexity_ratio=1.01, mean_kl=0.01, p99_kl=0.1, top1_agreement_ratio=0.97, tokens=1000)
UNSCORED = ServedQuality(method="none", verdict="inconclusive", reason="not asked")


def artifact(name: str) -> ArtifactRef:
    return ArtifactRef(uri=f"s3://slipway/{name}", digest=digest_of(name.encode()), size_bytes=len(name))


def served(target: Target, *endpoints: str, **more) -> ServedTarget:
    return ServedTarget(
        target=target, manifest=artifact(str(target)), weights_bytes=1, endpoints=endpoints or ("127.0.0.1:1",), **more
    )


def deployable(target: ServedTarget) -> Deployable:
    return Deployable(
        target=target.target,
        manifest=target.manifest,
        weights_bytes=target.weights_bytes,
    )


def staged(
    *,
    candidate: ServedTarget | None = None,
    baseline: ServedTarget | None = None,
    load: LoadProfile | None = None,
    gates: tuple[MetricGate, ...] = (),
    evaluation: ArtifactRef | None = None,
    quality_gate: QualityGate | None = None,
    attempt: int = 1,
    purpose: str = "benchmark",
    lease_id: str = "lease-1",
) -> VariantStaged:
    candidate = candidate or served(CANDIDATE)
    baseline = baseline or served(BASELINE)
    return VariantStaged(
        lease_id=lease_id,
        candidate=candidate,
        baseline=baseline,
        load_s=1.0,
        request=StageRequested(
            release_id="r1",
            candidate=deployable(candidate),
            baseline=deployable(baseline),
            purpose=purpose,
            load=load or LoadProfile(requests=30, rate_rps=2.0, output_tokens=8, warmup_requests=2, timeout_s=5.0),
            gates=gates,
            evaluation=evaluation,
            quality=QUALITY,
            quality_gate=quality_gate,
            attempt=attempt,
        ),
    )


def window(
    *, tokens: int = 100, token_nll: float = 2.0, reference_nll: float = 2.0, by_token: bool = False
) -> HeldOutWindow:
    """A window of so many predicted tokens, of so many nats each for the variant and the merged model."""
    ids = tuple(range(tokens + 1))
    each = {"token_nlls": (token_nll,) * tokens, "reference_token_nlls": (reference_nll,) * tokens}
    sums = {"reference_nll": reference_nll * tokens, "nll": token_nll * tokens}
    return HeldOutWindow(token_ids=ids, **sums, **(each if by_token else {}))


def variant_manifest(
    target: Target,
    held_out: FileEntry | None,
    *,
    quality: Quality = QUALITY,
) -> VariantManifest:
    """The manifest of a variant that was measured on the windows of this blob."""
    return VariantManifest(
        model=target.model,
        variant=target.variant,
        output_key=digest_of(str(target).encode()),
        merged=artifact("merged"),
        files=(),
        engine=EngineVersion(name="test", version="1"),
        settings={},
        calibration_digest=None,
        held_out_digest=digest_of(b"text"),
        held_out_text=held_out,
        size_ratio=1.0,
        quality=quality,
        weights_bytes=1,
        duration_s=1.0,
        peak_rss_bytes=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def record(
    *,
    side: Side = "candidate",
    pair: int = 0,
    scheduled_s: float = 0.0,
    late_s: float = 0.0,
    ttft_ms: float = 100.0,
    itl_ms: float = 10.0,
    tokens: int = 8,
    error: str | None = None,
) -> RequestRecord:
    """An answered request whose figures are those given; with `error` a failed one."""
    first = scheduled_s + ttft_ms / 1000
    last = first + itl_ms * (tokens - 1) / 1000
    return RequestRecord(
        side=side,
        pair=pair,
        prompt=0,
        scheduled_s=scheduled_s,
        sent_s=scheduled_s + late_s,
        first_s=None if error else first,
        last_s=None if error else last,
        done_s=last,
        input_tokens=5,
        output_tokens=0 if error else tokens,
        error=error,
    )
