"""What a shadow can judge, and what is said about a suspended version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.routes import CanaryShare, Suspended
from decisions.evidence.triggers import can_judge
from decisions.rollback.rule import describe_protection
from decisions.rollback.suspensions import describe_away, describe_suspended, interval, least_confirmed
from decisions.routes.edits import AWAY_TIMES
from testbed import factories as f


@pytest.mark.parametrize(
    ("metric", "judges"),
    [
        ("error_ratio", True),
        ("refusal_ratio", True),
        ("output_tokens", True),
        ("nan_logits", True),
        ("ttft_ms", False),
        ("queue_ms", False),
        ("goodput_ratio", False),
        ("drift", False),
        ("evaluation_drop", False),
    ],
)
def test_errors_and_answers_are_judged_and_nothing_that_depends_on_load(metric, judges):
    threshold = {"output_tokens": 100.0, "ttft_ms": 100.0, "queue_ms": 100.0}.get(metric, 0.5)
    assert can_judge(f.trigger(metric=metric, threshold=threshold)) == judges


def test_without_a_trigger_nothing_is_judged():
    assert not can_judge(None)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"trigger": "errors"}, "judged by its shadow, by errors"),
        ({"trigger": ""}, "a person decides"),
        ({"trigger": "errors", "verdict": "cleared", "evidence": "3 of 90."}, "cleared: slipway rollback return"),
        ({"trigger": "errors", "verdict": "undecided", "evidence": "3 of 90."}, "undecided, so a person decides"),
    ],
)
def test_a_suspended_version_says_how_it_is_judged(about, says):
    entry = Suspended(served=f.served(7), cause="errors", since=f.START, **about)
    text = describe_suspended(f.route(suspended=(entry,), shadow=None), entry)
    assert text.startswith(says)
    assert about.get("evidence", "") in text


@pytest.mark.parametrize(("previous", "named"), [(f.served(5), str(f.target(5))), (None, "suspended version")])
def test_while_a_version_is_suspended_it_is_said_where_traffic_can_still_go(previous, named):
    entry = Suspended(served=f.served(7), cause="errors", since=f.START)
    on = f.route(active=f.served(6), previous=previous, canary=None, suspended=(entry,))
    returning = CanaryShare(served=f.served(7), weight_ratio=0.1, returns=entry)
    for route in (on, on.model_copy(update={"suspended": (), "canary": returning})):
        assert named in describe_protection(route)
    assert describe_protection(on.model_copy(update={"suspended": ()})) == ""


def test_it_is_said_how_often_a_canarys_traffic_was_taken_away():
    on = f.route(canary=CanaryShare(served=f.served(7), weight_ratio=0.1))
    assert describe_away(on) == ""
    away = on.canary.model_copy(update={"away_until": f.START, "times_away": 2})
    assert f"2 of {AWAY_TIMES} times" in describe_away(on.model_copy(update={"canary": away}))


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_an_interval_holds_its_share(counted):
    low, high = interval(*counted)
    assert 0.0 <= low <= counted[0] / counted[1] <= high <= 1.0


def test_more_pairs_confirm_smaller_regressions():
    shares = [least_confirmed(0.02, pairs) for pairs in (30, 300, 900)]
    assert shares == sorted(shares, reverse=True)
    assert 0.02 < shares[-1] < 0.05
    assert least_confirmed(0.02, 5) is None
