"""Verdicts: a test per rule, and two laws for all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import GateResult, Statistics
from contracts.facts.staging import RatioInterval, SideSummary
from contracts.policy import MetricGate
from services.benchmarker.domain.ratios import Comparison
from services.benchmarker.domain.report import assess_gates, assess_overall
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE

RANK = {"pass": 0, "inconclusive": 1, "fail": 2}
NOTHING = Comparison(pairs=0, ratios=())


def side(target=CANDIDATE, *, requests=40, errors=0, ttft=100.0, tps=50.0, count=None):
    count = requests - errors if count is None else count
    figures = Statistics(
        count=count,
        mean=ttft if count else None,
        p50=ttft if count else None,
        p95=ttft if count >= 20 else None,
        p99=ttft if count >= 100 else None,
    )
    return SideSummary(
        target=target,
        requests=requests,
        errors=errors,
        ttft_ms=figures,
        itl_ms=figures,
        e2e_ms=figures,
        tps_request=figures,
        tps_system=tps,
        output_tokens=10,
        goodput_rps=1.0,
    )


def ratio(value, low, high, *, name="ttft_ms.p95", pairs=40):
    return Comparison(pairs=pairs, ratios=(RatioInterval(metric=name, value=value, low=low, high=high),))


def assess(gate, *, candidate=None, baseline=None, comparison=NOTHING):
    results = assess_gates((gate,), candidate or side(), baseline or side(BASELINE), comparison)
    return results[0]


@pytest.mark.parametrize(("value", "verdict"), [(199.9, "pass"), (200.0, "pass"), (200.1, "fail")])
def test_an_upper_bound_is_inclusive(value, verdict):
    result = assess(MetricGate(metric="ttft_ms", max_value=200), candidate=side(ttft=value))
    assert (result.name, result.verdict, result.value, result.limit) == ("ttft_ms.p95.max_value", verdict, value, 200)
    assert "200" in result.reason


@pytest.mark.parametrize(("value", "verdict"), [(50.1, "pass"), (50.0, "pass"), (49.9, "fail")])
def test_a_lower_bound_is_inclusive(value, verdict):
    result = assess(MetricGate(metric="tps_system", min_value=50), candidate=side(tps=value))
    assert (result.name, result.verdict, result.value) == ("tps_system.min_value", verdict, value)


@pytest.mark.parametrize(("statistic", "answered"), [("p95", 19), ("p99", 99), ("p50", 0), ("mean", 0)])
def test_a_sample_too_small_for_the_figure_is_inconclusive_and_says_what_is_needed(statistic, answered):
    candidate = side(requests=answered + 1, errors=1)
    result = assess(MetricGate(metric="ttft_ms", statistic=statistic, max_value=1e9), candidate=candidate)
    assert (result.verdict, result.value) == ("inconclusive", None)
    assert f"{answered} requests were answered" in result.reason
    assert f"at least {answered + 1}" in result.reason


def test_throughput_of_a_side_that_answered_nothing_is_no_evidence():
    result = assess(MetricGate(metric="tps_system", min_value=0.0), candidate=side(requests=5, errors=5, tps=0.0))
    assert result.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.0, 0.9, 1.1), "pass"),
        ((1.1, 1.0, 1.2), "pass"),
        ((1.5, 1.3, 1.7), "fail"),
        ((1.1, 0.9, 1.3), "inconclusive"),
        ((1.3, 1.1, 1.5), "inconclusive"),
    ],
)
def test_a_ratio_is_judged_by_its_whole_interval(interval, verdict):
    result = assess(MetricGate(metric="ttft_ms", max_ratio=1.2), comparison=ratio(*interval))
    assert (result.name, result.verdict, result.value) == ("ttft_ms.p95.max_ratio", verdict, interval[0])
    assert "40 pairs" in result.reason


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((1.0, 0.95, 1.1), "pass"), ((0.7, 0.6, 0.8), "fail"), ((0.9, 0.8, 1.0), "inconclusive")],
)
def test_a_ratio_bounded_below_is_judged_the_other_way_round(interval, verdict):
    gate = MetricGate(metric="tps_system", min_ratio=0.9)
    assert assess(gate, comparison=ratio(*interval, name="tps_system")).verdict == verdict


def test_a_ratio_of_too_few_pairs_is_inconclusive_and_says_how_many_are_needed():
    result = assess(MetricGate(metric="ttft_ms", max_ratio=100), comparison=Comparison(pairs=7, ratios=()))
    assert (result.verdict, result.value) == ("inconclusive", None)
    assert "7 pairs" in result.reason
    assert "needs 20" in result.reason


def test_a_ratio_without_a_baseline_figure_is_inconclusive():
    result = assess(MetricGate(metric="itl_ms", max_ratio=100), comparison=Comparison(pairs=40, ratios=()))
    assert result.verdict == "inconclusive"
    assert "no ratio" in result.reason


def test_a_gate_with_several_bounds_has_a_result_for_each():
    gate = MetricGate(metric="ttft_ms", max_value=200, max_ratio=1.2)
    results = assess_gates((gate,), side(), side(BASELINE), ratio(1.5, 1.3, 1.7))
    assert [(result.name, result.verdict) for result in results] == [
        ("ttft_ms.p95.max_value", "pass"),
        ("ttft_ms.p95.max_ratio", "fail"),
        ("error_ratio.max_value", "pass"),
    ]


@pytest.mark.parametrize(("errors", "verdict"), [(0, "pass"), (1, "pass"), (2, "fail"), (100, "fail")])
def test_without_a_declared_bound_at_most_one_percent_of_requests_may_fail(errors, verdict):
    (result,) = assess_gates((), side(requests=100, errors=errors), side(BASELINE), NOTHING)
    assert (result.name, result.verdict, result.limit) == ("error_ratio.max_value", verdict, 0.01)
    assert f"{errors} of 100" in result.reason


def test_a_declared_bound_on_errors_replaces_the_implied_one():
    gate = MetricGate(metric="error_ratio", max_value=0.5)
    results = assess_gates((gate,), side(requests=10, errors=4), side(BASELINE), NOTHING)
    assert [(result.name, result.verdict) for result in results] == [("error_ratio.max_value", "pass")]


def test_a_ratio_bound_on_errors_leaves_the_implied_one_standing():
    gate = MetricGate(metric="error_ratio", max_ratio=2.0)
    results = assess_gates((gate,), side(requests=10, errors=4), side(BASELINE, errors=20), NOTHING)
    assert [result.verdict for result in results] == ["pass", "fail"]


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "value"),
    [(0, 0, "pass", None), (1, 0, "fail", None), (2, 1, "pass", 2.0), (3, 1, "fail", 3.0)],
)
def test_errors_are_compared_with_the_baselines_also_where_it_has_none(ours, theirs, verdict, value):
    gate = MetricGate(metric="error_ratio", max_ratio=2.0)
    result = assess(gate, candidate=side(errors=ours), baseline=side(BASELINE, errors=theirs))
    assert (result.verdict, result.value) == (verdict, pytest.approx(value) if value else None)


def test_errors_of_no_requests_are_no_evidence():
    gate = MetricGate(metric="error_ratio", max_ratio=2.0)
    results = assess_gates((gate,), side(requests=0), side(BASELINE, requests=0), NOTHING)
    assert [result.verdict for result in results] == ["inconclusive", "inconclusive"]


VERDICTS = st.lists(st.sampled_from(["pass", "fail", "inconclusive"]), max_size=8)


@given(verdicts=VERDICTS)
def test_fail_beats_inconclusive_beats_pass_and_nothing_is_no_pass(verdicts):
    results = [GateResult(name="x", verdict=verdict, reason="") for verdict in verdicts]
    worst = max(verdicts, key=RANK.__getitem__, default="inconclusive")
    assert assess_overall(results) == worst


@given(first=st.floats(1, 1e4), more=st.floats(0, 1e4), limit=st.floats(1, 1e4), answered=st.integers(1, 200))
def test_a_slower_candidate_never_gets_a_better_verdict(first, more, limit, answered):
    gate = MetricGate(metric="ttft_ms", max_value=limit)
    result, other = (assess(gate, candidate=side(requests=answered, ttft=ttft)) for ttft in (first, first + more))
    assert RANK[other.verdict] >= RANK[result.verdict]


INTERVAL = st.tuples(st.floats(0.1, 10), st.floats(0, 3), st.floats(0, 3))


@given(interval=INTERVAL, worse=st.floats(0, 5), limit=st.floats(0.1, 10))
def test_a_worse_ratio_never_gets_a_better_verdict(interval, worse, limit):
    value, below, above = interval
    gate = MetricGate(metric="ttft_ms", max_ratio=limit)
    result = assess(gate, comparison=ratio(value, value - below, value + above))
    other = assess(gate, comparison=ratio(value + worse, value - below + worse, value + above + worse))
    assert RANK[other.verdict] >= RANK[result.verdict]


@given(interval=INTERVAL, wider=st.floats(0, 3), limit=st.floats(0.1, 10))
def test_less_certainty_never_decides_what_more_left_open(interval, wider, limit):
    value, below, above = interval
    gate = MetricGate(metric="ttft_ms", max_ratio=limit)
    result = assess(gate, comparison=ratio(value, value - below, value + above))
    other = assess(gate, comparison=ratio(value, value - below - wider, value + above + wider))
    assert other.verdict in {result.verdict, "inconclusive"}


@given(errors=st.integers(0, 40), more=st.integers(0, 40))
def test_more_errors_never_get_a_better_verdict(errors, more):
    result, other = (
        assess_overall(assess_gates((), side(requests=80, errors=count), side(BASELINE), NOTHING))
        for count in (errors, errors + more)
    )
    assert RANK[other] >= RANK[result]
