"""A suspended version in the monitor: its shadow confirms or clears it, by the metric that moved it, once."""

import random

import pytest

from contracts import facts as f
from contracts.facts import MirroredPair
from contracts.facts.watch import Features
from contracts.routes import ShadowShare, Suspended
from services.monitor.domain import monitoring
from testbed import factories as k
from tests.unit.monitor.factories import RULES, cause, policy, published, record, watch

ERRORS = k.trigger(name="errors", metric="error_ratio", threshold=0.02)
EMPTY = k.trigger(name="empty", metric="empty_ratio", threshold=0.02)
TRIGGERS = (k.trigger(), ERRORS, EMPTY)
CALLERS = ("shop", "desk", "bot", "mail")
JUDGEMENT_S = 3_600.0


def entry(version=8, *, trigger="errors", **changes):
    return Suspended(served=k.served(version), cause="2 of 9 failed", since=k.after(0.0), trigger=trigger, **changes)


def route(*suspended, epoch=12, **changes):
    about = {"canary": None, "quarantined": (), "shadow": None, "active": k.served(7)}
    return k.route(**about | {"epoch": epoch, "suspended": suspended or (entry(),)} | changes)


def follow(state, the_route, at=0.0):
    return monitoring.follow_route(state, the_route, cause(at), RULES)


def begun(the_route=None, **more):
    known = watch(the_policy=policy(triggers=TRIGGERS, judgement_s=JUDGEMENT_S, **more), versions=(6, 7, 8))
    return follow(known, the_route or route())


def answer(version, at, *, bad=False, **changes):
    features = Features(prompt_chars=200, output_chars=120)
    about = {"error": "engine_failed", "caused_by": "target", "ttft_ms": None, "features": None} if bad else {}
    return record(at, version=version, **{"features": features} | about | changes)


def pair(at, *, target=False, other=False, caller="shop", mirrored=None, version=8, shadow=True):
    about = {"request_id": f"q-{at}-{caller}", "caller": caller, "holder": caller}
    return MirroredPair(
        served=answer(7, at, bad=other, **about),
        mirrored=answer(version, at, bad=target, **about, **mirrored or {}),
        shadow=shadow,
    )


def feed(state, seconds, *, target, other=0.01, start=0.0, rate=2, seed=1, **about):
    """Feed pairs of four callers; `target` and `other` are the shares of bad requests."""
    draw = random.Random(seed)
    for second in range(int(start), int(start + seconds)):
        given = [
            pair(
                second + number / rate,
                target=draw.random() < target,
                other=draw.random() < other,
                caller=draw.choice(CALLERS),
                **about,
            )
            for number in range(rate)
        ]
        state = monitoring.add_records(state, [], cause(second + 1.0), RULES, pairs=given)
    return state


def verdicts(state):
    return published(state, f.SuspensionJudged)


def test_a_bad_version_is_confirmed_once_with_two_shares():
    state = feed(begun(), 300, target=0.25)
    (fact,) = verdicts(state)
    assert (fact.target, fact.trigger, fact.verdict) == (k.target(8), "errors", "confirmed")
    assert fact.since == k.after(0.0)
    assert fact.pairs.only_target > 3 * fact.pairs.only_other
    assert f"{fact.pairs.only_target + fact.pairs.both} (" in fact.reason
    assert verdicts(monitoring.assess(state, cause(9_000.0), RULES)) == [fact]


@pytest.mark.parametrize(("after_move", "returns"), [("canary", True), ("stay", False)])
def test_a_cleared_version_comes_back_as_its_policy_says(after_move, returns):
    (fact,) = verdicts(feed(begun(after_move=after_move), 900, target=0.01))
    assert (fact.verdict, fact.returns) == ("cleared", returns)


@pytest.mark.parametrize("pairs", [0, 5])
def test_without_enough_pairs_it_is_undecided_when_its_time_is_over(pairs):
    state = feed(begun(), pairs, target=0.01)
    assert verdicts(monitoring.assess(state, cause(JUDGEMENT_S - 1.0), RULES)) == []
    (fact,) = verdicts(monitoring.assess(state, cause(JUDGEMENT_S), RULES))
    assert (fact.verdict, fact.pairs.total) == ("undecided", 2 * pairs)


def test_its_time_passes_only_while_it_is_in_the_shadow():
    shadow = ShadowShare(served=k.served(9), share_ratio=0.5)
    state = follow(begun(), route(epoch=13, shadow=shadow), 10.0)
    state = follow(monitoring.assess(state, cause(JUDGEMENT_S), RULES), route(epoch=14), JUDGEMENT_S)
    assert verdicts(monitoring.assess(state, cause(2 * JUDGEMENT_S - 20.0), RULES)) == []
    (fact,) = verdicts(monitoring.assess(state, cause(2 * JUDGEMENT_S), RULES))
    assert fact.verdict == "undecided"


def test_only_the_metric_that_moved_it_is_judged():
    state = feed(begun(route(entry(trigger="empty"))), 300, target=0.25)
    assert [fact for fact in verdicts(state) if fact.verdict == "confirmed"] == []


def test_what_moved_it_by_latency_is_not_judged_by_its_shadow():
    state = feed(begun(route(entry(trigger=""))), 300, target=0.25)
    assert (state.judged, verdicts(monitoring.assess(state, cause(9_000.0), RULES))) == (None, [])


def test_pairs_of_a_drill_or_of_another_version_count_for_nothing():
    state = feed(begun(), 60, target=1.0, mirrored={"drill": "d-1"})
    state = feed(state, 60, target=1.0, start=60, version=6)
    state = feed(state, 60, target=1.0, start=120, shadow=False)
    assert verdicts(state) == []
    assert state.judged.counts == f.PairCounts()


def test_the_judgement_pauses_while_a_candidate_is_in_the_shadow():
    state = feed(begun(), 60, target=0.01)
    shadow = ShadowShare(served=k.served(9), share_ratio=0.5)
    paused = feed(follow(state, route(epoch=13, shadow=shadow), 60.0), 60, target=1.0, start=60)
    assert (paused.judged.counts, verdicts(paused)) == (state.judged.counts, [])
    state = follow(paused, route(epoch=14), 120.0)
    assert state.judged.counts == paused.judged.counts
    assert [fact.verdict for fact in verdicts(feed(state, 60, target=1.0, start=120))] == ["confirmed"]


def test_an_engine_that_dies_twice_of_requests_that_the_other_answered_is_confirmed():
    def death(at):
        return pair(at, mirrored={"error": "engine_dead", "caused_by": "target", "engine_died": "meanwhile"})

    def give(state, given, at):
        return monitoring.add_records(state, [], cause(at), RULES, pairs=given)

    state = give(begun(route(entry(trigger="empty"))), [death(1.0), death(1.5)], 3.0)
    assert verdicts(state) == []
    state = give(state, [pair(10.0)], 12.0)
    (fact,) = verdicts(give(state, [death(20.0)], 22.0))
    assert fact.verdict == "confirmed"
    assert "died 2 times" in fact.reason


def test_a_verdict_that_waits_for_a_person_is_an_alert_until_the_suspension_ends():
    written = entry(verdict="undecided", evidence="Of 9 requests.")
    state = monitoring.assess(follow(begun(), route(written, epoch=13), 10.0), cause(11.0), RULES)
    (alert,) = [fact for fact in published(state, f.AlertRaised) if fact.kind == "suspended"]
    assert (alert.severity, alert.target, alert.trigger) == ("critical", k.target(7), None)
    assert "slipway rollback return" in alert.message
    ended = follow(state, route(epoch=14, quarantined=(k.target(8),)).model_copy(update={"suspended": ()}), 20.0)
    ended = monitoring.assess(monitoring.assess(ended, cause(21.0), RULES), cause(22.0), RULES)
    assert [fact.alert_id for fact in published(ended, f.AlertResolved)] == [alert.alert_id]


def test_a_version_that_is_suspended_again_is_judged_anew():
    state = feed(begun(), 60, target=0.01)
    again = Suspended(served=k.served(8), cause="again", since=k.after(90.0), trigger="errors")
    assert follow(state, route(again, epoch=13), 90.0).judged.counts == f.PairCounts()
