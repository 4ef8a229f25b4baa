"""Compare the variants of a release by its events, including those that were never registered. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from contracts.manifests import VariantManifest
from contracts.policy import ReleasePolicy
from contracts.vocabulary import ArtifactRef, Variant
from decisions.variant_verdicts import assess_benchmark, assess_quality_gate

COLUMNS = ("variant", "size", "ratio", "ppl", "served", "KL", "p99 KL", "top-1", "TTFT ms", "TPS", "verdict")
"""`ratio` is the size relative to the merged model. Perplexities are ratios to the merged model's: `ppl` by the files,
`served` through the engine. KL is the mean, TTFT is p50/p95."""
LEGEND = (
    "ratio: size to the merged model's; ppl: perplexity to the merged model's, by the files; served: by the engine; "
    "KL in nats a token; top-1: share of the same likeliest token; TTFT: p50/p95"
)


@dataclass(frozen=True)
class VariantSummary:
    """A requested variant: its files, measurements and verdict; None is not known (yet)."""

    variant: Variant
    manifest: ArtifactRef | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    quality: f.Quality | None = None
    own_quality: f.Quality | None = None
    served_perplexity_ratio: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    tps_system: float | None = None
    verdict: str | None = None
    code: str | None = None
    reason: str = ""
    attributed_to: str | None = None
    chosen: bool = False
    on_pareto_front: bool | None = None

    def row(self) -> tuple[str, ...]:
        """Return the cells, in the order of `COLUMNS`."""
        quality = self.quality
        measured = (
            ("-",) * 3
            if quality is None
            else (f"{quality.mean_kl:.4f}", f"{quality.p99_kl:.3f}", f"{quality.top1_agreement_ratio:.3f}")
        )
        return (
            self.variant,
            "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.0f} MB",
            _times(self.size_ratio, 2),
            _times(quality.perplexity_ratio if quality else None, 4),
            _times(self.served_perplexity_ratio, 4),
            *measured,
            "-" if self.ttft_p50_ms is None else f"{self.ttft_p50_ms:.0f}/{_plain(self.ttft_p95_ms, 0)}",
            _plain(self.tps_system, 1),
            "chosen" if self.chosen else self.verdict or "-",
        )

    def why(self) -> str:
        """Return why it was chosen or not: `gptq-int4: quality_gate_failed: too much quality was lost`."""
        return ": ".join(part for part in (self.variant, self.code, self.reason) if part)

    def as_data(self) -> dict[str, Any]:
        """Return the summary as JSON data."""
        refs = {"manifest": self.manifest, "quality": self.quality, "own_quality": self.own_quality}
        return asdict(self) | {name: model and model.model_dump(mode="json") for name, model in refs.items()}


def _times(value: float | None, digits: int) -> str:
    return "-" if value is None else f"x{value:.{digits}f}"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def find_release(events: Iterable[Event[Any]], model: str, version: int) -> f.ReleaseOpened | None:
    """Return the release that a version number was reserved for."""
    opened = (event.data for event in events if isinstance(event.data, f.ReleaseOpened))
    return next((release for release in opened if (release.model, release.version) == (model, version)), None)


def find_end(events: Iterable[Event[Any]], release_id: str) -> f.ReleaseFinished | None:
    """Return the end of a release, or None while it is in progress."""
    ends = (event.data for event in events if isinstance(event.data, f.ReleaseFinished))
    return next((end for end in ends if end.release_id == release_id), None)


def compare(
    events: Sequence[Event[Any]], opened: f.ReleaseOpened, registered: Sequence[f.RegisteredVariant] = ()
) -> list[VariantSummary]:
    """Return the requested variants of a release; `registered` are those of its version's manifest."""
    facts = [
        event.data for event in events if event.correlationid == opened.release_id and event.environment == "production"
    ]
    compared = {variant: VariantSummary(variant) for variant in dict.fromkeys(opened.variants)}
    for entry in registered:
        compared[entry.variant] = _made(compared.get(entry.variant) or VariantSummary(entry.variant), entry)
    for fact in facts:
        variant = fact.target.variant if isinstance(fact, f.VariantBenchmarked) else getattr(fact, "variant", None)
        apply = _APPLY.get(type(fact))
        if apply is not None and variant in compared:
            compared[variant] = apply(compared[variant], fact, opened.policy)
    choices = [fact.comparison for fact in facts if getattr(fact, "comparison", None) is not None]
    return list((_chosen(compared, choices[-1]) if choices else compared).values())


def on_own_set(compared: Iterable[VariantSummary]) -> str:
    """Return the perplexities on the checkpoint's own evaluation set as text; empty if there was none."""
    measured = [(summary.variant, summary.own_quality) for summary in compared if summary.own_quality is not None]
    texts = (f"{variant} {_times(own.perplexity_ratio, 4)} ({own.tokens} tokens)" for variant, own in measured)
    return f"perplexity on its own evaluation set: {', '.join(texts)}" if measured else ""


def registered_alone(entry: f.RegisteredVariant) -> VariantSummary:
    """Return a registered variant whose release is no longer in the log."""
    return _made(VariantSummary(entry.variant), entry)


def with_manifest(summary: VariantSummary, manifest: VariantManifest) -> VariantSummary:
    """Return a variant completed from its stored manifest, if it was never registered."""
    return replace(
        summary,
        size_bytes=manifest.weights_bytes,
        size_ratio=manifest.size_ratio,
        quality=summary.quality or manifest.quality,
        own_quality=manifest.evaluation_quality,
    )


def _made(summary: VariantSummary, fact: f.VariantQuantised | f.RegisteredVariant) -> VariantSummary:
    return replace(
        summary,
        manifest=fact.manifest,
        size_bytes=fact.weights_bytes,
        size_ratio=fact.size_ratio,
        quality=fact.quality,
        own_quality=fact.evaluation_quality if isinstance(fact, f.VariantQuantised) else summary.own_quality,
    )


def _quantised(summary: VariantSummary, fact: f.VariantQuantised, policy: ReleasePolicy) -> VariantSummary:
    summary = _made(summary, fact)
    excluded = assess_quality_gate(policy, fact)
    if excluded is None:
        return summary
    code, reason = excluded
    return replace(summary, verdict="inconclusive" if code == "inconclusive" else "fail", code=code, reason=reason)


def _failed(summary: VariantSummary, fact: f.VariantFailed, _policy: ReleasePolicy) -> VariantSummary:
    if fact.purpose == "rehearsal":
        return summary  # the variant was assessed before
    return replace(
        summary,
        manifest=fact.manifest or summary.manifest,
        quality=fact.quality or summary.quality,
        verdict="inconclusive" if fact.code == "inconclusive" else "fail",
        code=fact.code,
        reason=fact.reason,
    )


def _benchmarked(summary: VariantSummary, fact: f.VariantBenchmarked, policy: ReleasePolicy) -> VariantSummary:
    side, served = fact.candidate_summary, fact.served_quality
    verdict, code, reason = assess_benchmark(policy, fact)
    return replace(
        summary,
        quality=fact.quality or summary.quality,
        ttft_p50_ms=side.ttft_ms.p50,
        ttft_p95_ms=side.ttft_ms.p95,
        served_perplexity_ratio=served.perplexity_ratio if served and served.method == "prompt_logprobs" else None,
        tps_system=side.tps_system,
        verdict=verdict,
        code=None if verdict == "pass" else code,
        reason=reason,
        attributed_to=next((gate.attributed_to for gate in fact.gates if gate.attributed_to), None),
    )


def _chosen(compared: dict[Variant, VariantSummary], choice: f.Comparison) -> dict[Variant, VariantSummary]:
    """Return the variants with the verdicts of the registry's comparison, where it has one."""
    decided = {entry.variant: entry for entry in choice.variants}
    return {
        variant: replace(
            summary,
            verdict=decided[variant].verdict,
            code=decided[variant].code,
            reason=decided[variant].reason,
            on_pareto_front=decided[variant].on_pareto_front,
            chosen=variant == choice.winner,
        )
        if variant in decided
        else summary
        for variant, summary in compared.items()
    }


_APPLY: dict[type, Any] = {
    f.VariantQuantised: _quantised,
    f.VariantFailed: _failed,
    f.VariantBenchmarked: _benchmarked,
}
