"""A shadow in the monitor: pairs judge the candidate alone, and the verdict waits for requests and time."""

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as f
from contracts.facts import MirroredPair
from contracts.facts.watch import Features
from contracts.policy import Shadow
from contracts.routes import ShadowShare
from decisions.evidence import EQUAL_SHARE, process_log_e
from decisions.pairs import needed_log_e
from services.monitor.domain import monitoring
from services.monitor.domain.shadow import EMPTY as EMPTY_IN_SHADOW
from services.monitor.domain.shadow import ERRORS, assess_shadow, triggers_of_shadow
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


def begun(*, triggers=TRIGGERS, shadow=SHADOW, **changes):
    known = watch(the_policy=policy(triggers=triggers, shadow=shadow), versions=(6, 7, 8))
    return monitoring.follow_route(known, route(**changes), cause(0), RULES)


def answer(version, at, *, empty=False, fails=False, **changes):
    features = Features(prompt_chars=200, output_chars=0 if empty else 120, empty=empty)
    about = {"error": "engine_failed", "caused_by": "target", "ttft_ms": None, "features": None} if fails else {}
    return record(at, version=version, **{"features": features, "caller": "shop"} | about | changes)


def pair(index, candidate=None, active=None, *, shadow=True, caller=None):
    caller = caller or CALLERS[index % len(CALLERS)]
    about = {"request_id": f"q-{index}", "caller": caller, "holder": caller}
    sides = answer(7, float(index), **about, **active or {}), answer(8, float(index), **about, **candidate or {})
    return MirroredPair(served=sides[0], mirrored=sides[1], shadow=shadow)


def give(before, given, seconds=10.0):
    return monitoring.add_records(before, [], cause(seconds), RULES, pairs=given)


def verdicts(state):
    return [fact.verdict for fact in published(state, f.ShadowAssessed)]


SILENT = {"fails": True, "error": "no_first_token", "e2e_ms": 60_000.0, "output_tokens": 0}
GOOD = [pair(index) for index in range(40)]


def test_a_candidate_passes_after_its_time_and_enough_requests_and_not_before():
    after = give(begun(), GOOD[:39])
    (first,) = published(after, f.ShadowAssessed)
    assert (first.verdict, first.requests, first.requests_needed, first.seconds_needed) == ("inconclusive", 39, 1, 50.0)
    assert "39 of 40 requests compared; 50 s of 60 s remain" in first.reason
    early = give(after, GOOD[39:], 59.0)
    assert "pass" not in verdicts(early)
    assert "pass" not in verdicts(monitoring.assess(after, cause(3000.0), RULES))
    passed = monitoring.assess(early, cause(60.0), RULES)
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
    after = give(begun(), [pair(index, bad) for index in range(40)])
    (fact,) = published(after, f.ShadowAssessed)
    assert fact.verdict == "fail"
    assert fact.counts[trigger].pairs.only_target == 40
    assert f"{trigger}: of 40 requests to both versions, 40 were bad on the candidate only" in fact.reason
    assert "remain" not in fact.reason


@pytest.mark.parametrize("bad", [{"fails": True}, {"empty": True}, {"ttft_ms": 5000.0}])
def test_what_both_do_or_only_the_active_version_speaks_against_no_candidate(bad):
    for active in (bad, bad | {}):
        both = [pair(index, bad, active) for index in range(40)]
        only_active = [pair(100 + index, None, active) for index in range(40)]
        after = give(give(begun(), both), only_active, 70.0)
        assert verdicts(after)[-1] == "pass"


def test_pairs_of_a_shadow_say_nothing_of_the_active_version():
    """A candidate that does better must not roll back what serves; nor do its own pairs raise an alert."""
    after = give(begun(), [pair(index, None, {"empty": True}) for index in range(80)])
    after = give(after, [pair(100 + index, {"empty": True}) for index in range(80)], 11.0)
    assert after.targets[str(k.target(7))].triggers == {}
    assert published(after, f.AlertRaised) == []
    assert published(after, f.WindowSummarised) == []


def test_a_candidate_slower_than_the_active_version_within_the_limits_passes():
    """The policy allows 10 % of the answers above the threshold; the active version has none."""
    slow = [pair(index, {"ttft_ms": 5000.0} if index % 12 == 0 else None) for index in range(240)]
    after = give(begun(), slow, 70.0)
    assert published(after, f.ShadowAssessed)[-1].counts["slow-first-token"].pairs.only_target == 20
    assert verdicts(after)[-1] == "pass"


def test_a_cold_start_is_outweighed():
    cold = [pair(index, {"ttft_ms": 5000.0}) for index in range(15)]
    warm = [pair(15 + index, None, {"ttft_ms": 5000.0} if index % 4 == 0 else None) for index in range(200)]
    trigger, shadow = k.trigger(allowed_ratio=0.1), Shadow(share_ratio=0.5, duration_s=60.0, min_requests=150)
    early = give(begun(triggers=(trigger,), shadow=shadow), cold + warm[:40], 30.0)
    assert verdicts(early) == ["inconclusive"]
    assert verdicts(give(early, warm[40:], 70.0))[-1] == "pass"


def test_errors_count_without_a_trigger_for_them():
    assert triggers_of_shadow(policy(triggers=(EMPTY,))) == (EMPTY, ERRORS)
    assert triggers_of_shadow(policy(triggers=TRIGGERS[:2])) == (*TRIGGERS[:2], EMPTY_IN_SHADOW)
    after = give(begun(triggers=(EMPTY,)), [pair(index, {"fails": True}) for index in range(20)])
    assert verdicts(after) == ["fail"]
    assert "errors-in-shadow" in published(after, f.ShadowAssessed)[0].reason


def test_a_candidate_most_of_whose_answers_are_empty_fails_without_a_trigger_for_them():
    after = give(begun(triggers=TRIGGERS[:2]), [pair(index, {"empty": True}) for index in range(40)])
    assert verdicts(after) == ["fail"]
    assert "empty-in-shadow" in published(after, f.ShadowAssessed)[0].reason
    some = [pair(index, {"empty": True} if index % 3 == 0 else None) for index in range(120)]
    assert verdicts(give(begun(triggers=TRIGGERS[:2]), some, 70.0)) == ["pass"], "the policy allows them"


@pytest.mark.parametrize("metric", ["error_ratio", "ttft_ms"])
def test_evidence_fails_however_many_requests_a_trigger_wants_of_live_traffic(metric):
    """Else `on_deadline: continue` would give to callers what is shown to be bad."""
    slow = k.trigger(name="slow", allowed_ratio=0.1, min_requests=5000)
    trigger = (
        slow if metric == "ttft_ms" else k.trigger(name="errors", metric=metric, threshold=0.02, min_requests=5000)
    )
    bad = {"ttft_ms": 5000.0} if metric == "ttft_ms" else {"fails": True}
    after = give(begun(triggers=(trigger,)), [pair(index, bad) for index in range(40)])
    assert verdicts(after) == ["fail"]


def death(index, died_s, endpoint="a:1"):
    about = {"error": "engine_dead", "caused_by": "target", "ttft_ms": None, "features": None}
    when = {"scheduled_at": k.after(died_s), "e2e_ms": 0.0}
    return pair(index, {**about, **when, "engine_died": "meanwhile", "endpoint": endpoint})


def errors_of(state):
    return published(state, f.ShadowAssessed)[-1].counts["errors"].pairs.only_target


def test_a_death_that_several_gateways_report_counts_once_and_two_let_nothing_pass():
    good = [pair(1000 + index, {"endpoint": "a:1"}) for index in range(600)]
    once = give(begun(), [death(10 + process, 10.0 + process / 2) for process in range(8)] + good, 70.0)
    assert (errors_of(once), verdicts(once)) == (1, ["pass"])
    apart = [death(10, 10.0), death(12, 10.0, "b:1"), death(11, 12.0), *good]
    assert errors_of(give(begun(), apart, 70.0)) == 2, "of two engines"
    answered = pair(20, {"endpoint": "a:1", "sent_at": k.after(20.0)})
    twice = give(begun(), [death(10, 10.0), answered, death(31, 30.0), *good], 70.0)
    assert (errors_of(twice), verdicts(twice)) == (2, ["inconclusive"])
    assert "the candidate's engine died 2 times" in published(twice, f.ShadowAssessed)[-1].reason


def test_a_candidate_that_never_answers_between_its_deaths_counts_once_a_minute():
    dead = [death(index, float(index)) for index in range(10, 200)]
    after = give(begun(), dead, 300.0)
    assert errors_of(after) == 4


@pytest.mark.parametrize("every", [6, 12])
def test_more_than_the_policy_allows_on_the_candidate_alone_waits_for_more(every):
    doubt = [pair(index, {"fails": True} if index % every == 0 else None) for index in range(48)]
    after = give(begun(), doubt, 70.0)
    (fact,) = published(after, f.ShadowAssessed)
    assert (fact.verdict, fact.counts["errors"].pairs.only_target) == ("inconclusive", 48 // every)
    assert fact.requests_needed > 0
    assert "which may be chance" in fact.reason
    cleared = give(after, [pair(100 + index) for index in range(fact.requests_needed)], 90.0)
    assert (verdicts(cleared)[-1] == "pass") == (every == 12), "what is needed may also be what makes it fail"
    assert verdicts(give(cleared, [pair(500 + index) for index in range(400)], 110.0))[-1] == "pass"
    worse = give(after, [pair(100 + index, {"fails": True}) for index in range(20)], 90.0)
    assert verdicts(worse)[-1] == "fail"


def walk(seed, callers, ratios):
    """Return the verdict on a candidate, and after how many requests, each pair judged as it comes.

    `ratios`: of the requests that are bad on the candidate, and on the active version.
    """
    chance, index, about = random.Random(seed), 0, begun(shadow=Shadow(duration_s=1.0, min_requests=100))
    while True:
        sides = [{"fails": True} if chance.random() < ratio else None for ratio in ratios]
        about = give(about, [pair(index, *sides, caller=f"key-{chance.randrange(callers)}")], 70.0 + 10 * index)
        index += 1
        last = verdicts(about)[-1]
        if last != "inconclusive":
            return last, index


@pytest.mark.parametrize("callers", [1, 2, 10])
@pytest.mark.parametrize("seed", range(5))
def test_a_candidate_that_fails_one_request_in_ten_never_passes_and_one_that_is_alike_does(seed, callers):
    verdict, requests = walk(seed, callers, (0.1, 0.0))
    assert (verdict, requests <= 320) == ("fail", True)
    assert walk(seed, callers, (0.01, 0.01))[0] == "pass"
    assert walk(seed, callers, (0.0, 0.0)) == ("pass", 100)


@pytest.mark.parametrize("every", [5, 3, 2])
def test_a_candidate_that_fails_one_caller_neither_passes_nor_fails(every):
    """One caller cannot end a release, and what fails one customer must not go to it."""
    given = [
        pair(
            index,
            {"fails": True} if index % every == 0 else None,
            caller="bad" if index % every == 0 else f"c{index % 6}",
        )
        for index in range(1000)
    ]
    early = give(begun(), given[:200], 70.0)
    late = give(early, given[200:], 90.0)
    assert set(verdicts(late)) == {"inconclusive"}
    fact = published(late, f.ShadowAssessed)[-1]
    assert fact.counts["errors"].pairs.only_target == len(given[::every])
    assert "of them of few callers, whose requests alone neither fail a candidate nor let it pass" in fact.reason
    assert fact.requests_needed > 0


def test_a_pair_that_is_late_or_of_no_shadow_is_dropped():
    state = begun()
    canary = k.CanaryShare(served=k.served(8), weight_ratio=0.2)
    served = monitoring.follow_route(state, route(epoch=13, shadow=None, canary=canary), cause(5.0), RULES)
    assert served.targets[CANDIDATE].role == "canary"
    after = give(served, [pair(index, {"fails": True}) for index in range(30)])
    assert {state.mirrored for state in after.targets[CANDIDATE].triggers.values()} == {None}
    ended = monitoring.follow_route(state, route(epoch=13, shadow=None), cause(5.0), RULES)
    assert CANDIDATE not in ended.targets
    assert give(ended, [pair(index, {"fails": True}) for index in range(30)]).targets == ended.targets


def test_the_canary_begins_without_what_the_shadow_showed():
    shadowed = give(begun(), GOOD)
    canary = k.CanaryShare(served=k.served(8), weight_ratio=0.2)
    after = monitoring.follow_route(shadowed, route(epoch=13, shadow=None, canary=canary), cause(70.0), RULES)
    assert (after.targets[CANDIDATE].requests, after.targets[CANDIDATE].triggers) == (0, {})


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
KINDS = {"errors": {"fails": True}, "empty": {"empty": True}, "slow-first-token": {"ttft_ms": 5000.0}}


@given(
    outcomes=st.lists(OUTCOMES, max_size=80),
    kind=st.sampled_from(sorted(KINDS)),
    seconds=st.floats(0.0, 200.0),
    minimum=st.integers(1, 60),
)
@settings(max_examples=often(60), deadline=None)
def test_a_verdict_is_what_its_counts_say(outcomes, kind, seconds, minimum):
    """By an own computation from the counts: no caller is limited here, because each pair has another."""
    shadow = Shadow(share_ratio=0.5, duration_s=60.0, min_requests=minimum)
    bad = KINDS[kind]
    given = [
        pair(
            index,
            bad if outcome in ("candidate", "both") else None,
            bad if outcome in ("active", "both") else None,
            caller=f"key-{index}",
        )
        for index, outcome in enumerate(outcomes)
    ]
    state = give(begun(shadow=shadow), given)
    watched, known = state.targets[CANDIDATE], state.policies["8"]
    fact = assess_shadow(known, shadow, watched, watched.since + timedelta(seconds=seconds))
    trigger = next(trigger for trigger in TRIGGERS if trigger.name == kind)
    only, other, both = (outcomes.count(name) for name in ("candidate", "active", "both"))
    needed, hits, peak = needed_log_e(trigger.alpha), 0, 0.0
    trials = 0
    for outcome in outcomes:
        if outcome in ("candidate", "active"):
            trials, hits = trials + 1, hits + (outcome == "candidate")
            peak = max(peak, process_log_e(EQUAL_SHARE, trials, hits))
    now = process_log_e(EQUAL_SHARE, trials, hits)
    latency = kind == "slow-first-token"
    least = minimum if latency else min(trigger.min_requests, minimum)
    crossed = (now if latency else peak) >= needed and len(outcomes) >= least
    beyond = not latency or (only + both) > 0.1 * len(outcomes)
    assert fact.requests == len(outcomes)
    assert (fact.verdict == "fail") == (crossed and beyond)
    if fact.verdict == "pass":
        assert len(outcomes) >= minimum
        assert seconds >= 60.0
        assert not beyond or now < needed / 2 or 2 * only <= only + other
        allowed = {"errors": 0.02, "empty": 0.02, "slow-first-token": 0.1}[kind]
        assert not beyond or only - other <= allowed * len(outcomes)
    if fact.verdict == "inconclusive":
        assert fact.requests_needed or fact.seconds_needed
    if outcomes:
        counts = fact.counts[kind].pairs
        assert (counts.only_target, counts.only_other, counts.both) == (only, other, both)


@given(st.lists(OUTCOMES, min_size=1, max_size=60), st.integers(1, 5))
@settings(max_examples=often(60), deadline=None)
def test_batches_of_any_size_show_the_same(outcomes, size):
    bad = {"fails": True}
    given = [
        pair(index, bad if outcome in ("candidate", "both") else None, bad if outcome in ("active", "both") else None)
        for index, outcome in enumerate(outcomes)
    ]
    whole, parts = give(begun(), given), begun()
    for start in range(0, len(given), size):
        parts = give(parts, given[start : start + size])
    assert parts.targets[CANDIDATE].triggers == whole.targets[CANDIDATE].triggers
    assert parts.targets[CANDIDATE].requests == whole.targets[CANDIDATE].requests == len(outcomes)
