"""Figures of a side: they agree with numpy, and are left out where the sample is too small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.policy import MetricGate
from services.benchmarker.domain.statistics import MIN_COUNT, QUANTILES, Slo, describe, quantile, slo_of, summarise
from tests.unit.benchmarker.factories import CANDIDATE, record

VALUES = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=300)


@given(values=VALUES, q=st.floats(0, 1))
def test_quantiles_agree_with_numpy(values, q):
    assert quantile(sorted(values), q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


@given(values=VALUES)
def test_described_values_agree_with_numpy_and_appear_only_with_enough_sample(values):
    result = describe(values)
    assert result.count == len(values)
    assert result.mean == pytest.approx(float(np.mean(values)), rel=1e-9, abs=1e-9)
    for name, q in QUANTILES.items():
        value = getattr(result, name)
        if len(values) < MIN_COUNT[name]:
            assert value is None
        else:
            assert value == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)


@given(values=VALUES, factor=st.floats(0.1, 10))
def test_figures_scale_with_the_values(values, factor):
    first, other = describe(values), describe([value * factor for value in values])
    assert other.mean == pytest.approx(first.mean * factor, rel=1e-9, abs=1e-9)
    assert other.p50 == pytest.approx(first.p50 * factor, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("count", "p95", "p99"), [(19, False, False), (20, True, False), (99, True, False), (100, True, True)]
)
def test_tail_quantiles_need_an_observation_beyond_them(count, p95, p99):
    result = describe(float(value) for value in range(count))
    assert (result.p95 is not None, result.p99 is not None) == (p95, p99)


def test_nothing_measured_is_nothing_said():
    assert describe([None, None]).model_dump() == {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None}


def test_absent_values_are_left_out():
    assert describe([1.0, None, 3.0]).count == 2
    assert describe([1.0, None, 3.0]).mean == pytest.approx(2.0)


def test_a_side_counts_errors_apart_and_takes_throughput_over_its_whole_span():
    records = [
        record(scheduled_s=0.0, ttft_ms=100, itl_ms=100, tokens=10),
        record(scheduled_s=5.0, error="timeout"),
        record(scheduled_s=9.0, ttft_ms=100, itl_ms=100, tokens=10),
    ]
    result = summarise(CANDIDATE, records, Slo())
    assert (result.requests, result.errors, result.output_tokens) == (3, 1, 20)
    assert result.ttft_ms.count == 2
    assert result.tps_system == pytest.approx(20 / 10.0)
    assert result.goodput_rps == pytest.approx(2 / 10.0)


def test_goodput_counts_only_requests_that_meet_every_limit():
    records = [
        record(scheduled_s=0.0, ttft_ms=100, itl_ms=10),
        record(scheduled_s=1.0, ttft_ms=300, itl_ms=10),
        record(scheduled_s=2.0, ttft_ms=100, itl_ms=50),
        record(scheduled_s=3.0, error="empty"),
    ]
    span = records[-1].done_s
    result = summarise(CANDIDATE, records, Slo(ttft_ms=200, itl_ms=20))
    assert result.goodput_rps == pytest.approx(1 / span)


def test_an_unmeasured_side_is_all_zero():
    result = summarise(CANDIDATE, [], Slo())
    assert (result.requests, result.tps_system, result.goodput_rps) == (0, 0.0, 0.0)


def test_the_limits_for_goodput_are_the_tightest_absolute_bounds():
    gates = [
        MetricGate(metric="ttft_ms", max_value=500),
        MetricGate(metric="ttft_ms", statistic="p50", max_value=200),
        MetricGate(metric="e2e_ms", max_ratio=1.2),
        MetricGate(metric="tps_request", min_value=5),
        MetricGate(metric="tps_system", min_value=50),
    ]
    assert slo_of(gates) == Slo(ttft_ms=200, tps_request=5)


@given(ttft=st.floats(1, 1000), limit=st.floats(1, 1000))
def test_a_limit_is_met_up_to_and_including_itself(ttft, limit):
    first = record(ttft_ms=ttft)
    assert Slo(ttft_ms=limit).is_met(first) is (first.ttft_ms <= limit)


def test_speed_has_a_lower_limit():
    slow = record(ttft_ms=1000, tokens=8)
    assert Slo(tps_request=1).is_met(slow)
    assert not Slo(tps_request=100).is_met(slow)
