"""An active version with its own history is left for a smaller rise, and is kept while it is what it was."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from contracts.policy import FALSE_ALARM_EVERY
from decisions.evidence.block_tests import BLOCK_S, GRACE_S, LEARNED, plan_line
from decisions.evidence.observation import begin_anew, close_trigger, current_limit, fresh_trigger, observe_outcomes
from decisions.evidence.triggers import Outcome
from testbed import factories as k

BEGIN = datetime(2026, 12, 1, tzinfo=UTC)
LINE = plan_line(FALSE_ALARM_EVERY, 5)
ERRORS = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
OWN = ERRORS.model_copy(update={"own_factor": 1.2})


class Draw(random.Random):
    """Draws bad requests in one block after the other."""

    def __init__(self, seed, block=0):
        super().__init__(seed)
        self.block = block


def after(state, trigger, draw, blocks, share):
    """Return the trigger after some blocks of six requests."""
    for _ in range(blocks):
        at = BEGIN + timedelta(seconds=BLOCK_S * draw.block)
        draw.block += 1
        outcomes = [Outcome(bad=draw.random() < share, at=at, ended_at=at) for _ in range(6)]
        state, _ = close_trigger(
            observe_outcomes(state, trigger, outcomes), trigger, at + timedelta(seconds=BLOCK_S + GRACE_S)
        )
    return state


@pytest.fixture(scope="module")
def known():
    """The trigger after an hour with one bad request in a hundred."""
    return after(fresh_trigger("active"), OWN, Draw(31), LEARNED, 0.01)


def median_to_line(state, trigger):
    """Return the blocks until the line is crossed after one request in twenty is bad."""
    blocks = []
    for seed in range(15):
        draw, now = Draw(seed, LEARNED), state
        while now.peak < LINE:
            now = after(now, trigger, draw, 1, 0.05)
        blocks.append(draw.block - LEARNED)
    return sorted(blocks)[7]


def test_a_rise_is_seen_sooner_by_its_own_history(known):
    assert median_to_line(known, OWN) <= 0.75 * median_to_line(known, ERRORS)


def test_what_was_accepted_stays_accepted_and_known_after_an_alert_ends(known):
    limit = current_limit(known, OWN)
    assert 0.011 < limit < 0.018
    later = begin_anew(after(known, OWN, Draw(32, LEARNED), LEARNED, 0.01), "active")
    assert later.peak < LINE
    assert current_limit(later, OWN) == limit


def test_a_spotless_first_hour_allows_a_bad_request_a_minute():
    state = after(fresh_trigger("active"), OWN, Draw(31), LEARNED, 0.0)
    assert current_limit(state, OWN) > 1 / 600, "of six requests a block, of two seconds each"
    assert after(state, OWN, Draw(33, LEARNED), LEARNED, 1 / 600).peak < LINE


def test_before_its_first_hour_and_after_a_bad_one_the_declared_limit_holds():
    state = after(fresh_trigger("active"), OWN, Draw(31), LEARNED - 1, 0.001)
    assert current_limit(state, OWN) == 0.02
    assert current_limit(after(fresh_trigger("active"), OWN, Draw(31), LEARNED, 0.3), OWN) == 0.02
