"""The variants of a release side by side: what was measured of each, and why it was chosen or not."""

from contracts.codes import Code
from contracts.facts import ComparedVariant, Comparison, Quality
from contracts.vocabulary import Variant, Verdict
from services.registry.domain import gates
from services.registry.domain.record import Release
from services.registry.domain.selection import CRITERIA, Ranking


def explain(release: Release) -> Comparison:
    """Return the choice as it stands: every requested variant with its figures, its verdict and why."""
    found = gates.ranking(release)
    return Comparison(
        objective=release.policy.objective,
        criteria=CRITERIA[release.policy.objective],
        winner=found.winner if found else None,
        variants=tuple(_contender(release, variant, found) for variant in gates.requested_variants(release)),
    )


def _contender(release: Release, variant: Variant, found: Ranking | None) -> ComparedVariant:
    verdict, code, reason = _verdict(release, variant)
    made, quality = release.made.get(variant), _quality(release, variant)
    benchmark = gates.benchmark_of(release, variant)
    side, served = (benchmark.candidate_summary, benchmark.served_quality) if benchmark else (None, None)
    return ComparedVariant(
        variant=variant,
        verdict=verdict,
        code=code,
        reason=found.reasons.get(variant, reason) if found else reason,
        on_pareto_front=found is not None and variant in found.front,
        size_bytes=made.weights_bytes if made else None,
        size_ratio=made.size_ratio if made else None,
        perplexity_ratio=quality.perplexity_ratio if quality else None,
        mean_kl=quality.mean_kl if quality else None,
        served_perplexity_ratio=served.perplexity_ratio if served and served.method == "prompt_logprobs" else None,
        ttft_p50_ms=side.ttft_ms.p50 if side else None,
        ttft_p95_ms=side.ttft_ms.p95 if side else None,
        tps_system=side.tps_system if side else None,
    )


def _quality(release: Release, variant: Variant) -> Quality | None:
    """Return what was measured of a variant, also of one that its gate kept out."""
    made, failed = release.made.get(variant), release.failed.get(f"{variant}:quantise")
    if variant in release.benchmarked and made is not None:
        return gates.measured_quality(release, variant)
    return made.quality if made is not None else failed.quality if failed is not None else None


def _verdict(release: Release, variant: Variant) -> tuple[Verdict, Code | None, str]:
    """Return verdict, code and reason; what was not judged is inconclusive, and says so."""
    unmade = gates.why_not_made(release, variant)
    if unmade is not None:
        return ("inconclusive" if unmade[0] == "inconclusive" else "fail"), *unmade
    verdict, code, reason = gates.verdict_on(release, variant) or ("inconclusive", None, "It was not judged.")
    return verdict, (None if verdict == "pass" else code), reason
