"""Makes the report from the records, and the event from the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from contracts.facts import GateResult, ServedQuality, VariantBenchmarked, VariantStaged
from contracts.facts.staging import NaturalAnswers
from contracts.manifests import BenchmarkReport
from contracts.vocabulary import ArtifactRef
from decisions.releases.prices import million_tokens
from services.benchmarker.domain.gates import assess_gates, assess_overall, void
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import BenchmarkPlan
from services.benchmarker.domain.ratios import compare
from services.benchmarker.domain.records import SIDES, RequestRecord, Side, without_lost_baseline
from services.benchmarker.domain.served_quality import gate_of
from services.benchmarker.domain.statistics import describe, slo_of, summarise


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
    """Return the report of a measurement: its verdict and everything that the verdict is based on.

    With `void_because` its figures of load are in no verdict, which is inconclusive at best.
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
    tokens_per_s = candidate.tps_system + (baseline.tps_system if together else 0.0)  # one machine made both
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
        send_based_ttft_ms={side: describe(record.send_ttft_ms for record in by_side[side]) for side in SIDES},
    )


def to_event(report: BenchmarkReport, ref: ArtifactRef) -> VariantBenchmarked:
    """Return the event of a committed report; the same report always leads to the same event."""
    return VariantBenchmarked(
        target=report.target,
        baseline=report.baseline,
        report=ref,
        attempt=report.attempt,
        hardware=str(report.hardware.get("fingerprint", "")),
        candidate_summary=report.candidate_summary,
        baseline_summary=report.baseline_summary,
        ratios=report.ratios,
        quality=report.quality,
        served_quality=report.served_quality,
        gates=report.gates,
        verdict=report.verdict,
        machine_price_per_hour=report.machine_price_per_hour,
        million_tokens_price=report.million_tokens_price,
    )


def _row(record: RequestRecord) -> dict[str, Any]:
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in asdict(record).items()
        if value is not None
    }
