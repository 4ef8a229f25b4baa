"""Verdicts on a release's variants, and the choice among those that passed. Missing evidence never passes."""

from contracts.codes import Code
from contracts.facts import Quality, RegisteredVariant
from contracts.vocabulary import Deployable, Target, Variant, Verdict
from services.registry.domain.record import Release
from services.registry.domain.selection import Entrant, Ranking, rank
from services.registry.domain.variant_verdicts import assess_benchmark, assess_quality_gate


def requested_variants(release: Release) -> tuple[Variant, ...]:
    """Return the requested variants without duplicates."""
    return tuple(dict.fromkeys(release.opened.variants))


def why_excluded(release: Release, variant: Variant) -> tuple[Code, str] | None:
    """Return code and reason why a variant is excluded from the version; None if it is not."""
    failed = release.failed.get(f"{variant}:quantise")
    if failed is not None:
        return failed.code, failed.reason
    quantised = release.quantised.get(variant)
    return None if quantised is None else assess_quality_gate(release.policy, quantised)


def not_quantised(release: Release) -> tuple[Variant, ...]:
    """Return the requested variants that were neither quantised nor failed so far."""
    variants = requested_variants(release)
    return tuple(v for v in variants if v not in release.quantised and f"{v}:quantise" not in release.failed)


def all_quantised(release: Release) -> bool:
    """Return whether every requested variant was either quantised or failed."""
    return not not_quantised(release)


def registered_variants(release: Release) -> tuple[RegisteredVariant, ...]:
    """Return the version's variants in the order of the request."""
    good = [v for v in requested_variants(release) if v in release.quantised and why_excluded(release, v) is None]
    return tuple(
        RegisteredVariant(
            variant=v,
            manifest=release.quantised[v].manifest,
            weights_bytes=release.quantised[v].weights_bytes,
            size_ratio=release.quantised[v].size_ratio,
            quality=release.quantised[v].quality,
        )
        for v in good
    )


def verdict_on(release: Release, variant: Variant) -> tuple[Verdict, Code, str] | None:
    """Return verdict, code and reason for a registered variant in staging; None while awaited."""
    for stage in ("stage", "benchmark"):
        failed = release.failed.get(f"{variant}:{stage}")
        if failed is not None:
            return "fail", failed.code, failed.reason
    benchmark = release.benchmarked.get(variant)
    return assess_benchmark(release.policy, benchmark) if benchmark is not None and variant in release.staged else None


def all_judged(release: Release) -> bool:
    """Return whether the version has variants and each has its staging verdict."""
    verdicts = [verdict_on(release, registered.variant) for registered in registered_variants(release)]
    return all_quantised(release) and bool(verdicts) and None not in verdicts


def measured_quality(release: Release, variant: Variant) -> Quality:
    """Return a variant's quality: the benchmark's measurement if there is one, else the quantiser's."""
    benchmark = release.benchmarked.get(variant)
    return (benchmark.quality if benchmark else None) or release.quantised[variant].quality


def ranking(release: Release) -> Ranking | None:
    """Rank the variants that passed by the policy's objective; None while a verdict is awaited."""
    if not all_judged(release):
        return None
    verdicts = {registered: verdict_on(release, registered.variant) for registered in registered_variants(release)}
    passed = [registered for registered, verdict in verdicts.items() if verdict is not None and verdict[0] == "pass"]
    entrants = [
        Entrant(registered.variant, measured_quality(release, registered.variant), registered.weights_bytes, benchmark)
        for registered in passed
        if (benchmark := release.benchmarked.get(registered.variant)) is not None
    ]
    return rank(release.policy.objective, entrants)


def choose(release: Release) -> RegisteredVariant | None:
    """Return the best variant that passed; None if verdicts are awaited or none passed."""
    ranked = ranking(release)
    winner = ranked.winner if ranked else None
    return next((registered for registered in registered_variants(release) if registered.variant == winner), None)


def deployable(release: Release, registered: RegisteredVariant) -> Deployable:
    """Return a registered variant as a deployable, with its registered serving settings."""
    target = Target(model=release.model, version=release.version, variant=registered.variant)
    return Deployable(
        target=target,
        manifest=registered.manifest,
        weights_bytes=registered.weights_bytes,
        serving=release.merged.serving if release.merged is not None else None,
    )
