"""Pairs in the monitor: evidence about the newer version, a canary's verdict, and what confirms an alert."""

import json

import pytest

from contracts import facts as f
from contracts.facts import MirroredPair
from decisions.pair_callers import most_of_one_caller
from services.monitor.domain import monitoring
from services.monitor.domain.blindness import LONGEST_S
from services.monitor.domain.record import MonitorState
from shared.storage.record_format import dump, parse
from testbed import factories as k
from tests.unit.monitor.factories import RULES, cause, feed, published, record, take
from tests.unit.monitor.paired import give, pairs, state


def test_answers_that_only_this_version_leaves_empty_raise_a_confirmed_alert():
    good = pairs(5, {"version": 7}, {"version": 6})
    after = give(state(), pairs(30, {"version": 7, "empty": True}, {"version": 6}) + good)
    (alert,) = published(after, f.AlertRaised)
    assert (alert.trigger, alert.confirmed_by, alert.target) == ("empty", "pairs", k.target(7))
    assert alert.pairs == f.PairCounts(only_target=30, neither=5)
    assert "Of 35 requests" in alert.message
    assert "30 were bad on this one only" in alert.message


def test_what_both_versions_do_raises_nothing():
    both = pairs(200, {"version": 7, "empty": True}, {"version": 6, "empty": True})
    failing = pairs(200, {"version": 7, "fails": True}, {"version": 6, "fails": True})
    assert published(give(give(state(), both), failing, 11.0), f.AlertRaised) == []


def test_a_canary_that_fails_what_the_active_version_answers_fails_its_test_whichever_side_served():
    canary = state(canary=8)
    given = pairs(15, {"version": 8, "fails": True}, {"version": 7}) + pairs(
        15, {"version": 7}, {"version": 8, "fails": True}
    )
    (assessed,) = published(give(canary, given), f.CanaryAssessed)
    assert assessed.verdict == "fail"
    assert "30 were bad on the canary only" in assessed.reason


def test_a_batch_that_comes_again_and_pairs_that_cannot_be_true_count_once_or_never():
    begun, given, event = state(), pairs(3, {"version": 7, "empty": True}, {"version": 6}), cause(10.0)
    once = monitoring.add_records(begun, [], event, RULES, pairs=given)
    assert monitoring.add_records(once, [], event, RULES, pairs=given) == once
    other = given[0].mirrored.model_copy(update={"request_id": "another"})
    false = [MirroredPair(served=given[0].served, mirrored=other)]
    assert give(begun, false).targets == begun.targets


def slow(at, caller):
    return record(at, ttft_ms=3000.0, caller=caller)


def test_one_caller_raises_an_alert_that_says_that_nothing_confirms_it():
    after = feed(state(), 10, 10, lambda at: slow(at, "bad"))
    (alert,) = published(after, f.AlertRaised)
    assert (alert.trigger, alert.confirmed_by) == ("slow-first-token", "none")
    assert "Nothing shows yet" in alert.message


def test_an_alert_is_published_again_at_once_when_pairs_confirm_it():
    after = feed(state(), 10, 10, lambda at: slow(at, "bad"))
    everyone = ("bad", "shop", "desk")
    confirmed = give(after, pairs(30, {"version": 7, "ttft_ms": 3000.0}, {"version": 6}, callers=everyone), 11.0)
    (update,) = published(confirmed, f.AlertUpdated)
    assert update.confirmed_by == "pairs"


EVERYONE = [f"key-{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("callers", "confirmed_by"),
    [(["mallory"], "none"), (["a", "b"], "none"), (["a", "b", "c", "d", "e"], "none"), (EVERYONE, "pairs")],
    ids=["one", "two", "five", "all"],
)
def test_pairs_of_callers_with_half_of_the_requests_confirm_nothing(callers, confirmed_by):
    after = feed(state(), 10, 10, lambda at: slow(at, "bad"))
    for number in range(40):
        caller = f"key-{number % 10}"
        after = give(after, pairs(1, {"version": 7, "caller": caller}, {"version": 6}, at=number), 11.0 + number)
        bad = {"version": 7, "ttft_ms": 3000.0, "caller": callers[number % len(callers)]}
        after = give(after, pairs(1, bad, {"version": 6}, at=number + 0.5), 11.5 + number)
    alerts = published(after, f.AlertRaised) + published(after, f.AlertUpdated)
    assert alerts[-1].confirmed_by == confirmed_by
    test = after.targets[str(k.target(7))].triggers["slow-first-token"].mirrored
    assert test.counts == f.PairCounts(only_target=40, neither=40)
    most = most_of_one_caller(k.trigger().alpha, canary=False)
    assert (test.discordant.hits == most) == (callers == ["mallory"])
    assert ("pairs that were bad on it only are left out" in alerts[-1].message) == (callers == ["mallory"])


def test_a_record_of_the_version_before_has_no_caller_with_less_than_no_pairs():
    """What a caller sent for the target allowed it more pairs against it."""
    known = give(state(), pairs(4, {"version": 7, "empty": True}, {"version": 6}))
    stored = json.loads(dump(known)) | {"schema_version": 9}
    callers = stored["targets"][str(k.target(7))]["triggers"]["empty"]["mirrored"]["callers"]
    for field in ("target", "other"):
        del callers[field]
    callers["known"] = {"net": {"recent": 3, "net": -5}, "desk": {"recent": 1, "net": 1}}
    read, version = parse(MonitorState, json.dumps(stored).encode(), "a record")
    after = read.targets[str(k.target(7))].triggers["empty"].mirrored
    assert version == 9
    assert {name: pairs.net for name, pairs in after.callers.known.items()} == {"net": 0, "desk": 1}
    assert after.discordant == known.targets[str(k.target(7))].triggers["empty"].mirrored.discordant
    assert parse(
        MonitorState, json.dumps({"model": k.MODEL, "environment": "production", "schema_version": 9}).encode(), ""
    )


@pytest.mark.parametrize("batches", [1, 5])
def test_a_few_records_that_cannot_be_true_and_then_silence_raise_none(batches):
    watched = state()
    for second in range(batches):
        watched = take(watched, [record(second, e2e_ms=-1.0)], float(second))
    for second in (10.0, LONGEST_S + 10.0, 3600.0):
        watched = monitoring.assess(watched, cause(second), RULES)
    assert not published(watched, f.AlertRaised)


def test_telemetry_of_which_nothing_counts_raises_an_alert_until_some_does():
    watched = state()
    for second in range(0, int(LONGEST_S) + 10, 5):
        watched = take(watched, [record(second, e2e_ms=-1.0)], float(second))
        watched = monitoring.assess(watched, cause(second + 1.0), RULES)
    (alert,) = published(watched, f.AlertRaised)
    assert (alert.kind, alert.severity, alert.target) == ("blind", "critical", k.target(7))
    watched = take(watched, [record(80.0)], 81.0)
    assert [fact.kind for fact in published(watched, f.AlertResolved)] == ["blind"]
