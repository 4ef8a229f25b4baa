"""The variants of a release side by side: what was measured of each, and why it was chosen or not."""

from contracts.codes import Code
from contracts.facts import ComparedVariant, Comparison, Quality
from contracts.vocabulary import Variant, Verdict
from services.registry.domain import gates
from services.registry.domain.record import Release
from services.registry.domain.selection import CRITERIA, Ranking


def explain(release: Release) -> Comparison:
    """Return the choice as it stands: every requested variant with its figures, its verdict and why."""
    ranking = gates.ranking(release)
    return Comparison(
        objective=release.policy.objective,
        criteria=ranking.criteria if ranking else CRITERIA[release.policy.objective],
        winner=ranking.winner if ranking else None,
        variants=tuple(_compare(release, variant, ranking) for variant in gates.requested_variants(release)),
    )


def _compare(release: Release, variant: Variant, ranking: Ranking | None) -> ComparedVariant:
    verdict, code, reason = _verdict(release, variant)
    quantised, quality = release.quantised.get(variant), _quality(release, variant)
    benchmark = release.benchmarked.get(variant)
    side, served = (benchmark.candidate_summary, benchmark.served_quality) if benchmark else (None, None)
    own = quantised.evaluation_quality if quantised else None
    return ComparedVariant(
        variant=variant,
        verdict=verdict,
        code=code,
        reason=ranking.reasons.get(variant, reason) if ranking else reason,
        on_pareto_front=ranking is not None and variant in ranking.front,
        size_bytes=quantised.weights_bytes if quantised else None,
        size_ratio=quantised.size_ratio if quantised else None,
        perplexity_ratio=quality.perplexity_ratio if quality else None,
        own_perplexity_ratio=own.perplexity_ratio if own else None,
        mean_kl=quality.mean_kl if quality else None,
        p99_kl=quality.p99_kl if quality else None,
        top1_agreement_ratio=quality.top1_agreement_ratio if quality else None,
        served_perplexity_ratio=served.perplexity_ratio if served and served.method == "prompt_logprobs" else None,
        ttft_p50_ms=side.ttft_ms.p50 if side else None,
        ttft_p95_ms=side.ttft_ms.p95 if side else None,
        tps_system=side.tps_system if side else None,
        million_tokens_price=benchmark.million_tokens_price if benchmark else None,
    )


def _quality(release: Release, variant: Variant) -> Quality | None:
    """Return the measurements of a variant, also of one that a gate rejected."""
    quantised, failed = release.quantised.get(variant), release.failed.get(f"{variant}:quantise")
    if variant in release.benchmarked and quantised is not None:
        return gates.measured_quality(release, variant)
    return quantised.quality if quantised is not None else failed.quality if failed is not None else None


def _verdict(release: Release, variant: Variant) -> tuple[Verdict, Code | None, str]:
    """Return verdict, code and reason; an unjudged variant is inconclusive."""
    excluded = gates.why_excluded(release, variant)
    if excluded is not None:
        return ("inconclusive" if excluded[0] == "inconclusive" else "fail"), *excluded
    verdict, code, reason = gates.verdict_on(release, variant) or ("inconclusive", None, "It was not judged.")
    return verdict, (None if verdict == "pass" else code), reason
