"""What is planned before anything is sent."""

import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from contracts.policy import LoadProfile, MetricGate
from services.benchmarker.domain.plan import plan_arrivals, plan_benchmark
from services.benchmarker.domain.records import SIDES
from tests.unit.benchmarker.factories import BASELINE, artifact, served, staged

PLAN = {"requests": 2000, "rate_rps": 5.0, "prompts": 40, "seed": 7}


@given(requests=st.integers(1, 60), rate=st.floats(0.01, 1000), prompts=st.integers(1, 50), seed=st.integers(0, 2**60))
def test_every_pair_has_one_request_per_side_with_the_same_prompt(requests, rate, prompts, seed):
    plan = plan_arrivals(requests=requests, rate_rps=rate, prompts=prompts, seed=seed)
    assert len(plan) == 2 * requests
    assert all(earlier.at_s <= later.at_s for earlier, later in itertools.pairwise(plan))
    for number, (first, second) in enumerate(zip(plan[::2], plan[1::2], strict=True)):
        assert {first.side, second.side} == set(SIDES)
        assert (first.pair, second.pair) == (number, number)
        assert first.prompt == second.prompt
        assert 0 <= first.prompt < prompts


@given(requests=st.integers(1, 200), prompts=st.integers(1, 50))
def test_prompts_are_used_evenly(requests, prompts):
    plan = plan_arrivals(requests=requests, rate_rps=1.0, prompts=prompts, seed=1)
    used = Counter(arrival.prompt for arrival in plan[::2])
    counts = [used[prompt] for prompt in range(prompts)]
    assert max(counts) - min(counts) <= 1


def test_the_same_seed_is_the_same_plan_and_another_seed_another():
    assert plan_arrivals(**PLAN) == plan_arrivals(**PLAN)
    assert plan_arrivals(**PLAN) != plan_arrivals(**{**PLAN, "seed": 8})


def test_arrivals_of_both_sides_together_are_a_poisson_process_at_twice_the_rate():
    times = [0.0, *(arrival.at_s for arrival in plan_arrivals(**PLAN))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert stats.kstest(gaps, "expon", args=(0, 1 / (2 * PLAN["rate_rps"]))).pvalue > 0.01
    # Gaps do not depend on the one before.
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 0.05


@pytest.mark.parametrize("side", SIDES)
def test_each_side_gets_its_rate(side):
    times = [arrival.at_s for arrival in plan_arrivals(**PLAN) if arrival.side == side]
    assert len(times) / times[-1] == pytest.approx(PLAN["rate_rps"], rel=0.06)


def test_neither_side_always_goes_first():
    first = Counter(arrival.side for arrival in plan_arrivals(**PLAN)[::2])
    assert abs(first["candidate"] - first["baseline"]) < 5 * PLAN["requests"] ** 0.5


def _key(*, hardware="box", prompts="sha256:" + "0" * 64, **more):
    return plan_benchmark(staged(**more), hardware=hardware, prompts=prompts).output_key


def test_the_key_is_the_same_for_the_same_measurement_wherever_it_is_staged():
    moved = served(BASELINE, "10.0.0.1:8001", "10.0.0.2:8001")
    assert _key() == _key(lease_id="another", baseline=moved)


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 2},
        {"hardware": "another box"},
        {"prompts": "sha256:" + "1" * 64},
        {"load": LoadProfile(requests=41)},
        {"gates": (MetricGate(metric="ttft_ms", max_value=1.0),)},
        {"baseline": served(BASELINE.model_copy(update={"version": 0}))},
        {"baseline": served(BASELINE).model_copy(update={"manifest": artifact("other weights")})},
        {"candidate": served(BASELINE)},
    ],
    ids=["attempt", "hardware", "prompts", "load", "gates", "baseline", "baseline-bytes", "candidate"],
)
def test_whatever_changes_the_measurement_changes_the_key(change):
    assert _key(**change) != _key()


def test_the_seed_follows_from_the_key():
    first = plan_benchmark(staged(), hardware="box", prompts="p")
    second = plan_benchmark(staged(attempt=2), hardware="box", prompts="p")
    assert first.seed == plan_benchmark(staged(), hardware="box", prompts="p").seed
    assert first.seed != second.seed
