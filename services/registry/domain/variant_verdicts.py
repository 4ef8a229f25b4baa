"""Verdicts on a variant from its measurements and the release policy. Missing evidence never passes.

The registry decides by them; `slipway show` uses them for releases not yet compared.
"""

from contracts.codes import Code
from contracts.facts import GateResult, Quality, VariantBenchmarked, VariantQuantised
from contracts.policy import QualityGate, ReleasePolicy
from contracts.vocabulary import Verdict


def assess_quality_gate(policy: ReleasePolicy, quantised: VariantQuantised) -> tuple[Code, str] | None:
    """Return code and reason why a variant fails its quality gate; None if it passes.

    A pass-through variant is exempt: the digests prove that its files are the merged ones.
    """
    if quantised.settings.get("engine") == "pass-through":
        return None
    results = assess_quality(quantised.quality, policy.quality.get(quantised.variant))
    lost = [result for result in results if result.verdict != "pass"]
    if not lost:
        return None
    firm = any(result.verdict == "fail" for result in lost)
    reason = "; ".join(f"{result.name}: {result.reason}" for result in lost)
    return "quality_gate_failed" if firm else "inconclusive", reason


def assess_benchmark(policy: ReleasePolicy, benchmark: VariantBenchmarked) -> tuple[Verdict, Code, str]:
    """Return verdict, code and reason of a benchmark; ignore the code of a pass."""
    verdict, reason = assess_gates(policy, benchmark)
    return verdict, "inconclusive" if verdict == "inconclusive" else "gate_failed", reason


def assess_quality(quality: Quality, gate: QualityGate | None) -> list[GateResult]:
    """Compare a variant's measured quality with its gate; without a gate, return no results."""
    if gate is None:
        return []
    bounds = (
        ("perplexity_ratio", quality.perplexity_ratio, gate.max_perplexity_ratio),
        ("mean_kl", quality.mean_kl, gate.max_mean_kl),
    )
    return [_assess_upper(name, value, limit, quality.tokens) for name, value, limit in bounds if limit is not None]


def _assess_upper(name: str, value: float, limit: float, tokens: int) -> GateResult:
    if tokens == 0:
        verdict, reason = "inconclusive", "measured on no text"
    elif value <= limit:
        verdict, reason = "pass", f"{value:.4g} is at most {limit:.4g}"
    else:
        verdict, reason = "fail", f"{value:.4g} is above {limit:.4g}"
    return GateResult.model_validate(
        {"name": name, "verdict": verdict, "value": value, "limit": limit, "reason": reason}
    )


def assess_gates(policy: ReleasePolicy, benchmark: VariantBenchmarked) -> tuple[Verdict, str]:
    """Return a benchmark's verdict and reason; a gate without a result makes it inconclusive."""
    failed = [gate for gate in benchmark.gates if gate.verdict == "fail"]
    if benchmark.verdict == "fail" or failed:
        return "fail", "; ".join(f"{gate.name}: {gate.reason}" for gate in failed) or "the benchmark failed"
    answered = [gate.name for gate in benchmark.gates if gate.verdict == "pass"]
    missing = [gate.name for gate in policy.gates if not any(name.startswith(gate.name) for name in answered)]
    open_gates = [f"{gate.name}: {gate.reason}" for gate in benchmark.gates if gate.verdict == "inconclusive"]
    if missing:
        return "inconclusive", "; ".join([f"no evidence for {', '.join(missing)}", *open_gates])
    if benchmark.verdict == "inconclusive":
        return "inconclusive", "; ".join(open_gates) or "the benchmark was inconclusive"
    return "pass", "every gate passed"
