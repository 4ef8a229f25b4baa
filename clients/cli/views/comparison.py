"""The variants of a release side by side, by its facts: also those that never became part of a version. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from contracts.manifests import VariantManifest
from contracts.vocabulary import ArtifactRef, Variant

COLUMNS = ("variant", "size", "ratio", "ppl", "served", "KL", "p99 KL", "top-1", "TTFT ms", "TPS", "verdict")
"""Sizes are also ratios to the merged model's; perplexities are only that, `ppl` by the files and `served` through the
engine. KL is the mean, TTFT is p50/p95."""


@dataclass(frozen=True)
class Contender:
    """A requested variant: what it is, what was measured of it, and what came of it; None is not known (yet)."""

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
        """Return it as cells, in the order of `COLUMNS`."""
        one = self.quality
        measured = (
            ("-",) * 3
            if one is None
            else (f"{one.mean_kl:.4f}", f"{one.p99_kl:.3f}", f"{one.top1_agreement_ratio:.3f}")
        )
        return (
            self.variant,
            "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.0f} MB",
            _times(self.size_ratio, 2),
            _times(one.perplexity_ratio if one else None, 4),
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
        """Return it as JSON data."""
        refs = {"manifest": self.manifest, "quality": self.quality, "own_quality": self.own_quality}
        return asdict(self) | {name: one and one.model_dump(mode="json") for name, one in refs.items()}


def _times(value: float | None, digits: int) -> str:
    return "-" if value is None else f"x{value:.{digits}f}"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def find_release(events: Iterable[Event[Any]], model: str, version: int) -> f.ReleaseOpened | None:
    """Return the release that a version number was reserved for."""
    opened = (event.data for event in events if isinstance(event.data, f.ReleaseOpened))
    return next((one for one in opened if (one.model, one.version) == (model, version)), None)


def find_end(events: Iterable[Event[Any]], release_id: str) -> f.ReleaseFinished | None:
    """Return the end of a release; None while it goes on."""
    ends = (event.data for event in events if isinstance(event.data, f.ReleaseFinished))
    return next((one for one in ends if one.release_id == release_id), None)


def compare(
    events: Sequence[Event[Any]], opened: f.ReleaseOpened, registered: Sequence[f.RegisteredVariant] = ()
) -> list[Contender]:
    """List the requested variants of a release; `registered` are those of its version's manifest."""
    facts = [one.data for one in events if one.correlationid == opened.release_id and one.environment == "production"]
    found = {variant: Contender(variant) for variant in dict.fromkeys(opened.variants)}
    for one in registered:
        found[one.variant] = _made(found.get(one.variant) or Contender(one.variant), one)
    for fact in facts:
        variant = fact.target.variant if isinstance(fact, f.VariantBenchmarked) else getattr(fact, "variant", None)
        apply = _APPLY.get(type(fact))
        if apply is not None and variant in found:
            found[variant] = apply(found[variant], fact)
    choices = [fact.comparison for fact in facts if getattr(fact, "comparison", None) is not None]
    return list((_chosen(found, choices[-1]) if choices else found).values())


def on_own_set(compared: Iterable[Contender]) -> str:
    """Return what the variants cost on the checkpoint's own evaluation set; empty where nobody measured on one."""
    measured = [(one.variant, one.own_quality) for one in compared if one.own_quality is not None]
    told = (f"{variant} {_times(own.perplexity_ratio, 4)} ({own.tokens} tokens)" for variant, own in measured)
    return f"perplexity on its own evaluation set: {', '.join(told)}" if measured else ""


def registered_alone(one: f.RegisteredVariant) -> Contender:
    """Return a variant of which the log says nothing."""
    return _made(Contender(one.variant), one)


def with_manifest(one: Contender, manifest: VariantManifest) -> Contender:
    """Complete a variant that is kept though it was never served by what its manifest says."""
    return replace(
        one,
        size_bytes=manifest.weights_bytes,
        size_ratio=manifest.size_ratio,
        quality=one.quality or manifest.quality,
        own_quality=manifest.evaluation_quality,
    )


def _made(one: Contender, fact: f.VariantQuantised | f.RegisteredVariant) -> Contender:
    if isinstance(fact, f.VariantQuantised) and fact.measurement_number > 1:  # the same files, measured again
        one = replace(one, verdict=None, code=None, reason="", attributed_to=None)
        return replace(one, quality=fact.quality, own_quality=fact.evaluation_quality)
    return replace(
        one,
        manifest=fact.manifest,
        size_bytes=fact.weights_bytes,
        size_ratio=fact.size_ratio,
        quality=fact.quality,
        own_quality=fact.evaluation_quality if isinstance(fact, f.VariantQuantised) else one.own_quality,
    )


def _failed(one: Contender, fact: f.VariantFailed) -> Contender:
    if fact.purpose == "rehearsal":
        return one  # its variant was judged before
    if fact.measurement_number > 1 and fact.step == "quantise" and fact.code != "quality_gate_failed":
        return replace(one, reason=f"{one.reason}; it was not measured again: {fact.code}: {fact.reason}")
    return replace(
        one,
        manifest=fact.manifest or one.manifest,
        quality=fact.quality or one.quality,
        verdict="inconclusive" if fact.code == "inconclusive" else "fail",
        code=fact.code,
        reason=fact.reason,
    )


def _benchmarked(one: Contender, fact: f.VariantBenchmarked) -> Contender:
    side, served = fact.candidate_summary, fact.served_quality
    against = "; ".join(f"{gate.name}: {gate.reason}" for gate in fact.gates if gate.verdict != "pass")
    codes = [gate.code for gate in fact.gates if gate.verdict == fact.verdict != "pass"]
    return replace(
        one,
        quality=fact.quality or one.quality,
        ttft_p50_ms=side.ttft_ms.p50,
        ttft_p95_ms=side.ttft_ms.p95,
        served_perplexity_ratio=served.perplexity_ratio if served and served.method == "prompt_logprobs" else None,
        tps_system=side.tps_system,
        verdict=fact.verdict,
        code=next((code for code in codes if code), None),
        reason=against,
        attributed_to=next((gate.attributed_to for gate in fact.gates if gate.attributed_to), None),
    )


def _chosen(found: dict[Variant, Contender], choice: f.Comparison) -> dict[Variant, Contender]:
    """Let the registry's own word stand where it has spoken."""
    told = {one.variant: one for one in choice.variants}
    return {
        variant: replace(
            one,
            verdict=told[variant].verdict,
            code=told[variant].code,
            reason=told[variant].reason,
            on_pareto_front=told[variant].on_pareto_front,
            chosen=variant == choice.winner,
        )
        if variant in told
        else one
        for variant, one in found.items()
    }


_APPLY: dict[type, Any] = {
    f.VariantQuantised: _made,
    f.VariantFailed: _failed,
    f.VariantBenchmarked: _benchmarked,
}
