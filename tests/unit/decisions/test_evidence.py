"""The sequential tests keep their promises: false alarms, batching, serialisation, no overflow."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions import evidence as ev
from decisions.evidence import EProcess, PairTest

outcomes = st.lists(st.booleans(), max_size=200)
limits = st.floats(0.001, 0.6)


def stream(ratio, length, seed):
    draw = random.Random(seed)
    return [draw.random() < ratio for _ in range(length)]


@pytest.mark.parametrize(("p0", "alpha"), [(0.05, 0.05), (0.02, 0.05), (0.2, 0.1)])
def test_the_e_process_rarely_fires_at_the_limit_however_long_one_looks(p0, alpha):
    bet, runs = ev.plan_bet(p0), 400
    fired = sum(ev.observe_process(EProcess(), bet, stream(p0, 1500, seed)).crossed(alpha) for seed in range(runs))
    assert fired / runs <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / runs)
    assert ev.observe_process(EProcess(), bet, stream(min(5 * p0, 0.9), 1500, 1)).crossed(alpha)


@given(limits, st.integers(0, 6), st.floats(0.0, 1.0))
def test_one_step_is_fair_at_the_limit_and_unfavourable_below(p0, index, share):
    """The expectation of each factor: exactly 1 at the limit, at most 1 under any smaller ratio."""
    bet = ev.plan_bet(p0)
    hit, miss = math.exp(bet.hit[index]), math.exp(bet.miss[index])
    at = p0 * hit + (1 - p0) * miss
    below = share * p0 * hit + (1 - share * p0) * miss
    assert at == pytest.approx(1.0)
    assert below <= 1.0 + 1e-9


@given(outcomes, limits, st.integers(0, 200))
def test_batching_does_not_matter(values, p0, cut):
    bet = ev.plan_bet(p0)
    whole = ev.observe_process(EProcess(), bet, values)
    parts = ev.observe_process(ev.observe_process(EProcess(), bet, values[:cut]), bet, values[cut:])
    assert parts == whole
    single = EProcess()
    for value in values:
        single = ev.observe_process(single, bet, [value])
    if values:
        assert single == whole


@given(outcomes, limits)
def test_state_survives_being_written_down(values, p0):
    bet = ev.plan_bet(p0)
    half = ev.observe_process(EProcess(), bet, values)
    again = EProcess.model_validate_json(half.model_dump_json())
    assert ev.observe_process(again, bet, values) == ev.observe_process(half, bet, values)


def test_logs_do_not_overflow():
    bet = ev.plan_bet(0.0)
    state = ev.observe_process(ev.observe_process(EProcess(), bet, [True] * 3000), bet, [False] * 3000)
    assert math.isfinite(state.log_e)
    assert ev.as_e_value(state.peak) == pytest.approx(1e300, rel=2)
    assert not ev.observe_process(EProcess(), ev.plan_bet(1.0), [True] * 500).crossed(0.5)


@given(outcomes, limits)
def test_the_peak_is_the_highest_that_it_ever_was(values, p0):
    bet, state, highest = ev.plan_bet(p0), EProcess(), 0.0
    for value in values:
        state = ev.observe_process(state, bet, [value])
        highest = max(highest, state.log_e)
    assert state.peak == pytest.approx(highest)


def test_needed_more_is_about_right():
    bet, p0 = ev.plan_bet(0.05), 0.25
    state = ev.observe_process(EProcess(), bet, [False, False, False, True] * 5)
    estimate = ev.estimate_requests_needed(state, bet, 0.001)
    more = 0
    draw = random.Random(5)
    while not state.crossed(0.001):
        state = ev.observe_process(state, bet, [draw.random() < p0])
        more += 1
    assert estimate is not None
    assert estimate / 4 <= max(more, 1) <= estimate * 4
    assert ev.estimate_requests_needed(EProcess(trials=500, hits=1, log_e=-9.0), bet, 0.001) is None


def pairs(candidate, baseline, count, seed, *, per_candidate=1):
    draw, state = random.Random(seed), PairTest()
    for _ in range(count):
        for _ in range(per_candidate):
            state = ev.observe_pair(state, "baseline", draw.random() < baseline)
        state = ev.observe_pair(state, "candidate", draw.random() < candidate)
    return state


def test_a_canary_as_bad_as_its_baseline_is_not_blamed():
    alpha, runs = 0.05, 300
    fired = sum(pairs(0.2, 0.2, 400, seed).discordant.crossed(alpha) for seed in range(runs))
    assert fired / runs <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("per_candidate", [1, 4])
def test_a_worse_canary_is_found_and_its_slice_is_equal(per_candidate):
    state = pairs(0.3, 0.03, 200, 7, per_candidate=per_candidate)
    assert state.discordant.crossed(0.001)
    assert state.pairs == 200
    assert len(state.waiting) <= ev.PAIRS_WAITING


def test_a_better_canary_is_never_blamed():
    assert not any(pairs(0.02, 0.3, 300, seed).discordant.crossed(0.05) for seed in range(50))


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.8])
def test_a_healthy_canary_is_not_blamed_for_an_active_version_that_fails_whatever_share_of_the_traffic_it_has(weight):
    for seed in range(50):
        draw = random.Random(seed)
        sides = ["candidate" if draw.random() < weight else "baseline" for _ in range(600)]
        state = paired((side, side == "baseline" and draw.random() < 0.2) for side in sides)
        assert not state.discordant.crossed(0.01)


def paired(observations):
    state = PairTest()
    for side, outcome in observations:
        state = ev.observe_pair(state, side, outcome)
    return state


ORDERS = pytest.mark.parametrize(
    ("first", "second"),
    [("candidate", "baseline"), ("baseline", "candidate")],
    ids=["candidate first", "baseline first"],
)


@ORDERS
@pytest.mark.parametrize("failing", ["candidate", "baseline"])
def test_the_side_of_a_pair_that_failed_is_counted_whichever_came_first(first, second, failing):
    state = paired([(first, first == failing), (second, second == failing)])
    assert (state.candidate_hits, state.baseline_hits) == (failing == "candidate", failing == "baseline")
    assert (state.discordant.trials, state.discordant.hits) == (1, failing == "candidate")


@ORDERS
def test_an_outcome_is_paired_with_the_newest_of_the_other_side_and_the_oldest_are_dropped(first, second):
    """Only the oldest outcome that still waits failed: the last pair has it."""
    kept = [(first, True), *[(first, False)] * (ev.PAIRS_WAITING - 1)]
    for waiting, failed in ((kept, 1), ([*kept, (first, False)], 0)):
        newer = paired([*waiting, *[(second, False)] * (ev.PAIRS_WAITING - 1)])
        assert (newer.pairs, newer.candidate_hits + newer.baseline_hits) == (ev.PAIRS_WAITING - 1, 0)
        last = ev.observe_pair(newer, second, False)
        assert (last.pairs, last.candidate_hits + last.baseline_hits) == (ev.PAIRS_WAITING, failed)


@given(st.lists(st.tuples(st.sampled_from(["candidate", "baseline"]), st.booleans()), max_size=300))
def test_pairs_count_each_request_once(observations):
    state = paired(observations)
    most = min(sum(side == value for side, _ in observations) for value in ("candidate", "baseline"))
    assert state.pairs <= most
    assert state.discordant.trials <= state.pairs
    assert PairTest.model_validate_json(state.model_dump_json()) == state
