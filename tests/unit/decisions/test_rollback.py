"""When a declared trigger rolls back automatically, and how long a drill can last."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.drills import Drill
from contracts.facts import AlertRaised, AlertUpdated, DrillFault
from contracts.records import record_key
from decisions.drills import is_in_progress
from decisions.rollback import Guard, Hold, PastRollback, RollBack, decide_rollback, has_recovered
from testbed import factories as f


@pytest.mark.parametrize("trigger", [None, f.trigger(action="manual")])
def test_what_was_not_declared_automatic_never_rolls_back(trigger):
    decision = decide_rollback(trigger, [], f.after(0))
    assert isinstance(decision, Hold)
    assert decision.code is None


def test_the_cooldown_is_the_triggers_own():
    past = [PastRollback("errors", f.after(0))]
    assert isinstance(decide_rollback(f.trigger(cooldown_s=300), past, f.after(10)), RollBack)
    own = [PastRollback("slow-first-token", f.after(0))]
    assert decide_rollback(f.trigger(cooldown_s=300), own, f.after(299)).code == "cooldown"
    assert isinstance(decide_rollback(f.trigger(cooldown_s=300), own, f.after(300)), RollBack)
    assert isinstance(decide_rollback(f.trigger(cooldown_s=0), own, f.after(0)), RollBack)


@given(st.lists(st.integers(0, 10_000), max_size=12), st.integers(1, 5))
def test_there_are_never_more_automatic_rollbacks_than_the_guard_allows(moments, most):
    guard, past = Guard(most=most, within_s=3600), list[PastRollback]()
    for number, at in enumerate(sorted(moments)):
        if isinstance(decide_rollback(f.trigger(name=f"t{number}"), past, f.after(at), guard), RollBack):
            past.append(PastRollback(f"t{number}", f.after(at)))
        assert len([rollback for rollback in past if f.after(at) - rollback.at < timedelta(hours=1)]) <= most


@pytest.mark.parametrize(
    ("fact", "kind", "value", "confirmed_by", "recovered"),
    [
        (AlertUpdated, "errors", 0.0, "callers", True),
        (AlertUpdated, "errors", 0.02, "callers", True),
        (AlertUpdated, "errors", 0.021, "callers", False),
        (AlertUpdated, "errors", None, "callers", True),
        (AlertUpdated, "quality", None, "pairs", False),
        (AlertUpdated, "errors", 0.0, None, True),
        (AlertUpdated, "latency", 0.0, "pairs", True),
        (AlertUpdated, "quality", 0.0, "pairs", False),
        (AlertUpdated, "errors", 0.0, "pairs", False),
        (AlertRaised, "errors", 0.0, "callers", False),
    ],
)
def test_an_update_within_its_limit_starts_no_rollback_unless_pairs_are_what_raised_it(
    fact, kind, value, confirmed_by, recovered
):
    about = {"kind": kind, "value": value, "limit": 0.02, "confirmed_by": confirmed_by}
    assert has_recovered(f.fact(fact).model_copy(update=about)) == recovered


def drill(**changes) -> Drill:
    about = {
        "drill_id": "d-1",
        "target": f.target(7),
        "environment": "staging",
        "fault": DrillFault(delay_ms=800),
        "share_ratio": 0.5,
        "starts_at": f.after(0),
        "expires_at": f.after(60),
        "actor": "ops",
        "reason": "to see",
    }
    return Drill(**(about | changes))


def test_a_drill_ends_when_it_was_declared_to_and_after_an_hour_at_the_latest():
    assert is_in_progress(drill(), f.after(59.9))
    assert not is_in_progress(drill(), f.after(60))
    assert not is_in_progress(drill(share_ratio=0.0), f.after(1))
    assert not is_in_progress(drill(expires_at=f.after(99_999)), f.after(3600))
    assert record_key("staging", "support-bot") == "staging.support-bot"


def test_a_fault_that_does_nothing_says_so():
    assert DrillFault().does_nothing
    assert not DrillFault(answer="empty").does_nothing


@pytest.mark.parametrize("ahead_s", [600, 86_400])
def test_rollbacks_of_a_clock_that_was_ahead_hold_nothing(ahead_s):
    past = [PastRollback("slow-first-token", f.after(ahead_s))] * 3
    assert isinstance(decide_rollback(f.trigger(), past, f.after(0)), RollBack)
    skewed = [PastRollback("slow-first-token", f.after(1))]
    assert decide_rollback(f.trigger(), skewed, f.after(0)).code == "cooldown"
