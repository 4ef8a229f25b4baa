"""The report holds what the verdict rests on, and the fact says the same as the report."""

from datetime import UTC, datetime

import pytest

from contracts.manifests import BenchmarkReport
from contracts.policy import QualityGate
from contracts.vocabulary import canonical_json
from services.benchmarker.domain.hardware import Hardware
from services.benchmarker.domain.plan import plan_benchmark
from services.benchmarker.domain.report import make_report, to_event
from tests.unit.benchmarker.factories import BASELINE, QUALITY, UNSCORED, artifact, record, served, staged

BOX = Hardware(cpu="test", cores=2, memory_bytes=2**34)
RECORDS = [
    record(side=side, pair=pair, scheduled_s=float(pair), ttft_ms=150.0, late_s=0.05 if side == "candidate" else 0.0)
    for pair in range(30)
    for side in ("candidate", "baseline")
]


def report(records=RECORDS, served_quality=UNSCORED, machine_price_per_hour=None, **more):
    order = staged(**more)
    plan = plan_benchmark(order, hardware="box", prompts="p")
    return make_report(
        order,
        plan,
        records,
        served_quality=served_quality,
        hardware=BOX,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_s=31.5,
        machine_price_per_hour=machine_price_per_hour,
    )


def test_every_request_is_in_it_without_what_did_not_happen():
    result = report([*RECORDS, record(pair=30, error="timeout")])
    assert len(result.requests) == 61
    assert result.requests[-1]["error"] == "timeout"
    assert "first_s" not in result.requests[-1]
    assert "error" not in result.requests[0]


def test_with_a_price_of_the_machine_it_says_what_a_million_tokens_cost_at_this_load():
    apart = served(BASELINE, "elsewhere:1")
    result = report(machine_price_per_hour=2.4, baseline=apart)
    tokens_per_hour = result.candidate_summary.tps_system * 3600
    assert result.million_tokens_price == pytest.approx(2.4 / tokens_per_hour * 1e6)
    fact = to_event(result, artifact("report"))
    assert (fact.machine_price_per_hour, fact.million_tokens_price) == (2.4, result.million_tokens_price)
    assert (report().machine_price_per_hour, report().million_tokens_price) == (None, None)


def test_the_baseline_on_the_same_machine_has_its_share_of_the_price():
    result = report(machine_price_per_hour=2.4)
    tokens_per_hour = (result.candidate_summary.tps_system + result.baseline_summary.tps_system) * 3600
    assert result.million_tokens_price == pytest.approx(2.4 / tokens_per_hour * 1e6)


def test_it_survives_the_store():
    result = report()
    assert BenchmarkReport.model_validate_json(canonical_json(result.model_dump(mode="json"))) == result


def test_the_fact_says_what_the_report_says():
    result = report()
    fact = to_event(result, artifact("report"))
    assert (fact.candidate_summary, fact.baseline_summary) == (result.candidate_summary, result.baseline_summary)
    assert (fact.gates, fact.verdict, fact.ratios, fact.quality) == (
        result.gates,
        result.verdict,
        result.ratios,
        QUALITY,
    )
    assert fact.served_quality == result.served_quality == UNSCORED
    assert (fact.attempt, fact.hardware) == (1, "test, 2 cores, 16 GiB, no GPU")


def test_served_quality_counts_for_the_verdict_where_it_was_measured_or_had_to_be():
    failed = UNSCORED.model_copy(update={"method": "prompt_logprobs", "verdict": "fail"})
    gate = QualityGate(max_mean_kl=0.1)
    assert report().verdict == "pass"
    assert report(quality_gate=gate).verdict == "inconclusive"
    assert report(served_quality=failed).verdict == "fail"
    assert report(served_quality=failed).gates[-1].name == "served_quality"
