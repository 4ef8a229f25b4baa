"""Allowances: no caller gets more than the limit over any number of minutes, and each gets it in the end."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.request_rates import MINUTE_S, Allowance

LIMITS = st.integers(1, 10_000)
STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=60)


@given(LIMITS, STEPS)
def test_what_is_admitted_stays_below_the_limit(limit, steps):
    """Requests of one each: at most a full allowance at the start, and then what the time brings."""
    allowance, now_s, admitted = Allowance.filled(limit, 0.0), 0.0, 0
    for pause_s, asked in steps:
        now_s += pause_s
        for _ in range(asked):
            if allowance.wait_s(1, now_s) == 0:
                allowance = allowance.take(1, now_s)
                admitted += 1
    assert admitted <= limit + now_s * limit / MINUTE_S + 1e-6
    assert allowance.at(now_s).left >= -1e-6


@given(LIMITS, STEPS)
def test_tokens_that_are_known_late_are_paid_back(limit, steps):
    """An answer may use more than is left, but the next request waits until that is paid."""
    allowance, now_s, used, last = Allowance.filled(limit, 0.0), 0.0, 0, 0
    for pause_s, tokens in steps:
        now_s += pause_s
        if allowance.at(now_s).left > 0:
            allowance = allowance.take(tokens, now_s)
            used, last = used + tokens, tokens
    assert used <= limit + now_s * limit / MINUTE_S + last + 1e-6


@given(LIMITS, st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 20_000))
def test_after_the_wait_there_is_enough(limit, now_s, pause_s, used):
    allowance = Allowance.filled(limit, now_s).take(used, now_s + pause_s)
    wait_s = allowance.wait_s(1, now_s + pause_s)
    assert allowance.wait_s(1, now_s + pause_s + wait_s) < 1e-3
    assert wait_s <= (used + 1) * MINUTE_S / limit


@given(LIMITS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_clock_that_goes_back_adds_nothing(limit, first_s, second_s):
    allowance = Allowance.filled(limit, first_s).take(limit, first_s)
    earlier = min(first_s, second_s)
    assert allowance.at(earlier).left == 0
    assert allowance.at(earlier).at(first_s).left == 0


@given(LIMITS, LIMITS, st.integers(0, 20_000))
def test_what_was_used_stays_used_when_the_limit_changes(limit, other, used):
    allowance = Allowance.filled(limit, 0.0).take(used, 0.0).resized(other, 0.0)
    assert abs(allowance.left - (other - used)) < 1e-6


def test_what_others_used_is_owed_up_to_a_minutes_worth_and_can_be_given_back():
    allowance = Allowance.filled(60.0, 0.0).take_elsewhere(50.0, 0.0)
    assert allowance.available(0.0) == 10.0
    assert allowance.take_elsewhere(-20.0, 0.0).available(0.0) == 30.0
    assert allowance.take_elsewhere(500.0, 0.0).available(0.0) == -60.0
    owing = allowance.take(200.0, 0.0)
    assert owing.take_elsewhere(1.0, 0.0).available(0.0) == owing.available(0.0)
