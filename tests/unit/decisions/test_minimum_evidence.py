"""Of a candidate, requests before `min_requests` are judged together; a regression is found as soon."""

import math
from datetime import timedelta

import pytest

from contracts.policy import Trigger
from decisions.evidence.observation import close_trigger, fresh_trigger, observe_outcomes
from decisions.evidence.observe_loop import assess_trigger
from decisions.evidence.triggers import Outcome
from testbed.factories import after


def slow(min_requests):
    return Trigger(name="slow", metric="ttft_ms", threshold=800, min_requests=min_requests)


def first_fired(trigger, values):
    """Return the number of the request with which an alert is raised, at one a second; None if none is."""
    state = fresh_trigger("canary")
    for number, bad in enumerate(values, start=1):
        at = after(float(number))
        state = observe_outcomes(state, trigger, [Outcome(bad=bad, at=at, ended_at=at)])
        now = at + timedelta(seconds=1)
        state, _ = close_trigger(state, trigger, now)
        if assess_trigger(trigger, state, now, line=math.inf).fired:
            return number
    return None


def test_a_cold_start_that_is_over_by_then_raises_nothing():
    assert first_fired(slow(200), [True] * 16 + [False] * 600) is None
    assert first_fired(slow(4), [True] * 30 + [False] * 600) is not None


@pytest.mark.parametrize("min_requests", [4, 20, 100])
@pytest.mark.parametrize("before", [0, 60])
def test_a_regression_that_lasts_is_found(before, min_requests):
    fired = first_fired(slow(min_requests), [False] * before + [True] * 150)
    assert fired is not None
    assert max(before, min_requests) < fired <= max(before, min_requests) + 60
