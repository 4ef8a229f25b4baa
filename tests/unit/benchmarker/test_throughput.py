"""The ratio of throughputs: its interval shows the noise of a load, whether the sides keep up with it or not."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.policy import MetricGate
from services.benchmarker.domain.ratios import compare, throughput_ratio
from services.benchmarker.domain.report import assess_gates
from services.benchmarker.domain.statistics import Slo, summarise
from tests.kit.soak import often
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, record

SEEDS = 200


def pairs(count, *, seed, work_s=1.0, slower=1.0, rate_rps=1.0, tokens=24):
    """Pairs of a Poisson load on two engines that answer one request at a time, `work_s` seconds each on average."""
    chance = random.Random(seed)
    at_s, free_s = 0.0, {"candidate": 0.0, "baseline": 0.0}
    made = []
    for pair in range(count):
        sides = {}
        for side in chance.sample(sorted(free_s), 2):
            at_s += chance.expovariate(2 * rate_rps)
            takes_s = work_s * (slower if side == "candidate" else 1.0) * chance.lognormvariate(0, 0.3)
            begin_s = max(at_s, free_s[side])
            free_s[side] = begin_s + takes_s
            sides[side] = record(
                side=side,
                pair=pair,
                scheduled_s=at_s,
                ttft_ms=(begin_s - at_s + 0.1 * takes_s) * 1000,
                itl_ms=0.9 * takes_s * 1000 / (tokens - 1),
                tokens=tokens,
            )
        made.append((sides["candidate"], sides["baseline"]))
    return made


@pytest.mark.parametrize("count", [20, 100])
@pytest.mark.parametrize(
    ("work_s", "rate_rps"), [(0.1, 1.0), (0.9, 1.0), (2.0, 1.0), (1.0, 1000.0)], ids=["idle", "busy", "late", "burst"]
)
def test_of_two_equal_sides_the_interval_contains_one_as_often_as_it_says(count, work_s, rate_rps):
    ratios = [throughput_ratio(pairs(count, seed=n, work_s=work_s, rate_rps=rate_rps)) for n in range(SEEDS)]
    covered = sum(ratio.low <= 1.0 <= ratio.high for ratio in ratios) / SEEDS
    assert covered >= 0.9, "windows of two requests run a little short of 95 %"
    assert all(ratio.low < ratio.value < ratio.high for ratio in ratios)


def test_of_a_side_that_is_half_as_fast_under_too_much_load_it_contains_a_half():
    ratios = [throughput_ratio(pairs(100, seed=n, slower=2.0, rate_rps=1000.0)) for n in range(SEEDS)]
    assert sum(ratio.low <= 0.5 <= ratio.high for ratio in ratios) >= 0.9 * SEEDS
    assert all(ratio.low > 0.3 and ratio.high < 0.8 for ratio in ratios)


def test_a_gate_at_one_neither_passes_nor_fails_an_equal_candidate_by_chance():
    gate = MetricGate(metric="tps_system", min_ratio=1.0)
    verdicts = []
    for seed in range(60):
        records = [each for pair in pairs(40, seed=seed, work_s=0.5) for each in pair]
        candidate, baseline = (summarise(target, records, Slo()) for target in (CANDIDATE, BASELINE))
        compared = compare(records, seed=seed, resamples=50)
        verdicts.append(assess_gates((gate,), candidate, baseline, compared)[0].verdict)
    assert verdicts.count("inconclusive") >= 55


def test_more_requests_narrow_it_and_then_a_slower_candidate_fails():
    few, many = (throughput_ratio(pairs(count, seed=3, slower=1.25, rate_rps=1000.0)) for count in (20, 500))
    assert math.log(many.high / many.low) < math.log(few.high / few.low) / 2
    assert many.low < 0.8 < many.high < 0.9


@settings(max_examples=often(40), deadline=None)
@given(count=st.integers(1, 40), slower=st.floats(0.1, 10), seed=st.integers(0, 1000), rate=st.floats(0.1, 1000))
def test_sides_exchanged_have_the_inverse_ratio(count, slower, seed, rate):
    made = pairs(count, seed=seed, slower=slower, rate_rps=rate)
    ratio, inverse = throughput_ratio(made), throughput_ratio([(b, a) for a, b in made])
    assert (ratio is None) == (inverse is None)
    if ratio is not None:
        assert 0 < ratio.low <= ratio.value <= ratio.high
        assert (inverse.value, inverse.low, inverse.high) == pytest.approx(
            (1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
        )


def test_without_pairs_or_without_tokens_there_is_no_ratio():
    assert throughput_ratio([]) is None
    late = record(side="baseline", scheduled_s=50.0)
    assert throughput_ratio([(record(), late)]) is None, "the baseline had generated nothing when the candidate ended"


def test_answers_in_one_piece_count_when_they_come():
    made = [
        tuple(
            record(side=side, pair=n, scheduled_s=float(n), ttft_ms=ttft_ms, itl_ms=0.0)
            for side, ttft_ms in (("candidate", 300.0), ("baseline", 100.0))
        )
        for n in range(40)
    ]
    ratio = throughput_ratio(made)
    assert ratio.value == pytest.approx(39 / 40)
    assert ratio.low < 1.0 < ratio.high
