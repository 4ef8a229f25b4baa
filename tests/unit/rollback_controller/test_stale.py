"""Old facts start nothing: alerts of another time, orders that are void, whatever ids they come with."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import facts as cf
from services.rollback_controller.domain import decision
from services.rollback_controller.domain.decision import Cause, VoidOrder
from testbed import factories as f
from tests.unit.rollback_controller.decisions import RULES, alert, published, route, state, switch, take

MONTH_S = 30 * 86_400


def received(*, ordered_at=0.0, stored=0.0, now=0.0, fact_id="fact"):
    return Cause(fact_id, "r-7", f.after(ordered_at), f.after(now), f.after(stored), 5)


def order(**changes):
    return cf.RollbackOrdered(**({"reason": "rude"} | changes))


@pytest.mark.parametrize("kind", [cf.AlertRaised, cf.AlertUpdated])
@pytest.mark.parametrize(
    ("ordered_at", "stored"), [(-MONTH_S, 0), (0, -MONTH_S), (-MONTH_S, -MONTH_S), (3600, -MONTH_S)]
)
def test_an_alert_of_last_month_causes_no_rollback(kind, ordered_at, stored):
    before = state()
    cause = received(ordered_at=ordered_at, stored=stored)
    assert decision.decide_on_alert(before, alert(kind=kind), route(), cause, RULES) is before


@given(st.floats(min_value=-10_000, max_value=10_000), st.floats(min_value=-10_000, max_value=0))
def test_an_alert_causes_a_rollback_only_while_both_its_times_are_recent(ordered_at, stored):
    after = decision.decide_on_alert(state(), alert(), route(), received(ordered_at=ordered_at, stored=stored), RULES)
    recent = -min(ordered_at, stored) < RULES.alert_s
    assert bool(published(after, cf.RollbackStarted)) == recent


def test_an_alert_from_before_its_target_was_rolled_back_does_not_roll_it_back_again():
    """The target serves again, as the previous one of a version that was rolled back itself."""
    moved = switch(take(state(), alert(), fact_id="a-1"), at=10)
    late = received(ordered_at=5, stored=5, now=60, fact_id="a-2")
    assert decision.decide_on_alert(moved, alert(number=2), route(), late, RULES) is moved
    for at in (10, 600):  # 10: as its traffic moved, so that it is of what came after
        now = received(ordered_at=at, stored=at, now=600, fact_id="a-3")
        assert decision.decide_on_alert(moved, alert(number=3), route(), now, RULES) is not moved


@pytest.mark.parametrize(
    ("changes", "cause", "code"),
    [
        ({}, received(ordered_at=-MONTH_S), "order_expired"),
        ({}, received(stored=-MONTH_S), "order_expired"),
        ({"failed": f.target(7)}, received(stored=-MONTH_S), "order_expired"),
        ({"expires_at": f.after(-1)}, received(), "order_expired"),
        ({"expires_at": f.after(10**9)}, received(stored=-2 * 86_400), "order_expired"),
        ({"epoch": 11}, received(), "stale_epoch"),
        ({"epoch": 11, "failed": f.target(7)}, received(), "stale_epoch"),
    ],
)
def test_a_void_order_is_refused_with_its_code_and_decides_nothing(changes, cause, code):
    decided = decision.decide_on_order(state(), order(**changes), route(), cause, RULES)
    assert isinstance(decided, VoidOrder)
    assert decided.code == code


@pytest.mark.parametrize(
    "changes", [{}, {"epoch": 12}, {"epoch": 12, "expires_at": f.after(60)}, {"failed": f.target(7)}]
)
def test_a_fresh_order_of_the_present_epoch_is_carried_out(changes):
    assert published(
        decision.decide_on_order(state(), order(**changes), route(), received(), RULES), cf.RollbackStarted
    )


def test_an_order_that_is_under_way_comes_again_late_and_is_not_refused():
    decided = decision.decide_on_order(state(), order(epoch=12), route(), received(), RULES)
    assert decision.decide_on_order(decided, order(epoch=12), route(), received(now=MONTH_S), RULES) is decided


@given(st.integers(min_value=900, max_value=10**7), st.sampled_from(["fact", "another id"]))
def test_no_repetition_of_an_old_order_changes_anything(later, fact_id):
    moved = switch(decision.decide_on_order(state(), order(), route(), received(), RULES))
    again = decision.decide_on_order(moved, order(), route(6, 5), received(now=later, fact_id=fact_id), RULES)
    assert again is moved or isinstance(again, VoidOrder)


def test_times_of_the_rules_are_minutes_not_days():
    assert timedelta(seconds=RULES.alert_s) <= timedelta(minutes=15)
    assert timedelta(seconds=RULES.decided_s) <= timedelta(minutes=15)


@pytest.mark.parametrize(
    ("changes", "now", "epoch", "code"),
    [
        ({}, 899, 13, None),
        ({}, 900, 12, "order_expired"),
        ({"expires_at": f.after(60)}, 59, 12, None),
        ({"expires_at": f.after(60)}, 60, 12, "order_expired"),
        ({"expires_at": f.after(10**9)}, 86_400, 12, "order_expired"),
        ({"epoch": 12}, 30, 12, None),
        ({"epoch": 12}, 30, 13, "stale_epoch"),
    ],
)
def test_what_an_order_says_of_its_end_and_epoch_still_counts_after_it_was_decided(changes, now, epoch, code):
    (decided,) = decision.decide_on_order(state(), order(**changes), route(), received(), RULES).rollbacks
    void = decision.assess_order(decided, f.route(epoch=epoch), f.after(now))
    assert (void.code if void else None) == code


def test_a_decision_of_an_older_version_has_no_end_and_no_epoch_of_its_own():
    (decided,) = decision.decide_on_order(state(), order(epoch=12), route(), received(), RULES).rollbacks
    old = type(decided).model_validate(decided.model_dump(exclude={"expires_at", "epoch"}))
    assert decision.assess_order(old, f.route(epoch=99), f.after(10**6)) is None
