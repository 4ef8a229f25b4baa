"""Of a candidate, requests before `min_requests` decide only as far as their evidence still holds then; a regression is found as soon."""

import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.policy import Trigger
from decisions.evidence import EProcess, observe_process, plan_bet
from decisions.findings import assess_trigger
from decisions.observation import fresh_trigger, observe_outcomes
from decisions.triggers import Outcome, limit_of
from testbed.factories import after
from tests.kit.soak import often


def slow(min_requests):
    return Trigger(name="slow", metric="ttft_ms", threshold=800, min_requests=min_requests)


def outcomes(values):
    times = [after(number) for number in range(len(values))]
    return [Outcome(bad=bad, at=at, ended_at=at) for bad, at in zip(values, times, strict=True)]


def first_fired(trigger, values):
    """Return the number of the request with which an alert is raised; None if none is."""
    state = fresh_trigger("canary")
    for number, outcome in enumerate(outcomes(values), start=1):
        state = observe_outcomes(state, trigger, [outcome])
        if assess_trigger(trigger, state, outcome.ended_at + timedelta(seconds=1), line=math.inf).fired:
            return number
    return None


def test_a_cold_start_that_is_over_by_then_raises_nothing():
    assert first_fired(slow(200), [True] * 6 + [False] * 600) is None


@given(before=st.integers(0, 60), min_requests=st.integers(1, 40))
@settings(max_examples=often(40), deadline=None)
def test_a_regression_that_lasts_is_found_with_the_first_request_that_can_decide(before, min_requests):
    values = [False] * before + [True] * 60
    trigger, bet = slow(min_requests), plan_bet(limit_of(slow(min_requests)))
    state, crossed = EProcess(), None
    for number, bad in enumerate(values, start=1):
        state = observe_process(state, bet, [bad])
        crossed = crossed or (number if state.crossed(trigger.alpha) else None)
    assert crossed is not None
    assert first_fired(trigger, values) == max(crossed, min_requests)


@given(st.lists(st.booleans(), max_size=120), st.integers(1, 60))
@settings(max_examples=often(60), deadline=None)
def test_the_peak_is_the_highest_evidence_since_the_minimum(values, min_requests):
    trigger = slow(min_requests)
    state = observe_outcomes(fresh_trigger("canary"), trigger, outcomes(values))
    plain, logs = EProcess(), [0.0]
    for bad in values:
        plain = observe_process(plain, plan_bet(limit_of(trigger)), [bad])
        logs.append(plain.log_e)
    assert state.evidence.peak == pytest.approx(max(logs[min(min_requests, len(values)) :]))
