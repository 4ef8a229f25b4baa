"""Decisions about limits of scores keep their error probabilities, and need few rows."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evaluations.limit_tests import (
    MULTIPLES,
    LimitTest,
    least_rows,
    least_rows_of_loss,
    plan_bet,
    plan_test,
    usual_rows,
)

SEED = 20261201
ALPHA, BETA = 0.02, 0.05


def pairs(draw, drop, differing):
    """Return figures of pairs without end: the candidate is worse more often than better."""
    worse, better = (differing + drop) / 2, (differing - drop) / 2
    while True:
        value = draw.random()
        yield (1.0 + (-1.0 if value < worse else 1.0 if value < worse + better else 0.0)) / 2


def decide(draw, drop, differing, limit, rows, *, alpha=ALPHA, beta=BETA):
    test = plan_test((1.0 - limit) / 2, alpha=alpha, beta=beta, rows=rows)
    for figure, _ in zip(pairs(draw, drop, differing), range(rows), strict=False):
        test = test.observe(figure)
        if test.decision != "undecided":
            break
    return test


def shares(drop, differing, limit, rows, *, runs=200, **levels):
    draw = random.Random(f"{SEED} {drop} {differing} {limit} {rows}")
    tests = [decide(draw, drop, differing, limit, rows, **levels) for _ in range(runs)]
    found = {name: sum(test.decision == name for test in tests) / runs for name in ("met", "missed", "undecided")}
    print(f"seed {SEED}: drop {drop}, differing {differing}, limit {limit}, {rows} rows: {found}")
    return found


@pytest.mark.parametrize("differing", [0.06, 0.15, 0.4])
@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_a_candidate_at_its_limit_is_neither_met_nor_missed_more_often_than_declared(limit, differing):
    found = shares(max(limit, 0.0), max(differing, limit), limit, 400)
    assert found["met"] <= BETA + 0.02
    assert found["missed"] <= ALPHA + 0.015


@pytest.mark.parametrize("drop", [0.0, 0.03])
def test_a_good_candidate_is_seldom_proved_worse(drop):
    assert shares(drop, 0.15, 0.05, 300)["missed"] <= ALPHA


@pytest.mark.parametrize(("limit", "rows", "refused"), [(0.05, 200, 0.75), (0.05, 800, 0.15), (0.1, 200, 0.2)])
def test_an_equal_candidate_is_refused_for_want_of_rows_as_often_as_the_guide_says(limit, rows, refused):
    found = shares(0.0, 0.1, limit, rows)
    assert found["missed"] <= ALPHA
    assert refused - 0.15 <= found["missed"] + found["undecided"] <= refused


@pytest.mark.parametrize("limit", [0.05, 0.1, 0.2])
def test_the_usual_rows_decide_nine_in_ten_equal_candidates(limit):
    assert shares(0.0, 0.1, limit, usual_rows(limit, BETA), runs=100)["met"] >= 0.8


def test_a_loss_of_ten_points_never_passes_a_limit_of_five_and_is_mostly_found():
    found = shares(0.1, 0.2, 0.05, 200)
    assert found["met"] <= 0.02
    assert shares(0.2, 0.3, 0.05, 200)["missed"] >= 0.8


def test_an_equal_candidate_is_soon_known_to_be_within_its_limit():
    assert shares(0.0, 0.02, 0.05, 200)["met"] >= 0.8
    assert shares(0.0, 0.1, 0.1, 200)["met"] >= 0.85


def test_a_slice_of_50_rows_that_loses_40_points_is_mostly_found_beside_ten_other_limits():
    assert shares(0.4, 0.44, 0.1, 50, alpha=ALPHA / 11)["missed"] >= 0.5


def test_a_least_score_is_met_and_missed():
    draw = random.Random(SEED)
    for value, expected in ((0.95, "met"), (0.6, "missed")):
        test = plan_test(0.8, alpha=ALPHA, beta=BETA, rows=200)
        for _ in range(200):
            test = test.observe(float(draw.random() < value))
        assert test.decision == expected
        assert test.mean == pytest.approx(value, abs=0.1)


@given(
    st.lists(st.floats(0.0, 1.0), max_size=60), st.floats(0.05, 0.95), st.floats(0.001, 0.2), st.integers(20, 10_000)
)
def test_the_evidence_is_the_mean_of_the_products(figures, threshold, level, rows):
    bet = plan_bet(threshold, level, rows)
    for figure in figures:
        bet = bet.observe(figure)
    products = [math.prod(1.0 + stake * (figure - threshold) / threshold for figure in figures) for stake in bet.stakes]
    assert bet.log_e == pytest.approx(math.log(sum(products) / len(products)), abs=1e-6)
    assert len(bet.stakes) == len(MULTIPLES)
    assert all(0.0 < stake < 1.0 for stake in bet.stakes)


def test_how_many_more_rows_are_needed_is_about_right_and_none_without_an_end():
    draw = random.Random(SEED)
    test = plan_test(0.475, alpha=ALPHA, beta=BETA, rows=1000)
    for figure, _ in zip(pairs(draw, 0.0, 0.1), range(150), strict=False):
        test = test.observe(figure)
    more = test.estimate_more()
    assert test.decision == "undecided"
    assert 20 <= more <= 1_500
    at_the_limit = LimitTest(*(plan_bet(0.5, 0.05, 1000),) * 2)
    for number in range(100):
        at_the_limit = at_the_limit.observe(float(number % 2))
    assert at_the_limit.estimate_more() is None
    assert plan_test(0.5, alpha=0.02, beta=0.05, rows=20).estimate_more() is None
    decided = plan_test(0.2, alpha=0.02, beta=0.05, rows=20)
    for _ in range(20):
        decided = decided.observe(1.0)
    assert (decided.decision, decided.estimate_more()) == ("met", 0)
    assert decided.observe(0.0).decision == "met"


def test_how_many_rows_a_limit_needs_at_least():
    assert least_rows(0.05, 0.05) == 59
    assert least_rows(0.5, 0.05) == 5


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.4, 0.8])
@pytest.mark.parametrize("alpha", [6e-4, 1e-4, 3e-7])
@pytest.mark.parametrize("score", [1.0, 0.75])
def test_a_total_loss_shows_by_as_many_rows_as_it_is_said_to_need(margin, alpha, score):
    needed = least_rows_of_loss(margin, alpha, score)
    if margin > 0.7 > 1.0 - score > 0.0:
        assert needed == math.inf, "it cannot fall so far"
        return
    test = plan_test((1.0 - margin) / 2.0, alpha=alpha, beta=BETA, rows=needed)
    for number in range(needed):
        test = test.observe(0.0 if number % 4 < 4 * score else 0.5)
    assert test.decision == "missed"
    assert test.rows > 0.75 * needed
