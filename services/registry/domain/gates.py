"""Verdicts on variants, and the choice among those that passed. No evidence is never a pass."""

from contracts.codes import Code
from contracts.facts import Quality, RegisteredVariant
from contracts.vocabulary import Deployable, Target, Variant, Verdict
from services.registry.domain.record import Release
from services.registry.domain.selection import Entrant, Ranking, rank
from services.registry.domain.variant_verdicts import assess_benchmark, assess_quality_gate


def requested_variants(release: Release) -> tuple[Variant, ...]:
    """List the requested variants, each once."""
    return tuple(dict.fromkeys(release.opened.variants))


def why_excluded(release: Release, variant: Variant) -> tuple[Code, str] | None:
    """Return why a variant cannot be part of the version; None while it may.

    A variant that is the merged files themselves is measured on no text: their digests prove that nothing was lost.
    """
    failed = release.failed.get(f"{variant}:quantise")
    if failed is not None:
        return failed.code, failed.reason
    quantised = release.quantised.get(variant)
    return None if quantised is None else assess_quality_gate(release.policy, quantised)


def not_quantised(release: Release) -> tuple[Variant, ...]:
    """List the requested variants that were neither quantised nor failed so far."""
    variants = requested_variants(release)
    return tuple(v for v in variants if v not in release.quantised and f"{v}:quantise" not in release.failed)


def all_quantised(release: Release) -> bool:
    """Return whether every requested variant was either quantised or failed."""
    return not not_quantised(release)


def registered_variants(release: Release) -> tuple[RegisteredVariant, ...]:
    """List the variants that make the version, in the order in which they were requested."""
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
    """Return the outcome of a registered variant in staging: verdict, code and reason; None while it is awaited."""
    for stage in ("stage", "benchmark"):
        failed = release.failed.get(f"{variant}:{stage}")
        if failed is not None:
            return "fail", failed.code, failed.reason
    benchmark = release.benchmarked.get(variant)
    return assess_benchmark(release.policy, benchmark) if benchmark is not None and variant in release.staged else None


def all_judged(release: Release) -> bool:
    """Return whether the version's variants are known and each has its outcome in staging; not if it has none."""
    verdicts = [verdict_on(release, registered.variant) for registered in registered_variants(release)]
    return all_quantised(release) and bool(verdicts) and None not in verdicts


def measured_quality(release: Release, variant: Variant) -> Quality:
    """Return the quality of a variant: as its benchmark says, else by its record."""
    benchmark = release.benchmarked.get(variant)
    return (benchmark.quality if benchmark else None) or release.quantised[variant].quality


def ranking(release: Release) -> Ranking | None:
    """Compare the variants that passed, by the policy's objective; None while any is awaited."""
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
    """Return the best of the variants that passed; None while any is awaited or none passed."""
    ranked = ranking(release)
    winner = ranked.winner if ranked else None
    return next((registered for registered in registered_variants(release) if registered.variant == winner), None)


def deployable(release: Release, registered: RegisteredVariant) -> Deployable:
    """Return a registered variant as something that can be served, with the record that it was registered with."""
    target = Target(model=release.model, version=release.version, variant=registered.variant)
    return Deployable(
        target=target,
        manifest=registered.manifest,
        weights_bytes=registered.weights_bytes,
        serving=release.merged.serving if release.merged is not None else None,
    )
