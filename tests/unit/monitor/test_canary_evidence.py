"""An assessment of a canary has the e-value of each test that can fail it, and it is the one that decides."""

from typing import get_args

import pytest

from contracts import facts as f
from contracts.policy import Canary
from contracts.trigger_metrics import TriggerMetric
from decisions.routes.edits import AWAY_EVERY, AWAY_TIMES
from services.monitor.domain import monitoring
from testbed import factories as k
from tests.unit.monitor.factories import RULES, cause, failed, policy, published, record, routed, take, watch
from tests.unit.monitor.paired import EMPTY, give, pairs, state


def last(after):
    return published(after, f.CanaryAssessed)[-1]


def test_evidence_that_fell_back_fails_no_candidate_and_is_reported_as_it_decides():
    trigger = k.trigger(name="errors", metric="error_ratio", threshold=0.1, min_requests=6)
    the_policy = policy(triggers=(trigger,), canary=Canary(steps=(0.33,), min_requests=60))
    after = routed(canary=8, weight=0.33, of=watch(versions=(7, 8), the_policy=the_policy))
    bad = [failed(at, version=8) for at in range(40)]
    after = take(after, [*bad, *(record(at, version=8) for at in range(40, 400))], 410.0)
    assert max(after.targets[str(k.target(8))].triggers[trigger.name].candidate.everyone.test.beyond.logs) < 0.0
    assessed = last(after)
    assert assessed.verdict == "pass"
    assert assessed.e_values[trigger.name] < 1.0 / trigger.alpha


@pytest.mark.parametrize("threshold", [0.0, 5e-324])
def test_a_canary_with_one_error_where_none_is_allowed_is_undecided_and_fails_with_more(threshold):
    """It ended each assessment with an error, so that nothing of the model was watched any more."""
    trigger = k.trigger(metric="error_ratio", threshold=threshold, min_requests=20)
    the_policy = policy(triggers=(trigger,), canary=Canary(steps=(0.4,), min_requests=20))
    after = routed(canary=8, weight=0.4, of=watch(versions=(7, 8), the_policy=the_policy))
    beside = [record(at, version=7) for at in range(40)]
    after = take(after, [*beside, failed(0, version=8), *(record(at, version=8) for at in range(1, 40))], 45.0)
    assessed = last(after)
    assert (assessed.verdict, assessed.requests_needed > 0) == ("inconclusive", True)
    after = take(after, [failed(50 + at, version=8) for at in range(14)], 69.0)
    assert last(after).verdict == "fail"


def test_a_canary_that_pairs_fail_shows_their_counts():
    failing = pairs(30, {"version": 8, "fails": True}, {"version": 7})
    assessed = last(give(state(canary=8), failing + pairs(5, {"version": 7}, {"version": 8}), 80.0))
    assert assessed.verdict == "fail"
    assert assessed.e_values["errors"] >= 1.0 / k.trigger().alpha
    assert assessed.counts["errors"].mirrored == f.PairCounts(only_target=30, neither=5)


@pytest.mark.parametrize(("trigger", "counted"), [("errors", 30), ("slow-first-token", 0)])
def test_pairs_of_latency_are_no_evidence_about_a_canary(trigger, counted):
    after = give(state(canary=8), pairs(30, {"version": 8}, {"version": 7}), 80.0)
    assert last(after).counts[trigger].requests == counted


def both(second, count, **about_canary):
    """Make requests of one second to both sides."""
    times = [second + number / count for number in range(count)]
    return [
        request
        for at in times
        for request in (record(at, version=7), record(at, version=8, canary=True, **about_canary))
    ]


def slow_together(after, seconds, *, only_active=False, **about):
    """Return the record after five requests a second to both versions, or only to the active one."""
    for second in seconds:
        sides = [record(second + number / 5, version=7, **about) for number in range(5)]
        if not only_active:
            sides += [record(second + number / 5, version=8, canary=True, **about) for number in range(5)]
        after = take(after, sides, second + 1.5)
    return after


def taken_away(after, at, times=1):
    share = k.CanaryShare(served=k.served(8), weight_ratio=0.2, away_until=k.after(at + 70), times_away=times)
    changes = {"previous": None, "history": (), "quarantined": ()}
    return monitoring.follow_route(
        after, k.route(active=k.served(7), canary=share, epoch=13, **changes), cause(at), RULES
    )


@pytest.mark.parametrize(("ttft_ms", "verdict"), [(100.0, "fail"), (900.0, "inconclusive")])
def test_where_both_are_slow_the_canary_is_away_for_a_minute_and_fails_if_the_active_one_recovers(ttft_ms, verdict):
    after = slow_together(state(canary=8), range(40), ttft_ms=900.0)
    asked = last(after)
    assert (asked.verdict, asked.take_away) == ("inconclusive", True)
    after = slow_together(taken_away(after, 40), range(40, 110), only_active=True, ttft_ms=ttft_ms)
    after = slow_together(after, range(110, 140), ttft_ms=900.0)
    told = last(after)
    assert (told.verdict, told.take_away) == (verdict, False)
    assert ("the machine or the load, not the version" in told.reason) == (verdict == "inconclusive")


@pytest.mark.parametrize("times", [1, AWAY_TIMES])
def test_a_canary_is_taken_away_again_until_that_was_too_often(times):
    after = slow_together(state(canary=8), range(40), ttft_ms=900.0)
    after = slow_together(taken_away(after, 40, times), range(40, 110), only_active=True, ttft_ms=900.0)
    again_s = 110 + int(AWAY_EVERY.total_seconds())
    told = last(slow_together(after, range(again_s - 30, again_s + 10), ttft_ms=900.0))
    assert (told.verdict, told.take_away) == ("inconclusive", times < AWAY_TIMES)
    assert (f"taken away {AWAY_TIMES} times" in told.reason) == (times == AWAY_TIMES)


HELD_S = 240


def held_canary():
    """Return a canary that passed its test, and whose release waits."""
    after = state(canary=8)
    for second in range(HELD_S):
        after = take(after, both(second, 1), second + 1.5)
    assert last(after).verdict == "pass"
    return after


def test_a_canary_that_turns_bad_after_it_passed_fails_once():
    after = held_canary()
    passed = len(published(after, f.CanaryAssessed))
    for second in range(HELD_S, HELD_S + 40):
        after = take(after, both(second, 10, ttft_ms=900.0), second + 1.5)
    (failed,) = published(after, f.CanaryAssessed)[passed:]
    assert (failed.verdict, failed.target, failed.weight_ratio) == ("fail", k.target(8), 0.2)
    ids = [entry.id for entry in after.outbox if entry.type == f.CanaryAssessed.TYPE]
    assert len(set(ids)) == len(ids)


def test_a_canary_that_passed_and_stays_good_is_not_assessed_again():
    after = held_canary()
    passed = published(after, f.CanaryAssessed)
    for second in range(HELD_S, HELD_S + 20):
        after = take(after, both(second, 10), second + 1.5)
    assert published(after, f.CanaryAssessed) == passed


def test_a_canary_whose_cold_start_is_outweighed_when_enough_requests_came_does_not_fail():
    trigger = k.trigger(allowed_ratio=0.05, min_requests=100)
    the_policy = policy(triggers=(trigger,), canary=Canary(steps=(0.2,), min_requests=100))
    after = routed(canary=8, of=watch(versions=(7, 8), the_policy=the_policy))
    for second in range(240):
        about = {"ttft_ms": 900.0 if second < 4 else 100.0}
        after = take(after, [record(second, version=7), record(second, version=8, **about)], second + 1.0)
    assert last(after).verdict == "pass", last(after).reason
    assert published(after, f.AlertRaised) == []


FORCED = tuple(metric for metric in get_args(TriggerMetric) if metric != "error_ratio")


def shaped_canary(requests, *, plain_each=10**9, triggers=None, **about):
    """Return a canary whose callers shape all answers, but one in so many."""
    declared = triggers or (k.trigger(name="slow"), k.trigger(name="errors", metric="error_ratio", threshold=0.02))
    the_policy = policy(triggers=declared, canary=Canary(steps=(0.2,), min_requests=100))
    after = routed(canary=8, of=watch(versions=(7, 8), the_policy=the_policy))
    batch = [
        record(2.0 * number, version=version, forced_metrics=FORCED if number % plain_each else (), **about)
        for number in range(1, requests + 1)
        for version in (7, 8)
    ]
    return take(after, batch, 2.0 * requests + 15)


def test_a_canary_whose_callers_all_shape_their_answers_passes_by_its_errors_and_says_so():
    assessed = last(shaped_canary(200))
    assert (assessed.verdict, assessed.requests_needed) == ("pass", 0)
    assert (assessed.counts["errors"].requests, assessed.counts["slow"].requests) == (200, 0)
    assert "slow: the callers' parameters hide 200 of 200 requests from it" in assessed.reason


LIMITED = {"forced_metrics": ("cut_off_ratio", "empty_ratio"), "finish_reason": "length", "output_tokens": 8}
"""A token limit of the caller that hides from a trigger whether an answer would hold text."""


def limited_canary(requests, *, open_each=10**9, **about):
    """Return a canary whose callers all set a small token limit, but one in so many."""
    errors = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
    the_policy = policy(triggers=(EMPTY, errors), canary=Canary(steps=(0.2,), min_requests=100))
    after = routed(canary=8, of=watch(versions=(7, 8), the_policy=the_policy))
    batch = [
        record(2.0 * number, version=version, **({} if number % open_each == 0 else LIMITED | about))
        for number in range(1, requests + 1)
        for version in (7, 8)
    ]
    return take(after, batch, 2.0 * requests + 5)


def test_a_trigger_that_the_token_limits_of_all_callers_hide_holds_no_canary_and_the_verdict_says_so():
    assessed = last(limited_canary(120))
    assert (assessed.verdict, assessed.requests_needed, assessed.counts["empty"].requests) == ("pass", 0, 0)
    assert "empty: the callers' parameters hide 120 of 120 requests from it" in assessed.reason


@pytest.mark.parametrize(("requests", "open_each"), [(99, 10**9), (150, 10)])
def test_token_limits_hide_nothing_before_there_are_enough_or_where_others_come_too(requests, open_each):
    assert last(limited_canary(requests, open_each=open_each)).verdict == "inconclusive"


def test_what_callers_leave_is_not_hidden_by_their_limits():
    after = limited_canary(150)
    left = [record(302, version=8, finish_reason="cancelled", ttft_ms=None) for _ in range(40)]
    assert "hide 150 of 150 requests" in last(after).reason
    assert after.targets[str(k.target(8))].triggers["empty"].hidden == 150
    assert take(after, left, 306.0).targets[str(k.target(8))].triggers["empty"].hidden == 150


def test_a_trigger_that_no_request_shows_anything_of_holds_no_canary_for_ever():
    nan = k.trigger(name="nan", metric="nan_logits", threshold=0.01, min_requests=10)
    errors = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
    unknown = {"triggers": (nan, errors), "plain_each": 1, "nan_logits": None}
    assessed = last(shaped_canary(150, **unknown))
    assert assessed.verdict == "pass"
    assert "nan: no request shows anything of it, so that it does not count" in assessed.reason


def test_errors_of_shaped_requests_still_fail_a_canary():
    bad = [failed(120 + number, version=8, forced_metrics=FORCED) for number in range(60)]
    assert last(take(shaped_canary(60), bad, 185.0)).verdict == "fail"


@pytest.mark.parametrize(("requests", "plain_each"), [(150, 10), (102, 30)])
def test_shaped_requests_hide_nothing_before_there_are_enough_or_where_others_come_too(requests, plain_each):
    """A caller cannot let a canary pass sooner with a schema, as long as others send a twentieth of the requests."""
    assert last(shaped_canary(requests, plain_each=plain_each)).verdict == "inconclusive"


def test_pairs_that_fail_a_canary_count_where_callers_shape_nearly_all_answers():
    """Those of active requests may show what no request of the canary's own callers can."""
    errors = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
    after = shaped_canary(200, triggers=(EMPTY, errors))
    assessed = last(give(after, pairs(50, {"version": 7}, {"version": 8, "empty": True}, at=420.0), 540.0))
    assert (assessed.verdict, assessed.e_values["empty"] >= 1.0 / EMPTY.alpha) == ("fail", True)


def test_a_canary_of_which_nothing_is_watched_does_not_pass():
    assert last(shaped_canary(200, triggers=(k.trigger(name="slow"),))).verdict == "inconclusive"


def test_the_few_slow_answers_that_no_parameter_shapes_hold_a_canary():
    assert last(shaped_canary(200, plain_each=100, ttft_ms=9000.0)).verdict == "inconclusive"


def test_a_metric_that_the_engine_does_not_report_is_not_hidden_by_callers():
    nan = k.trigger(name="nan", metric="nan_logits", threshold=0.01)
    assessed = last(shaped_canary(400, plain_each=2, triggers=(nan,), nan_logits=None))
    assert (assessed.verdict, "no trigger has seen a request yet" in assessed.reason) == ("inconclusive", True)
