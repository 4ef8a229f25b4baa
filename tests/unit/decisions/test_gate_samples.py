"""A policy is refused exactly if its load is too small for one of its gates, by the benchmarker's own rules."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.policy import LoadProfile, MetricGate, ReleasePolicy, Trigger
from decisions.policies.problems import find_unanswerable, requests_needed
from services.benchmarker.domain.ratios import compare
from services.benchmarker.domain.records import RequestRecord
from services.benchmarker.domain.report import assess_gates
from services.benchmarker.domain.statistics import Slo, summarise
from testbed.values import target

TRIGGER = Trigger(name="errors", metric="error_ratio", threshold=0.05)
METRICS = st.sampled_from(["ttft_ms", "itl_ms", "e2e_ms", "tps_request", "tps_system", "error_ratio"])
STATISTICS = st.sampled_from(["mean", "p50", "p95", "p99"])
BOUNDS = st.sampled_from(["max_value", "min_value", "max_ratio", "min_ratio"])
LOADS = st.builds(
    LoadProfile,
    requests=st.sampled_from([1, 2, 19, 20, 21, 40, 99, 100, 101]),
    output_tokens=st.sampled_from([1, 2, 24]),
)


def policy(gate, load):
    return ReleasePolicy(gates=(gate,), load=load, triggers=(TRIGGER,))


def answered(load):
    """Return a benchmark in which both sides answered every request, each in its own time."""
    return [
        RequestRecord(
            side, pair, 0, pair, pair, pair + 0.1 + pair / 1000, pair + 0.5, pair + 0.5, 10, load.output_tokens
        )
        for pair in range(load.requests)
        for side in ("candidate", "baseline")
    ]


@given(METRICS, STATISTICS, BOUNDS, LOADS)
def test_a_gate_is_refused_exactly_if_a_complete_benchmark_leaves_it_inconclusive(metric, statistic, bound, load):
    gate = MetricGate(metric=metric, statistic=statistic, **{bound: 1e12 if bound.startswith("max") else 0.0})
    records = answered(load)
    candidate, baseline = (
        summarise(target(), [record for record in records if record.side == side], Slo())
        for side in ("candidate", "baseline")
    )
    results = assess_gates([gate], candidate, baseline, compare(records, seed=1, resamples=20))
    inconclusive = [result.name for result in results if result.verdict == "inconclusive"]
    assert (find_unanswerable(policy(gate, load)) is not None) == bool(inconclusive)


@given(METRICS, STATISTICS, BOUNDS, LOADS)
def test_the_load_that_a_refusal_names_is_accepted(metric, statistic, bound, load):
    gate = MetricGate(metric=metric, statistic=statistic, **{bound: 1.0})
    for _ in range(2):
        reason = find_unanswerable(policy(gate, load))
        if reason is None:
            return
        field, needed = re.search(r"load.(\w+) is .* needs (\d+)", reason).groups()
        load = load.model_copy(update={field: int(needed)})
    assert find_unanswerable(policy(gate, load)) is None


def test_a_refusal_names_the_load_the_gate_and_what_to_do():
    gate = MetricGate(metric="ttft_ms", statistic="p99", max_ratio=1.5)
    reason = (
        "load.requests is 40, but the gate ttft_ms.p99 needs 100; set it to 100 or more, or bound another statistic."
    )
    assert find_unanswerable(policy(gate, LoadProfile())) == reason
    single = find_unanswerable(policy(MetricGate(metric="itl_ms", max_value=9.0), LoadProfile(output_tokens=1)))
    assert "load.output_tokens is 1, but the gate itl_ms.p95 needs 2" in single


@pytest.mark.parametrize("statistic", ["mean", "p50", "p95", "p99"])
def test_figures_of_the_engine_as_a_whole_have_no_statistic(statistic):
    assert requests_needed(MetricGate(metric="tps_system", statistic=statistic, min_value=1.0)) == 1
    assert requests_needed(MetricGate(metric="tps_system", statistic=statistic, min_ratio=1.0)) == 20
    assert requests_needed(MetricGate(metric="error_ratio", statistic=statistic, max_ratio=1.0)) == 1
