"""Verdicts on variants, and the choice among those that passed. No evidence is never a pass."""

from contracts.codes import Code
from contracts.facts import Quality, RegisteredVariant, VariantBenchmarked
from contracts.vocabulary import Deployable, Target, Variant, Verdict
from decisions.variant_verdicts import SUSPECT, assess_benchmark, assess_quality_gate
from services.registry.domain.record import Release, SecondMeasurement
from services.registry.domain.selection import Entrant, Ranking, rank

SETTLES = "served_quality"
"""The gate that found the record suspect, and alone can clear it."""
_WHAT_TO_DO = (
    "Compare the machine that measures with the one that serves, repair or replace the wrong one, then publish "
    "with a higher attempt."
)


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
    if needs_second_measurement(release, variant):
        return _second_verdict(release, release.second_measurements.get(variant, SecondMeasurement()))
    return _first_verdict(release, variant)


def needs_second_measurement(release: Release, variant: Variant) -> bool:
    """Return whether a variant's first benchmark says that its recorded quality cannot be relied upon.

    A benchmark that failed in something else has its verdict already.
    """
    first = _first_verdict(release, variant)
    return first is not None and first[:2] == ("inconclusive", SUSPECT)


def second_measurement_of(release: Release, variant: Variant) -> SecondMeasurement | None:
    """Return the second measurement of a variant where it counts and has a record; None elsewhere."""
    second = release.second_measurements.get(variant)
    return (
        second
        if second is not None and second.quantised is not None and needs_second_measurement(release, variant)
        else None
    )


def benchmark_of(release: Release, variant: Variant) -> VariantBenchmarked | None:
    """Return the benchmark that the verdict on a variant rests on: the second where there is one that counts."""
    second = second_measurement_of(release, variant)
    return second.benchmarked if second and second.benchmarked else release.benchmarked.get(variant)


def _first_verdict(release: Release, variant: Variant) -> tuple[Verdict, Code, str] | None:
    for stage in ("stage", "benchmark"):
        failed = release.failed.get(f"{variant}:{stage}")
        if failed is not None:
            return "fail", failed.code, failed.reason
    benchmark = release.benchmarked.get(variant)
    return assess_benchmark(release.policy, benchmark) if benchmark is not None and variant in release.staged else None


def _second_verdict(release: Release, second: SecondMeasurement) -> tuple[Verdict, Code, str] | None:
    """Judge by the second measurement; one that could not be made leaves the record suspect, and fails no variant.

    Except where the new record itself is outside the policy's gate, or the engine failed in the second benchmark.
    """
    failed = second.failed
    if failed is not None and failed.step == "quantise" and failed.code != "quality_gate_failed":
        doubt = f"Its recorded quality is suspect, and was not measured again ({failed.code}: {failed.reason})"
        return "inconclusive", SUSPECT, f"{doubt} {_WHAT_TO_DO}"
    if failed is not None:
        return "fail", failed.code, failed.reason
    lost = assess_quality_gate(release.policy, second.quantised) if second.quantised is not None else None
    if lost is not None:
        return "inconclusive" if lost[0] == "inconclusive" else "fail", *lost
    if second.quantised is None or second.benchmarked is None or not second.staged:
        return None
    verdict, code, reason = assess_benchmark(release.policy, second.benchmarked)
    if verdict == "pass" and not any(gate.name == SETTLES for gate in second.benchmarked.gates):
        verdict, code, reason = "inconclusive", SUSPECT, f"no evidence for {SETTLES}."
    if code == SUSPECT:
        reason = f"It was measured again, and still: {reason} {_WHAT_TO_DO}"
    return verdict, code, reason


def all_judged(release: Release) -> bool:
    """Return whether the version's variants are known and each has its outcome in staging."""
    return all_quantised(release) and all(
        verdict_on(release, registered.variant) is not None for registered in registered_variants(release)
    )


def recorded_quality(release: Release, variant: Variant) -> Quality:
    """Return the quality of a variant by its last record."""
    second = second_measurement_of(release, variant)
    return second.quantised.quality if second and second.quantised else release.quantised[variant].quality


def measured_quality(release: Release, variant: Variant) -> Quality:
    """Return the quality of a variant: as its benchmark says, else by its record."""
    benchmark = benchmark_of(release, variant)
    return (benchmark.quality if benchmark else None) or recorded_quality(release, variant)


def ranking(release: Release) -> Ranking | None:
    """Compare the variants that passed, by the policy's objective; None while any is awaited."""
    if not all_judged(release):
        return None
    verdicts = {registered: verdict_on(release, registered.variant) for registered in registered_variants(release)}
    passed = [registered for registered, verdict in verdicts.items() if verdict is not None and verdict[0] == "pass"]
    entrants = [
        Entrant(registered.variant, measured_quality(release, registered.variant), registered.weights_bytes, benchmark)
        for registered in passed
        if (benchmark := benchmark_of(release, registered.variant)) is not None
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


def candidate(release: Release, registered: RegisteredVariant) -> Deployable:
    """Return a registered variant as something that can be served, with its last record."""
    second = second_measurement_of(release, registered.variant)
    record = second.quantised.manifest if second and second.quantised else None
    return deployable(release, registered).model_copy(update={"measurement_manifest": record})
