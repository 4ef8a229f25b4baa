"""A shadow in the monitor: pairs judge the candidate alone, and the verdict waits for requests and time."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as f
from contracts.facts import MirroredPair
from contracts.facts.watch import Features
from contracts.policy import Canary, Shadow
from contracts.routes import ShadowShare
from decisions.evidence.observation import begin_anew
from decisions.evidence.triggers import EMPTY_IN_SHADOW, ERRORS_IN_SHADOW, triggers_of_shadow
from services.monitor.domain import monitoring
from testbed import factories as k
from tests.kit.soak import often
from tests.unit.monitor.factories import RULES, cause, policy, published, record, watch

EMPTY = k.trigger(name="empty", metric="empty_ratio", threshold=0.02)
TRIGGERS = (k.trigger(allowed_ratio=0.1), k.trigger(name="errors", metric="error_ratio", threshold=0.02), EMPTY)
SHADOW = Shadow(share_ratio=0.5, duration_s=60.0, min_requests=40)
CANDIDATE = str(k.target(8))
CALLERS = ("shop", "desk", "bot")


def route(*, share=0.5, epoch=12, **changes):
    shadow = ShadowShare(served=k.served(8), share_ratio=share)
    about = {"canary": None, "quarantined": (), "shadow": shadow, "epoch": epoch, "active": k.served(7)}
    return k.route(**about | changes)


def begun(*, triggers=TRIGGERS, shadow=SHADOW, beta=0.5, **changes):
    canary = Canary(steps=(0.2,), beta=beta)
    known = watch(the_policy=policy(triggers=triggers, shadow=shadow, canary=canary), versions=(6, 7, 8))
    return monitoring.follow_route(known, route(**changes), cause(0), RULES)


def answer(version, at, *, empty=False, fails=False, **changes):
    features = Features(prompt_chars=200, output_chars=0 if empty else 120, empty=empty)
    about = {"error": "engine_failed", "caused_by": "target", "ttft_ms": None, "features": None} if fails else {}
    return record(at, version=version, **{"features": features, "caller": "shop"} | about | changes)


def pair(index, candidate=None, active=None, *, shadow=True, caller=None):
    caller = caller or CALLERS[index % len(CALLERS)]
    about = {"request_id": f"q-{index}", "caller": caller, "holder": caller}
    sides = answer(7, 2.0 * index, **about, **active or {}), answer(8, 2.0 * index, **about, **candidate or {})
    return MirroredPair(served=sides[0], mirrored=sides[1], shadow=shadow)


def give(before, given, seconds=100.0):
    return monitoring.add_records(before, [], cause(seconds), RULES, pairs=given)


def verdicts(state):
    return [fact.verdict for fact in published(state, f.ShadowAssessed)]


SILENT = {"fails": True, "error": "no_first_token", "e2e_ms": 60_000.0, "output_tokens": 0}
GOOD = [pair(index) for index in range(40)]


def test_a_candidate_passes_after_its_time_and_enough_requests_and_not_before():
    longer = SHADOW.model_copy(update={"duration_s": 150.0})
    after = give(begun(shadow=longer), GOOD[:39])
    (first,) = published(after, f.ShadowAssessed)
    assert (first.verdict, first.requests, first.requests_needed, first.seconds_needed) == ("inconclusive", 39, 1, 50.0)
    assert "39 of 40 requests compared; 50 s of 150 s remain" in first.reason
    early = give(after, GOOD[39:], 149.0)
    assert "pass" not in verdicts(early)
    assert "pass" not in verdicts(monitoring.assess(after, cause(3000.0), RULES))
    passed = monitoring.assess(early, cause(150.0), RULES)
    assert verdicts(passed)[-1] == "pass"
    last = published(passed, f.ShadowAssessed)[-1]
    assert (last.target, last.share_ratio, last.counts["errors"].pairs.neither) == (k.target(8), 0.5, 40)
    again = monitoring.assess(passed, cause(600.0), RULES)
    assert published(again, f.ShadowAssessed) == published(passed, f.ShadowAssessed), "a verdict is published once"


@pytest.mark.parametrize(
    ("bad", "trigger"),
    [
        ({"fails": True}, "errors"),
        (SILENT, "errors"),
        ({"empty": True}, "empty"),
        ({"ttft_ms": 5000.0}, "slow-first-token"),
    ],
)
def test_what_only_the_candidate_does_fails_it_at_once_whatever_time_remains(bad, trigger):
    after = give(
        begun(shadow=SHADOW.model_copy(update={"duration_s": 600.0})), [pair(index, bad) for index in range(40)], 150.0
    )
    (fact,) = published(after, f.ShadowAssessed)
    assert fact.verdict == "fail"
    assert fact.counts[trigger].pairs.only_target == 40
    assert f"{trigger}: 40 of 40 bad" in fact.reason
    assert "remain" not in fact.reason


@pytest.mark.parametrize("offset", [3600.0, -3600.0])
def test_pairs_of_a_gateway_whose_clock_is_wrong_count_at_the_time_of_the_bus(offset):
    times = [dict.fromkeys(("scheduled_at", "sent_at"), k.after(2.0 * index + offset)) for index in range(40)]
    bad = [pair(index, {"fails": True, **at}, at) for index, at in enumerate(times)]
    sender = monitoring.Sender("gateway-east-1", offset, k.after(100.0))
    after = monitoring.add_records(begun(), [], cause(100.0), RULES, sender, pairs=bad)
    assert verdicts(after) == ["fail"]


@pytest.mark.parametrize("bad", [{"fails": True}, {"empty": True}, {"ttft_ms": 5000.0}])
def test_what_both_do_or_only_the_active_version_speaks_against_no_candidate(bad):
    for active in (bad, bad | {}):
        both = [pair(index, bad, active) for index in range(40)]
        only_active = [pair(100 + index, None, active) for index in range(40)]
        after = give(give(begun(), both), only_active, 300.0)
        assert "fail" not in verdicts(after)


def test_pairs_of_a_shadow_say_nothing_of_the_active_version():
    """A candidate that does better must not roll back what serves; nor do its own pairs raise an alert."""
    after = give(begun(), [pair(index, None, {"empty": True}) for index in range(80)])
    after = give(after, [pair(100 + index, {"empty": True}) for index in range(80)], 400.0)
    assert after.targets[str(k.target(7))].triggers == {}
    assert published(after, f.AlertRaised) == []
    assert published(after, f.WindowSummarised) == []


def test_a_candidate_slower_than_the_active_version_within_the_limits_passes():
    """The policy allows 10 % of the answers above the threshold; the active version has none."""
    slow = [pair(index, {"ttft_ms": 5000.0} if index % 24 == 0 else None) for index in range(240)]
    after = give(begun(), slow, 500.0)
    assert published(after, f.ShadowAssessed)[-1].counts["slow-first-token"].pairs.only_target == 10
    assert verdicts(after)[-1] == "pass"


def test_a_cold_start_is_outweighed():
    cold = [pair(index, {"ttft_ms": 5000.0}) for index in range(5)]
    trigger = k.trigger(allowed_ratio=0.1, min_requests=40)
    state = give(begun(triggers=(trigger,)), cold + [pair(5 + index) for index in range(100)], 230.0)
    assert verdicts(state)[-1] == "pass"


def test_errors_count_without_a_trigger_for_them():
    assert triggers_of_shadow((EMPTY,)) == (EMPTY, ERRORS_IN_SHADOW)
    assert triggers_of_shadow(TRIGGERS[:2]) == (*TRIGGERS[:2], EMPTY_IN_SHADOW)
    after = give(begun(triggers=(EMPTY,)), [pair(index, {"fails": True}) for index in range(40)])
    assert verdicts(after) == ["fail"]
    assert "errors-in-shadow" in published(after, f.ShadowAssessed)[0].reason


def test_a_candidate_most_of_whose_answers_are_empty_fails_without_a_trigger_for_them():
    after = give(begun(triggers=TRIGGERS[:2]), [pair(index, {"empty": True}) for index in range(40)])
    assert verdicts(after) == ["fail"]
    assert "empty-in-shadow" in published(after, f.ShadowAssessed)[0].reason
    some = [pair(index, {"empty": True} if index % 3 == 0 else None) for index in range(120)]
    assert verdicts(give(begun(triggers=TRIGGERS[:2]), some, 250.0)) == ["pass"], "the policy allows them"


def death(index, died_s, endpoint="a:1"):
    about = {"error": "engine_dead", "caused_by": "target", "ttft_ms": None, "features": None}
    when = {"scheduled_at": k.after(died_s), "e2e_ms": 0.0}
    return pair(index, {**about, **when, "engine_died": "meanwhile", "endpoint": endpoint})


def errors_of(state):
    return published(state, f.ShadowAssessed)[-1].counts["errors"].pairs.only_target


def test_a_death_that_several_gateways_report_counts_once_and_two_let_nothing_pass():
    good = [pair(1000 + index, {"endpoint": "a:1"}) for index in range(600)]
    once = give(begun(), [death(10 + process, 10.0 + process / 2) for process in range(8)] + good, 3300.0)
    assert (errors_of(once), verdicts(once)) == (1, ["pass"])
    apart = [death(10, 10.0), death(12, 10.0, "b:1"), death(11, 12.0), *good]
    assert errors_of(give(begun(), apart, 70.0)) == 2, "of two engines"
    answered = pair(20, {"endpoint": "a:1", "sent_at": k.after(20.0)})
    twice = give(begun(), [death(10, 10.0), answered, death(31, 30.0), *good], 3300.0)
    assert (errors_of(twice), verdicts(twice)) == (2, ["inconclusive"])
    assert "the candidate's engine died 2 times" in published(twice, f.ShadowAssessed)[-1].reason


def test_a_candidate_that_never_answers_between_its_deaths_counts_once_a_minute():
    dead = [death(index, 2.0 * index) for index in range(10, 101)]
    after = give(begun(), dead, 300.0)
    assert errors_of(after) == 4


def test_more_than_the_policy_allows_on_the_candidate_waits_for_more():
    after = give(begun(), [pair(index, {"fails": True} if index % 24 == 5 else None) for index in range(48)], 110.0)
    (fact,) = published(after, f.ShadowAssessed)
    assert (fact.verdict, fact.counts["errors"].pairs.only_target) == ("inconclusive", 2)
    assert fact.requests_needed > 0
    assert "errors: 2 of 48 bad, 0.02 allowed, 0 of 48 on the active version at the same time" in fact.reason
    assert verdicts(give(after, [pair(48 + index) for index in range(200)], 520.0))[-1] == "pass"
    worse = give(after, [pair(48 + index, {"fails": True}) for index in range(40)], 190.0)
    assert verdicts(worse)[-1] == "fail"


def walk(seed, callers, ratios, most=400):
    """Return the verdict on a candidate, each pair judged as it comes.

    `ratios`: of the requests that are bad on the candidate, and on the active version.
    """
    chance, about = random.Random(seed), begun(shadow=Shadow(duration_s=1.0, min_requests=100), beta=0.05)
    for index in range(most):
        sides = [{"fails": True} if chance.random() < ratio else None for ratio in ratios]
        given = [pair(index, *sides, caller=f"key-{chance.randrange(callers)}")]
        about = give(about, given, 2.0 * index + 5.0)
        if verdicts(about)[-1] != "inconclusive":
            break
    return verdicts(about)[-1]


@pytest.mark.parametrize("callers", [1, 10])
def test_a_candidate_that_fails_one_request_in_ten_never_passes_and_one_that_is_alike_does(callers):
    assert {walk(seed, callers, (0.1, 0.0)) for seed in range(3)} <= {"fail", "inconclusive"}
    assert walk(1, callers, (0.002, 0.002)) == "pass"
    assert walk(1, callers, (0.0, 0.0)) == "pass"


@pytest.mark.parametrize(("well", "verdict"), [(0, "fail"), (300, "inconclusive")])
def test_a_candidate_that_fails_its_heaviest_caller_fails_unless_the_others_requests_pass(well, verdict):
    """What fails the customer with most requests must not go to it; once the others pass, one caller ends nothing."""
    state = begun(shadow=Shadow(share_ratio=0.5, duration_s=60.0, min_requests=10_000))
    for index in range(well + 150):
        own = index % 3 == 0
        bad = {"fails": True} if own and index >= well else None
        state = give(state, [pair(index, bad, caller="bad" if own else f"c{index % 7}")], 2.0 * index + 5.0)
    assert verdicts(state)[-1] == verdict
    assert well == 0 or "which may be one caller's alone" in published(state, f.ShadowAssessed)[-1].reason


def test_a_pair_that_is_late_or_of_no_shadow_is_dropped():
    state = begun()
    canary = k.CanaryShare(served=k.served(8), weight_ratio=0.2)
    served = monitoring.follow_route(state, route(epoch=13, shadow=None, canary=canary), cause(5.0), RULES)
    assert served.targets[CANDIDATE].role == "canary"
    after = give(served, [pair(index, {"fails": True}) for index in range(30)])
    assert after.targets[CANDIDATE].triggers == {}
    ended = monitoring.follow_route(state, route(epoch=13, shadow=None), cause(5.0), RULES)
    assert CANDIDATE not in ended.targets
    assert give(ended, [pair(index, {"fails": True}) for index in range(30)]).targets == ended.targets


def test_the_canary_keeps_what_the_shadow_showed_but_of_latency():
    shadowed = give(begun(), GOOD)
    canary = k.CanaryShare(served=k.served(8), weight_ratio=0.2)
    after = monitoring.follow_route(shadowed, route(epoch=13, shadow=None, canary=canary), cause(70.0), RULES)
    of_shadow = shadowed.targets[CANDIDATE].triggers
    kept = {name: begin_anew(of_shadow[name], "canary") for name in ("errors", "empty")}
    assert (after.targets[CANDIDATE].requests, after.targets[CANDIDATE].triggers) == (0, kept)
    assert kept["errors"].candidate.everyone.test.passing == of_shadow["errors"].candidate.everyone.test.passing


def test_an_aborted_or_quarantined_shadow_is_not_watched():
    assert CANDIDATE not in begun(share=0.0).targets
    assert CANDIDATE not in begun(quarantined=(k.target(8),)).targets


def test_a_move_to_another_endpoint_keeps_what_was_compared():
    moved = ShadowShare(served=k.served(8, endpoints=("b:1",)), share_ratio=0.5)
    before = give(begun(), GOOD)
    after = monitoring.follow_route(before, route(epoch=13, shadow=moved, moves=1), cause(20.0), RULES)
    assert after.targets[CANDIDATE] == before.targets[CANDIDATE]


def test_the_same_batch_counts_once():
    state, event = begun(), cause(10.0)
    once = monitoring.add_records(state, [], event, RULES, pairs=GOOD)
    assert monitoring.add_records(once, [], event, RULES, pairs=GOOD) == once


OUTCOMES = st.sampled_from(["good", "candidate", "active", "both"])


@given(st.lists(OUTCOMES, min_size=1, max_size=60), st.integers(1, 5))
@settings(max_examples=often(60), deadline=None)
def test_batches_of_any_size_show_the_same(outcomes, size):
    bad = {"fails": True}
    given = [
        pair(index, bad if outcome in ("candidate", "both") else None, bad if outcome in ("active", "both") else None)
        for index, outcome in enumerate(outcomes)
    ]
    whole, parts = give(begun(), given, 200.0), begun()
    for start in range(0, len(given), size):
        parts = give(parts, given[start : start + size], 2.0 * (start + size))
    parts = monitoring.assess(parts, cause(200.0), RULES)
    for name, trigger in whole.targets[CANDIDATE].triggers.items():
        assert parts.targets[CANDIDATE].triggers[name].candidate.everyone == trigger.candidate.everyone
    assert parts.targets[CANDIDATE].requests == whole.targets[CANDIDATE].requests == len(outcomes)
