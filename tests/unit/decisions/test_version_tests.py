"""Verdicts about candidates and suspended versions keep their levels; no single key decides one."""

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evidence import version_tests as vt
from decisions.evidence.block_tests import STAKES, Block, factor, plan_stakes
from decisions.evidence.version_tests import CandidateTest, Judgement, Pair, ShareTest

ALPHA, BETA, LIMIT = 0.001, 0.05, 0.02
HALF, SURE = (ShareTest(logs=(-part * math.log(ALPHA),) * STAKES) for part in (0.6, 1.001))
shares = st.floats(0.0, 1.0)


def judged(key_weights, target, other, *, blocks, seed, limit=LIMIT):
    draw, state = random.Random(seed), Judgement()
    keys = [str(key) for key in range(len(key_weights))]
    for _ in range(blocks):
        sent = draw.choices(keys, key_weights, k=2)
        state = vt.observe_pairs(
            state, limit, [Pair(key, draw.random() < target, draw.random() < other) for key in sent]
        )
    return vt.decide_judgement(state, alpha=ALPHA, beta=BETA)


def with_evidence(**tests):
    return CandidateTest(**{name: test for name, test in tests.items() if test})


@given(st.lists(shares, min_size=1, max_size=40), st.floats(0.01, 0.97))
def test_the_value_of_a_test_is_the_mean_of_its_products(seen, limit):
    test = ShareTest()
    for share in seen:
        test = vt.observe_share(test, limit, share)
    products = [math.prod(factor(stake, share, limit) for share in seen) for stake in plan_stakes(limit)]
    assert [math.exp(log) for log in test.logs] == pytest.approx(products, rel=1e-6)
    assert ShareTest.model_validate_json(test.model_dump_json()) == test


def test_twice_the_limit_passes_no_more_often_than_declared_and_a_good_candidate_passes():
    passed = dict.fromkeys((0.04, 0.01), 0)
    for share, seed in product(passed, range(60)):
        draw, test = random.Random(seed), ShareTest()
        for _ in range(450):
            test = vt.observe_share(test, 1.0 - 2 * LIMIT, float(draw.random() >= share))
        passed[share] += test.crossed(BETA)
    assert passed[0.04] <= 6
    assert passed[0.01] >= 54


def test_a_candidate_is_failed_for_its_own_errors_not_for_those_of_both():
    draw = random.Random(3)
    alone, both = CandidateTest(), CandidateTest()
    for _ in range(200):
        bad, beside = int(draw.random() < 0.3), int(draw.random() < 0.3)
        seen = Block(requests=1, bad=bad)
        alone = vt.observe_candidate(alone, LIMIT, seen, Block(requests=9))
        both = vt.observe_candidate(both, LIMIT, seen, Block(requests=1, bad=beside))
    verdicts = [vt.decide_candidate(test, test, callers=9, alpha=ALPHA, beta=BETA) for test in (alone, both)]
    assert verdicts == ["fail", "load"]
    assert vt.observe_candidate(both, LIMIT, Block(), Block(requests=9, bad=9)) == both
    assert vt.observe_candidate(CandidateTest(), LIMIT, Block(requests=1), Block()).worse == vt.AGAINST


@pytest.mark.parametrize(
    ("worse", "beyond", "active", "passing"), product((None, SURE), (None, SURE), (None, HALF), (None, SURE))
)
def test_every_combination_has_its_verdict(worse, beyond, active, passing):
    test = with_evidence(worse=worse, beyond=beyond, active=active, passing=passing)
    expected = "undecided"
    if worse:
        expected = "fail"
    elif beyond:
        expected = "load" if active else "fail"
    elif passing:
        expected = "pass"
    without, good = CandidateTest(), with_evidence(passing=SURE)
    assert vt.decide_candidate(test, without, callers=2, alpha=ALPHA, beta=BETA) == expected
    of_heaviest = "undecided" if expected == "pass" else expected
    assert vt.decide_candidate(test, without, callers=3, alpha=ALPHA, beta=BETA) == of_heaviest
    of_others = expected if expected == "pass" else "undecided"
    assert vt.decide_candidate(test, good, callers=3, alpha=ALPHA, beta=BETA) == of_others
    once_good = with_evidence(worse=SURE, passing=SURE)
    assert vt.decide_candidate(test, once_good, callers=3, alpha=ALPHA, beta=BETA) == of_heaviest


def test_what_both_had_is_over_once_both_are_well_again():
    test = CandidateTest()
    for blocks, bad in ((30, 4), (1200, 0)):
        for _ in range(blocks):
            test = vt.observe_candidate(test, LIMIT, Block(requests=4, bad=bad), Block(requests=4, bad=bad))
        verdict = vt.decide_candidate(test, test, callers=1, alpha=ALPHA, beta=BETA)
        assert verdict == ("load" if bad else "pass")


def test_a_candidate_that_was_good_and_is_bad_passes_no_more():
    test = CandidateTest()
    for _ in range(150):
        test = vt.observe_candidate(test, LIMIT, Block(requests=4), Block())
    assert vt.decide_candidate(test, test, callers=1, alpha=ALPHA, beta=BETA) == "pass"
    for _ in range(3):
        test = vt.observe_candidate(test, LIMIT, Block(requests=4, bad=4), Block())
    assert vt.decide_candidate(test, test, callers=1, alpha=ALPHA, beta=BETA) == "undecided"


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_version_is_confirmed_and_a_healthy_one_cleared(seed):
    assert judged([1] * 5, 0.25, 0.01, blocks=300, seed=seed) == "confirmed"
    assert judged([1] * 5, 0.01, 0.01, blocks=600, seed=seed) == "cleared"


@pytest.mark.parametrize(("seed", "share"), product(range(2), (0.1, 0.5, 0.9)))
def test_no_single_key_of_three_confirms(seed, share):
    draw, state = random.Random(seed), Judgement()
    for number in range(300):
        key = "hostile" if draw.random() < share else str(number % 2)
        state = vt.observe_pairs(state, LIMIT, [Pair(key, key == "hostile", other=False)])
    assert vt.decide_judgement(state, alpha=ALPHA, beta=BETA) == "undecided"


def test_the_only_caller_of_a_model_confirms_and_a_heavy_good_one_clears_nothing():
    assert judged([1], 0.25, 0.01, blocks=100, seed=1) == "confirmed"
    state = Judgement()
    for number in range(600):
        pairs = [Pair("heavy", target=False, other=False)] * 3
        state = vt.observe_pairs(state, LIMIT, [*pairs, Pair(str(number % 2), number % 4 == 0, number % 4 == 0)])
    heavy_only = state.model_copy(update={"passing_others": ShareTest()})
    assert state.passing.crossed(BETA)
    assert vt.decide_judgement(heavy_only, alpha=ALPHA, beta=BETA) == "undecided"


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 200))
def test_evidence_about_a_version_fades_in_both_directions(outcomes, blocks):
    test = ShareTest()
    for outcome in outcomes:
        test = vt.observe_share(test, 0.5, float(outcome))
    faded = test
    for _ in range(blocks):
        faded = vt.fade(faded)
    for before, after in zip(test.logs, faded.logs, strict=True):
        assert after == pytest.approx(before * 0.5 ** (blocks / vt.FADING_BLOCKS))


def test_no_caller_prevents_a_confirmation():
    hostile = [Pair("hostile", target=False, other=True)] * 3
    state = Judgement()
    for _ in range(600):
        state = vt.observe_pairs(state, LIMIT, hostile)
    for number in range(30):
        state = vt.observe_pairs(state, LIMIT, [*hostile, Pair(str(number % 5), target=True, other=False)])
    assert vt.decide_judgement(state, alpha=ALPHA, beta=BETA) == "confirmed"


def test_the_cap_of_a_key_lasts_as_long_as_its_evidence():
    pairs, state = [Pair("hostile", target=True, other=False)], Judgement()
    for number in range(2 * vt.FADING_BLOCKS):
        state = vt.observe_pairs(state, LIMIT, [*pairs, Pair(str(number % 9), target=False, other=False)])
    assert 5.0 < state.differing["hostile"] <= vt.MOST_OF_KEY
    assert vt.decide_judgement(state, alpha=ALPHA, beta=BETA) == "undecided"


def test_of_many_keys_those_with_most_pairs_are_counted():
    state = Judgement()
    for number in range(500):
        pairs = [Pair("many", target=False, other=False), Pair(str(number), target=True, other=False)]
        state = vt.observe_pairs(state, LIMIT, pairs)
    assert (len(state.asked), state.asked["many"]) == (vt.MOST_KEYS, 500)
    assert len(state.differing) <= vt.MOST_KEYS


def test_an_old_incident_does_not_confirm_with_a_new_one_of_half_its_size():
    pairs = [Pair(str(number % 4), target=True, other=False) for number in range(20)]
    state = vt.observe_pairs(Judgement(), LIMIT, pairs[:10])
    for _ in range(3 * vt.FADING_BLOCKS):
        state = vt.observe_pairs(state, LIMIT, [])
    assert vt.decide_judgement(vt.observe_pairs(state, LIMIT, pairs[:6]), alpha=ALPHA, beta=BETA) == "undecided"
    assert vt.decide_judgement(vt.observe_pairs(Judgement(), LIMIT, pairs[:16]), alpha=ALPHA, beta=BETA) == "confirmed"
