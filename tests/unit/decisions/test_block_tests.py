"""The detector by blocks keeps its run length whatever happens inside a block, and its state can be stored."""

import random
from itertools import product
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evidence import block_tests as bt
from decisions.evidence.block_tests import Block, ShareDetector

limits = st.floats(0.001, 0.9)
blocks = st.lists(st.integers(0, 9).flatmap(lambda n: st.builds(Block, requests=st.just(n), bad=st.integers(0, n))))
WEEK_LINE = bt.plan_line(168.0, 5)


def independent(draw, share, mean=6):
    requests = draw.randrange(2 * mean + 1)
    return Block(requests=requests, bad=sum(draw.random() < share for _ in range(requests)))


def together(draw, share, mean=6):
    """All requests of a block fail, or none."""
    requests = draw.randrange(2 * mean + 1)
    return Block(requests=requests, bad=requests if draw.random() < share else 0)


def blocks_until(line, limit, make, longest):
    state = ShareDetector()
    for number in range(1, longest + 1):
        state = bt.observe_detector(state, limit, [make()])
        if state.peak >= line:
            return number
    return longest


@given(limits, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_block_whose_expected_share_is_the_limit_at_most_adds_no_evidence_on_average(limit, low, high):
    """Any two shares with the limit as their mean: what happens inside a block does not matter."""
    low, high = low * limit, limit + high * (1.0 - limit)
    chance = (limit - low) / (high - low) if high > low else 0.0
    for stake in bt.plan_stakes(limit):
        mean = (1 - chance) * bt.factor(stake, low, limit) + chance * bt.factor(stake, high, limit)
        assert mean <= 1.0 + 1e-9


@pytest.mark.parametrize("limit", [1e-4, 0.001, 0.02, 0.05, 0.3, 0.5, 0.96])
def test_a_factor_is_bounded_and_rises_with_the_share(limit):
    for stake, requests in product(bt.plan_stakes(limit), range(1, 13)):
        factors = [bt.factor(stake, bad / requests, limit) for bad in range(requests + 1)]
        assert factors == sorted(factors)
        assert 1.0 - stake <= factors[0] < 1.0
        assert factors[-1] <= bt.GREATEST_FACTOR


@pytest.mark.parametrize("make", [independent, together])
def test_right_at_the_limit_a_false_alarm_comes_no_sooner_than_declared(make):
    line = bt.plan_line(1.0, 1) / 6
    lengths = []
    for seed in range(30):
        draw = random.Random(seed)
        lengths.append(blocks_until(line, 0.1, lambda draw=draw: make(draw, 0.1), 1200))
    assert fmean(lengths) >= line - 50


@pytest.mark.parametrize("limit", [1e-4, 0.001, 0.01, 0.02, 0.05, 0.1, 0.5, 0.9])
def test_no_burst_of_less_than_four_blocks_crosses_a_line_of_a_week(limit):
    bad = Block(requests=100, bad=100)
    assert bt.observe_detector(ShareDetector(), limit, [bad] * 3).peak < bt.plan_line(168.0, 1)
    assert bt.observe_detector(ShareDetector(), limit, [bad] * 300).peak >= WEEK_LINE


def test_a_burst_inside_one_block_counts_as_one_observation():
    spread = bt.observe_detector(ShareDetector(), 0.02, [Block(requests=8, bad=1)] * 16)
    burst = bt.observe_detector(ShareDetector(), 0.02, [Block(requests=64, bad=16), Block(requests=64)])
    assert burst.peak < spread.peak / 100


def test_a_regression_is_found_in_minutes_and_a_healthy_version_is_left_alone():
    draw = random.Random(5)
    healthy = bt.observe_detector(ShareDetector(), 0.02, [independent(draw, 0.01) for _ in range(2000)])
    assert healthy.peak < WEEK_LINE / 10
    bad = bt.observe_detector(healthy, 0.02, [independent(draw, 0.05) for _ in range(400)])
    assert bad.peak >= WEEK_LINE


@given(blocks, st.integers(0, 50), limits)
def test_batches_and_storage_change_nothing(seen, cut, limit):
    """A replay of recorded blocks decides as the monitor did."""
    whole = bt.observe_detector(ShareDetector(), limit, seen)
    part = bt.observe_detector(ShareDetector(), limit, seen[:cut])
    stored = ShareDetector.model_validate_json(part.model_dump_json())
    assert bt.observe_detector(stored, limit, seen[cut:]) == whole


def test_blocks_are_joined_until_they_hold_enough_requests():
    few, enough = Block(requests=bt.LEAST_REQUESTS - 1, bad=1), Block(requests=1)
    waiting = bt.observe_detector(ShareDetector(), 0.02, [Block(), few])
    assert (waiting.open, waiting.peak) == (few, 0.0)
    joined = bt.observe_detector(ShareDetector(), 0.02, [few.joined(enough)])
    assert bt.observe_detector(waiting, 0.02, [enough]).sums == joined.sums


def test_the_evidence_of_a_long_outage_stays_a_number():
    state = bt.observe_detector(ShareDetector(), 0.02, [Block(requests=9, bad=9)] * 3000)
    assert ShareDetector.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("limit", [1e-5, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("triggers", [1, 30])
def test_an_alert_about_bad_requests_only_comes_after_the_blocks_that_are_counted(limit, triggers):
    line, bad = bt.plan_line(168.0, triggers), Block(requests=4, bad=4)
    blocks = bt.count_bad_blocks(limit, line)
    assert bt.observe_detector(ShareDetector(), limit, [bad] * (blocks - 1)).peak < line
    assert bt.observe_detector(ShareDetector(), limit, [bad] * blocks).peak >= line


@given(limits, st.integers(1, 5))
def test_evidence_is_at_rest_before_and_long_after_a_bad_block(limit, bad):
    assert bt.is_at_rest(ShareDetector(), limit)
    hit = bt.observe_detector(ShareDetector(), limit, [Block(requests=3), Block(requests=5, bad=5)] * bad)
    assert not bt.is_at_rest(hit, limit)
    assert bt.is_at_rest(bt.observe_detector(hit, limit, [Block(requests=9)] * 2000), limit)
    assert not bt.is_at_rest(bt.observe_detector(ShareDetector(), limit, [Block(requests=2, bad=1)]), limit)


@pytest.mark.parametrize(("hours", "triggers"), [(0.5, 1), (168.0, 0)])
def test_a_line_that_good_requests_could_reach_is_refused(hours, triggers):
    with pytest.raises(ValueError, match="the least is"):
        bt.plan_line(hours, triggers)
