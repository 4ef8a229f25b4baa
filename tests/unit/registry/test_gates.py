"""Verdicts on variants, and the choice among those that passed."""

import pytest

from contracts.policy import MetricGate, QualityGate
from services.registry.domain import gates, variant_verdicts
from services.registry.domain.record import Input
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k

STRICT = QualityGate(max_perplexity_ratio=1.05, max_mean_kl=0.02)


@pytest.mark.parametrize(
    ("measured", "verdicts"),
    [
        ({"perplexity_ratio": 1.05, "mean_kl": 0.02}, ["pass", "pass"]),
        ({"perplexity_ratio": 1.051}, ["fail", "pass"]),
        ({"mean_kl": 0.021}, ["pass", "fail"]),
        ({"tokens": 0}, ["inconclusive", "inconclusive"]),
    ],
)
def test_quality_against_its_gate(measured, verdicts):
    results = variant_verdicts.assess_quality(k.quality(**measured), STRICT)
    assert [result.verdict for result in results] == verdicts
    assert all(result.reason for result in results)


def test_no_quality_gate_asks_nothing():
    assert variant_verdicts.assess_quality(k.quality(perplexity_ratio=99.0), None) == []


@pytest.mark.parametrize(
    ("given", "verdict", "says"),
    [
        (k.benchmarked("int8"), "pass", "every gate"),
        (k.benchmarked("int8", verdict="fail"), "fail", "it is a fail"),
        (k.benchmarked("int8", verdict="inconclusive"), "inconclusive", "ttft_ms.p95"),
        (k.benchmarked("int8", gates=()), "inconclusive", "no evidence for ttft_ms.p95"),
        (k.benchmarked("int8", gates=(k.gate("itl_ms.p95"),)), "inconclusive", "no evidence for ttft_ms.p95"),
        (k.benchmarked("int8", gates=(k.gate(), k.gate("itl_ms.p95", "fail"))), "fail", "itl_ms.p95"),
        (k.benchmarked("int8", gates=(k.gate("baseline", "inconclusive"),)), "inconclusive", "baseline: it is"),
    ],
)
def test_a_benchmark_passes_only_with_evidence_for_every_gate_of_the_policy(given, verdict, says):
    policy = k.policy(gates=(MetricGate(metric="ttft_ms", max_value=500.0),))
    assessed, reason = variant_verdicts.assess_gates(policy, given)
    assert assessed == verdict
    assert says in reason


def staged_release(policy, *facts, variants=("bf16", "int8")):
    release = open_release(k.opened(policy=policy, variants=variants), cause_id="e0", now=k.START).release
    for i, fact in enumerate((k.merged(), k.written(), k.turn(), *facts)):
        release = decide(release, Input(f"e{i + 1}", k.START, fact), k.START).release
    return release


@pytest.mark.parametrize(
    ("objective", "bf16", "int8", "chosen"),
    [
        ("quality", {"perplexity_ratio": 1.0}, {"perplexity_ratio": 1.2}, "bf16"),
        ("quality", {"perplexity_ratio": 1.2}, {"perplexity_ratio": 1.0}, "int8"),
        ("quality", {}, {}, "bf16"),
        ("cost", {"weights_bytes": 200}, {"weights_bytes": 100}, "int8"),
        ("cost", {"weights_bytes": 100}, {"weights_bytes": 200}, "bf16"),
    ],
)
def test_the_objective_chooses_by_what_was_quantised(objective, bf16, int8, chosen):
    release = staged_release(
        k.policy(objective=objective),
        k.quantised("bf16", **bf16),
        k.quantised("int8", **int8),
        k.staged("bf16"),
        k.staged("int8"),
        k.benchmarked("bf16"),
        k.benchmarked("int8"),
    )
    assert gates.choose(release).variant == chosen


@pytest.mark.parametrize(
    ("bf16", "int8", "chosen"),
    [
        ({"ttft_p95": 90.0}, {"ttft_p95": 80.0}, "int8"),
        ({"ttft_p95": 80.0, "tps": 50.0}, {"ttft_p95": 80.0, "tps": 60.0}, "int8"),
        ({"ttft_p95": 80.0, "tps": 60.0}, {"ttft_p95": 80.0, "tps": 50.0}, "bf16"),
        ({"ttft_p95": None}, {"ttft_p95": 900.0}, "int8"),
    ],
)
def test_the_objective_latency_chooses_by_what_was_measured(bf16, int8, chosen):
    release = staged_release(
        k.policy(objective="latency"),
        k.quantised("bf16"),
        k.quantised("int8"),
        k.staged("bf16"),
        k.staged("int8"),
        k.benchmarked("bf16", **bf16),
        k.benchmarked("int8", **int8),
    )
    assert gates.choose(release).variant == chosen


def test_only_what_passed_can_be_chosen_and_not_before_all_were_judged():
    begun = (
        k.quantised("bf16", perplexity_ratio=1.0),
        k.quantised("int8"),
        k.staged("bf16"),
        k.staged("int8"),
        k.benchmarked("int8"),
    )
    assert gates.choose(staged_release(k.policy(), *begun)) is None
    assert gates.choose(staged_release(k.policy(), *begun, k.benchmarked("bf16", verdict="fail"))).variant == "int8"
    assert gates.choose(staged_release(k.policy(), *begun, k.failed("bf16", "benchmark"))).variant == "int8"


def test_a_variant_below_its_quality_gate_never_joins_the_version():
    release = staged_release(
        k.policy(quality={"int8": STRICT}), k.quantised("bf16"), k.quantised("int8", perplexity_ratio=2.0)
    )
    assert [variant.variant for variant in gates.registered_variants(release)] == ["bf16"]
    assert gates.why_excluded(release, "int8")[0] == "quality_gate_failed"


def test_a_variant_measured_on_no_text_is_inconclusive_unless_it_is_the_merged_files_themselves():
    gate = {"bf16": STRICT, "int8": STRICT}
    unmeasured = k.quantised("bf16", perplexity_ratio=1.0, mean_kl=0.0, tokens=0)
    identical = unmeasured.model_copy(update={"settings": {"engine": "pass-through"}})
    assert gates.why_excluded(staged_release(k.policy(quality=gate), unmeasured), "bf16")[0] == "inconclusive"
    assert gates.why_excluded(staged_release(k.policy(quality=gate), identical), "bf16") is None
