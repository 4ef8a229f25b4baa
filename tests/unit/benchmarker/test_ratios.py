"""Ratios with bootstrap intervals: right on known distributions, and absent without evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.benchmarker.domain.ratios import MIN_PAIRS, compare
from tests.kit.soak import often
from tests.unit.benchmarker.factories import record


def both(count, *, slower=1.0, seed=0, spread=0.2, shared=0.0):
    """Pairs of lognormal latencies; `shared` is noise that hits both sides of a pair alike."""
    chance = np.random.default_rng(seed)
    records = []
    for pair in range(count):
        common = chance.normal(0, shared) if shared else 0.0
        for side, factor in (("candidate", slower), ("baseline", 1.0)):
            value = 100 * factor * float(np.exp(common + chance.normal(0, spread)))
            records.append(record(side=side, pair=pair, scheduled_s=pair * 0.5, ttft_ms=value))
    return records


def test_the_value_is_the_ratio_of_the_two_statistics():
    records = both(50, slower=1.5)
    ttft = {side: [record.ttft_ms for record in records if record.side == side] for side in ("candidate", "baseline")}
    result = compare(records, seed=1).find("ttft_ms.p95")
    assert result.value == pytest.approx(np.quantile(ttft["candidate"], 0.95) / np.quantile(ttft["baseline"], 0.95))
    assert result.low <= result.value <= result.high


def test_equal_sides_have_a_ratio_of_one_exactly():
    records = [
        record(side=side, pair=pair, scheduled_s=float(pair))
        for pair in range(30)
        for side in ("candidate", "baseline")
    ]
    for ratio in compare(records, seed=1).ratios:
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0)), ratio.metric


def test_the_same_seed_gives_the_same_intervals_and_another_nearly_the_same():
    records = both(40, slower=1.2)
    assert compare(records, seed=1) == compare(records, seed=1)
    record, other = compare(records, seed=1).find("ttft_ms.mean"), compare(records, seed=2).find("ttft_ms.mean")
    assert record != other
    assert record.low == pytest.approx(other.low, rel=0.03)


def test_intervals_cover_the_true_ratio_about_as_often_as_they_say():
    covered = 0
    for seed in range(120):
        result = compare(both(60, slower=1.3, seed=seed), seed=seed, resamples=400).find("ttft_ms.mean")
        covered += result.low <= 1.3 <= result.high
    assert covered / 120 > 0.86  # percentile intervals of small samples run a little short of 95 %


def test_more_pairs_narrow_the_interval():
    few, many = (compare(both(count, seed=3), seed=1).find("ttft_ms.p50") for count in (30, 1000))
    assert many.high - many.low < (few.high - few.low) / 2


def test_noise_that_hits_both_sides_of_a_pair_cancels():
    records = both(100, spread=0.05, shared=0.5, seed=5)
    result = compare(records, seed=1).find("ttft_ms.mean")
    alone = [record.ttft_ms for record in records if record.side == "candidate"]
    unpaired = 1.96 * np.std(alone) / np.sqrt(len(alone)) / np.mean(alone) * np.sqrt(2)
    assert (result.high - result.low) / 2 < unpaired / 2


@pytest.mark.parametrize("count", [0, 1, MIN_PAIRS - 1])
def test_too_few_pairs_have_no_ratio(count):
    result = compare(both(count), seed=1)
    assert (result.pairs, result.ratios) == (count, ())


def test_p99_needs_a_hundred_pairs():
    assert compare(both(99), seed=1).find("ttft_ms.p99") is None
    assert compare(both(100), seed=1).find("ttft_ms.p99") is not None


def test_only_pairs_answered_on_both_sides_count():
    records = both(40)
    records[0] = record(side="candidate", pair=0, error="timeout")
    records[3] = record(side="baseline", pair=1, error="empty")
    assert compare(records, seed=1).pairs == 38


def test_a_baseline_of_zero_has_no_ratio():
    records = [
        record(side=side, pair=pair, scheduled_s=float(pair), itl_ms=5.0 if side == "candidate" else 0.0)
        for pair in range(30)
        for side in ("candidate", "baseline")
    ]
    result = compare(records, seed=1)
    assert result.find("itl_ms.p50") is None
    assert result.find("ttft_ms.p50") is not None


@settings(max_examples=often(25), deadline=None)
@given(count=st.integers(20, 60), slower=st.floats(0.2, 5), seed=st.integers(0, 1000))
def test_intervals_are_ordered_and_throughput_is_there(count, slower, seed):
    result = compare(both(count, slower=slower, seed=seed), seed=seed, resamples=200)
    assert all(0 <= ratio.low <= ratio.high for ratio in result.ratios)
    assert result.find("tps_system") is not None


def width(values, seed=1):
    records = [
        record(side=side, pair=pair, scheduled_s=pair * 0.5, ttft_ms=value if side == "candidate" else 100.0)
        for pair, value in enumerate(values)
        for side in ("candidate", "baseline")
    ]
    result = compare(records, seed=seed).find("ttft_ms.mean")
    return result.high - result.low


def test_independent_requests_have_the_interval_of_the_textbook():
    values = 100 + 20 * np.random.default_rng(4).normal(size=400)
    expected = 2 * 1.96 * np.std(values) / np.sqrt(len(values)) / 100
    assert width(values) == pytest.approx(expected, rel=0.15)


def test_requests_that_wait_for_each_other_have_a_wider_one():
    chance = np.random.default_rng(5)
    queue = [0.0]
    for shock in chance.normal(size=399):
        queue.append(0.9 * queue[-1] + shock)
    values = 100 + 5 * np.array(queue)
    assert width(values) > 1.5 * width(chance.permutation(values))
