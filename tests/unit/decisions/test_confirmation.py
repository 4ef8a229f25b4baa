"""What confirms an alert: never one caller, and never a crowd where callers can cause it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.alerts import decide_alerts
from decisions.callers import MOST_CALLERS, OTHERS, CallerShares, count_outcome
from decisions.confirmation import confirm
from decisions.engine_deaths import DeathLog
from decisions.findings import assess_trigger
from decisions.observation import TriggerState, fresh_trigger, observe_outcomes
from decisions.observe_loop import AlertRules, WatchedTarget, assess, observe
from decisions.pairs import fresh_test, observe_mirrored
from decisions.triggers import Outcome
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0)
EMPTY = f.trigger(name="empty", metric="empty_ratio", threshold=0.02)


def outcome(caller="shop", *, bad=True, compared=False, holder=None):
    return Outcome(bad=bad, at=f.after(0), ended_at=f.after(1), caller=caller, holder=holder, compared=compared)


def seen(outcomes, trigger=ERRORS) -> TriggerState:
    return observe_outcomes(fresh_trigger("active"), trigger, outcomes)


def confirmed(state, trigger=ERRORS, *, drilled=False):
    return confirm(trigger, state, drilled=drilled, deaths=DeathLog())


def traffic(hostile_share, hostile_keys, honest_bad, *, requests=400, compared=False, seed=1):
    """Requests of ten honest callers, and of hostile ones that fail each of theirs."""
    draw = random.Random(seed)
    for _ in range(requests):
        if draw.random() < hostile_share:
            yield outcome(f"bad-{draw.randrange(hostile_keys)}", compared=compared)
        else:
            yield outcome(f"good-{draw.randrange(10)}", bad=draw.random() < honest_bad, compared=compared)


def test_one_caller_with_less_than_half_of_the_traffic_confirms_nothing():
    for share in (0.05, 0.2, 0.4):
        assert confirmed(seen(traffic(share, 1, 0.0))) == "none"


def test_a_caller_with_most_of_the_traffic_is_confirmed_by_its_compared_failures_only():
    uncompared = [outcome(bad=index % 4 == 0) for index in range(80)]
    compared = [outcome(bad=index % 4 == 0, compared=index % 4 == 0) for index in range(80)]
    assert confirmed(seen(uncompared)) == "none"
    assert confirmed(seen(compared)) == "callers"


def test_failures_of_several_callers_confirm_each_other():
    assert confirmed(seen(traffic(0.0, 1, 0.1))) == "callers"


def only_here(hostile_share, keys, *, team="", honest_keys=10, honest_team="", honest_bad=0.0, requests=400, seed=1):
    """Requests of honest keys, and of hostile ones that send what this version alone fails, as a comparison shows."""
    draw = random.Random(seed)
    for _ in range(requests):
        if draw.random() < hostile_share:
            name = f"bad-{draw.randrange(keys)}"
            yield outcome(name, compared=True, holder=team or name)
        else:
            name, bad = f"good-{draw.randrange(honest_keys)}", draw.random() < honest_bad
            yield outcome(name, bad=bad, compared=bad, holder=honest_team or name)


@pytest.mark.parametrize("keys", [1, 2, 5, 50])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_keys_of_one_team_are_one_caller_of_what_only_this_version_fails(keys, share):
    assert confirmed(seen(only_here(share, keys, team="tenant"))) == "none"


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_nor_does_one_key_confirm_where_all_are_of_one_team(share):
    """The team has all requests, so that nothing is confirmed without it; each of its keys is one caller besides."""
    assert confirmed(seen(only_here(share, 1, team="tenant", honest_team="tenant"))) == "none"
    everywhere = only_here(0.0, 1, honest_team="tenant", honest_bad=0.1)
    assert confirmed(seen(everywhere)) == "callers", "what all keys of a single team meet is"


@pytest.mark.parametrize("seed", range(20))
def test_a_key_with_just_half_of_the_requests_has_not_most_of_them_by_chance(seed):
    """At no time: it chooses when it begins, and an alert is decided with each update."""
    state = fresh_trigger("active")
    for each in only_here(0.5, 1, seed=seed):
        state = observe_outcomes(state, ERRORS, [each])
        assert confirmed(state) == "none"


def test_keys_of_no_team_in_one_hand_are_several_callers():
    """A known limit (docs/reliability.md): it is true of what they send that only this version fails it."""
    assert confirmed(seen(only_here(0.2, 5))) == "callers"


def test_one_caller_that_comes_after_many_others_is_still_one_caller():
    """The first bad request of anybody begins the count; this one comes when as many as are counted are known."""
    good = [outcome(f"good-{number}", bad=False) for number in range(MOST_CALLERS)]
    before = [each for at in range(0, MOST_CALLERS, 8) for each in (outcome("first"), *good[at : at + 8])]
    after = only_here(0.2, 1, honest_keys=MOST_CALLERS)
    assert confirmed(seen([*before, *before, *after])) == "none"


@pytest.mark.parametrize("trigger", [SLOW, EMPTY])
@pytest.mark.parametrize("keys", [1, 5, 50])
def test_no_number_of_callers_confirms_latency_or_quality(trigger, keys):
    assert confirmed(seen(traffic(0.5, keys, 0.0), trigger), trigger) == "none"
    assert confirmed(seen(traffic(0.0, 1, 1.0), trigger), trigger) == "none"


def test_pairs_and_drills_confirm_whatever_the_callers():
    test = fresh_test(canary=False)
    for _ in range(13):
        test = observe_mirrored(test, target=True, other=False, caller=None, alpha=0.001)
    alone = seen([outcome()] * 30, SLOW)
    assert confirmed(alone.model_copy(update={"mirrored": test}), SLOW) == "pairs"
    assert confirmed(alone, SLOW, drilled=True) == "drill"


def test_without_callers_in_the_records_there_is_nothing_to_confirm():
    assert confirmed(seen([outcome(None)] * 30)) is None
    assert confirmed(seen([outcome(), outcome(None)] * 30)) is None, "an older gateway beside a new one"


def test_the_callers_before_the_first_bad_request_do_not_count():
    state = seen([outcome(bad=False)] * 50)
    assert state.callers == CallerShares()
    state = observe_outcomes(state, ERRORS, [outcome(), *[outcome(bad=False)] * 2000])
    assert state.first_bad_at is None
    assert state.callers == CallerShares()


def pulse(seed, *, bad=100, per_s=30, until_s=100):
    """Yield each second's requests: honest ones, and from the sixth on those of one key, until so many were bad."""
    draw, left = random.Random(seed), bad
    for second in range(1, until_s):
        batch = []
        for _ in range(per_s):
            hostile = second > 5 and left > 0 and draw.random() < 0.7
            left -= hostile
            name = "evil" if hostile else f"good-{draw.randrange(10)}"
            batch.append(Outcome(bad=hostile, at=f.after(second), ended_at=f.after(second), caller=name))
        yield second, batch


@pytest.mark.parametrize("metric", ["ttft_ms", "empty_ratio", "error_ratio"])
@pytest.mark.parametrize("seed", range(3))
def test_an_alert_of_one_caller_is_not_confirmed_as_it_calms(metric, seed):
    trigger = f.trigger(name="watched", metric=metric, threshold=800.0 if metric == "ttft_ms" else 0.05)
    watched = WatchedTarget(target=f.target(), role="active")
    alerts, facts = {}, []
    for second, batch in pulse(seed):
        watched = observe(watched, [trigger], {trigger.name: batch})
        assessed = assess(watched, alerts, [trigger], f.after(second), rules=AlertRules())
        watched, alerts = assessed.watched, assessed.alerts
        facts += assessed.facts
    assert len(facts) > 2
    assert {fact.confirmed_by for fact in facts} == {"none"}


def test_nor_where_the_good_requests_come_in_the_same_batch():
    honest = [outcome(f"good-{number % 10}", bad=False) for number in range(1000)]
    state = seen([*honest[:200], *[outcome("evil")] * 12, *honest])
    assert confirmed(state) == "none"


def test_an_alert_that_is_held_stays_held_when_records_name_no_callers():
    held = assess_trigger(SLOW, seen([outcome("evil")] * 40, SLOW), f.after(1))
    nameless = assess_trigger(SLOW, seen([outcome(None)] * 41, SLOW), f.after(60))
    assert (held.confirmed_by, nameless.confirmed_by) == ("none", None)
    alerts, rules = {}, {"environment": "production", "release_id": None, "update_every_s": 15.0}
    for finding, at in ((held, 1), (nameless, 60)):
        decided = decide_alerts(alerts, f.target(), [finding], f.after(at), **rules)
        alerts = decided.alerts
        assert [fact.confirmed_by for fact in decided.facts] == ["none"]


@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=400))
def test_the_callers_that_are_kept_are_bounded_and_none_is_lost(requests):
    shares = CallerShares()
    for number, bad in requests:
        shares = count_outcome(shares, outcome(bad=bad), f"key-{number}")
    assert len(shares.known) <= MOST_CALLERS + 1
    assert (shares.total.requests, shares.total.bad) == (len(requests), sum(bad for _, bad in requests))
    assert shares.heaviest == max(
        (count for name, count in shares.known.items() if name != OTHERS),
        key=lambda count: (count.bad, -count.requests),
        default=shares.heaviest,
    )
