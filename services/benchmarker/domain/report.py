"""Decides gates, and makes the report from the records and the event from the report.

Missing evidence is inconclusive, never a pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from contracts.facts import GateResult, ServedQuality, Statistics, VariantBenchmarked, VariantStaged
from contracts.facts.staging import BenchmarkFigures, NaturalAnswers, RatioInterval, SideSummary
from contracts.manifests import BenchmarkReport
from contracts.policy import MetricGate
from contracts.vocabulary import ArtifactRef, Verdict
from decisions.releases.prices import million_tokens
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import BenchmarkPlan
from services.benchmarker.domain.ratios import Comparison, compare, pairs_needed
from services.benchmarker.domain.records import SIDES, RequestRecord, Side, without_lost_baseline
from services.benchmarker.domain.served_quality import gate_of
from services.benchmarker.domain.statistics import MIN_COUNT, slo_of, summarise

MAX_ERROR_RATIO = 0.01
"""Limit of the error ratio if the policy sets none."""


def assess_gates(
    gates: Sequence[MetricGate], candidate: SideSummary, baseline: SideSummary, comparison: Comparison
) -> tuple[GateResult, ...]:
    """Return a result for each bound of each gate, and for the implied error limit.

    Absolute bounds compare the figure. Ratio bounds compare the 95 % interval: within the limit passes, beyond fails,
    across is inconclusive.
    """
    results: list[GateResult] = []
    for gate in gates:
        if gate.max_value is not None:
            results.append(_assess_value(gate, gate.max_value, candidate, upper=True))
        if gate.min_value is not None:
            results.append(_assess_value(gate, gate.min_value, candidate, upper=False))
        for limit, upper in ((gate.max_ratio, True), (gate.min_ratio, False)):
            if limit is not None and gate.metric == "error_ratio":
                results.append(_assess_error_ratio(gate, limit, candidate, baseline, upper=upper))
            elif limit is not None:
                results.append(_assess_ratio(gate, limit, comparison, upper=upper))
    if not any(gate.metric == "error_ratio" and gate.max_value is not None for gate in gates):
        implied = MetricGate(metric="error_ratio", max_value=MAX_ERROR_RATIO)
        results.append(_assess_value(implied, MAX_ERROR_RATIO, candidate, upper=True))
    return tuple(results)


def assess_overall(results: Sequence[GateResult]) -> Verdict:
    """Return `fail` if a gate failed, else `inconclusive` if a gate lacks evidence, else `pass`."""
    verdicts = {result.verdict for result in results}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"


def void(reason: str) -> GateResult:
    """Return the result that replaces all gates when a measurement is void."""
    return GateResult(name="baseline", verdict="inconclusive", reason=reason)


def figure_of(summary: SideSummary, gate: MetricGate) -> float | None:
    """Return a gate's figure; None if the sample is too small."""
    if gate.metric == "error_ratio":
        return summary.errors / summary.requests if summary.requests else None
    answered = summary.requests - summary.errors
    if gate.metric == "tps_system":
        return summary.tps_system if answered else None
    statistics: Statistics = getattr(summary, gate.metric)
    value: float | None = getattr(statistics, gate.statistic)
    return value


def _assess_value(gate: MetricGate, limit: float, candidate: SideSummary, *, upper: bool) -> GateResult:
    name = f"{gate.name}.{'max' if upper else 'min'}_value"
    value = figure_of(candidate, gate)
    if value is None:
        answered = candidate.requests - candidate.errors
        needed = MIN_COUNT[gate.statistic] if gate.metric != "tps_system" else 1
        reason = f"{answered} requests were answered; {gate.name} needs at least {needed}."
        return GateResult(name=name, verdict="inconclusive", limit=limit, reason=reason)
    within = value <= limit if upper else value >= limit
    reason = f"{gate.name} is {value:.4g}, {_relation(upper=upper, within=within)} {limit:.4g}"
    if gate.metric == "error_ratio":
        reason += f" ({candidate.errors} of {candidate.requests} requests failed)"
    return GateResult(name=name, verdict="pass" if within else "fail", value=value, limit=limit, reason=f"{reason}.")


def _assess_ratio(gate: MetricGate, limit: float, comparison: Comparison, *, upper: bool) -> GateResult:
    name = f"{gate.name}.{'max' if upper else 'min'}_ratio"
    ratio = comparison.find(gate.name)
    if ratio is None:
        needed = pairs_needed(gate.statistic)
        reason = f"{comparison.pairs} pairs were answered on both sides; a ratio of {gate.name} needs {needed}."
        if comparison.pairs >= needed:
            reason = f"{gate.name} has no ratio: the baseline's figure is 0, or too few answers have the figure."
        return GateResult(name=name, verdict="inconclusive", limit=limit, reason=reason)
    verdict = _judge_interval(ratio, limit, upper=upper)
    interval = f"{ratio.value:.3f} (95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {comparison.pairs} pairs)"
    if verdict == "inconclusive":
        reason = f"{gate.name} is {interval} times the baseline's, across {limit:.4g}; more requests narrow it."
    else:
        relation = _relation(upper=upper, within=verdict == "pass")
        reason = f"{gate.name} is {interval} times the baseline's, {relation} {limit:.4g}."
    return GateResult(name=name, verdict=verdict, value=ratio.value, limit=limit, reason=reason)


def _judge_interval(ratio: RatioInterval, limit: float, *, upper: bool) -> Verdict:
    low, high = min(ratio.low, ratio.value), max(ratio.high, ratio.value)
    inside, outside = (high <= limit, low > limit) if upper else (low >= limit, high < limit)
    if inside:
        return "pass"
    return "fail" if outside else "inconclusive"


def _assess_error_ratio(
    gate: MetricGate, limit: float, candidate: SideSummary, baseline: SideSummary, *, upper: bool
) -> GateResult:
    name = f"{gate.name}.{'max' if upper else 'min'}_ratio"
    share, baseline_share = figure_of(candidate, gate), figure_of(baseline, gate)
    if share is None or baseline_share is None:
        return GateResult(name=name, verdict="inconclusive", limit=limit, reason="No requests were measured.")
    shares = f"candidate {candidate.errors} of {candidate.requests}, baseline {baseline.errors} of {baseline.requests}"
    # Compared without division: with an error-free baseline, the candidate may have no errors either.
    within = share <= limit * baseline_share if upper else share >= limit * baseline_share
    relation = _relation(upper=upper, within=within)
    reason = f"Failed requests: {shares}; {relation} {limit:.4g} times the baseline's share."
    value = share / baseline_share if baseline_share else None
    return GateResult(name=name, verdict="pass" if within else "fail", value=value, limit=limit, reason=reason)


def _relation(*, upper: bool, within: bool) -> str:
    if upper:
        return "within the limit of" if within else "above the limit of"
    return "at least the limit of" if within else "below the limit of"


def make_report(
    staged: VariantStaged,
    plan: BenchmarkPlan,
    records: Sequence[RequestRecord],
    *,
    served_quality: ServedQuality,
    tool_call: GateResult | None = None,
    endings: Mapping[Side, NaturalAnswers] | None = None,
    void_because: str = "",
    hardware: Hardware,
    started_at: datetime,
    duration_s: float,
    machine_price_per_hour: float | None = None,
) -> BenchmarkReport:
    """Return the report of a measurement, with its verdict and all evidence.

    `void_because` excludes the load's figures from the verdict, so that it cannot pass.
    """
    request = staged.request
    counted = without_lost_baseline(records)
    by_side: dict[Side, list[RequestRecord]] = {
        side: [record for record in counted if record.side == side] for side in SIDES
    }
    slo = slo_of(request.gates)
    natural = endings or {}
    candidate = summarise(staged.candidate.target, by_side["candidate"], slo, natural.get("candidate"))
    baseline = summarise(staged.baseline.target, by_side["baseline"], slo, natural.get("baseline"))
    together = set(staged.candidate.endpoints) & set(staged.baseline.endpoints)
    tokens_per_s = candidate.tps_system + (baseline.tps_system if together else 0.0)  # one machine served both
    comparison = compare(records, seed=plan.seed)
    gates: tuple[GateResult, ...] = (void(void_because),)
    if not void_because:
        gates = assess_gates(request.gates, candidate, baseline, comparison)
    served_gate = gate_of(served_quality, request.quality_gate)
    gates = (*gates, *(gate for gate in (served_gate, tool_call) if gate is not None))
    return BenchmarkReport(
        output_key=plan.output_key,
        target=staged.candidate.target,
        baseline=staged.baseline.target,
        attempt=request.attempt,
        hardware=hardware.to_data(),
        load=request.load,
        candidate_summary=candidate,
        baseline_summary=baseline,
        ratios=comparison.ratios,
        quality=request.quality,
        served_quality=served_quality,
        gates=gates,
        verdict=assess_overall(gates),
        started_at=started_at,
        duration_s=duration_s,
        machine_price_per_hour=machine_price_per_hour,
        million_tokens_price=(
            million_tokens(machine_price_per_hour, tokens_per_s) if machine_price_per_hour is not None else None
        ),
        requests=tuple(_row(record) for record in records),
    )


def to_event(report: BenchmarkReport, ref: ArtifactRef) -> VariantBenchmarked:
    """Return the event of a committed report; the same report always gives the same event."""
    figures = {name: getattr(report, name) for name in BenchmarkFigures.model_fields}
    return VariantBenchmarked(**figures, report=ref, hardware=str(report.hardware.get("fingerprint", "")))


def _row(record: RequestRecord) -> dict[str, Any]:
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in asdict(record).items()
        if value is not None
    }
