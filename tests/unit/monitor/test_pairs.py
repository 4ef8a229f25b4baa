"""Pairs in the monitor: evidence about a canary and its verdict; telemetry of which nothing counts."""

import pytest

from contracts import facts as f
from contracts.facts import MirroredPair
from services.monitor.domain import monitoring
from services.monitor.domain.blindness import LONGEST_S
from testbed import factories as k
from tests.unit.monitor.factories import RULES, cause, published, record, take
from tests.unit.monitor.paired import give, pairs, state


def test_pairs_of_the_active_and_the_previous_version_are_no_evidence():
    before = state()
    given = pairs(40, {"version": 7, "fails": True}, {"version": 6})
    assert give(before, given).targets == before.targets


def test_a_canary_that_fails_what_the_active_version_answers_fails_its_test_whichever_side_served():
    canary = state(canary=8)
    given = pairs(25, {"version": 8, "fails": True}, {"version": 7}) + pairs(
        25, {"version": 7}, {"version": 8, "fails": True}
    )
    (assessed,) = published(give(canary, given, 60.0), f.CanaryAssessed)
    assert assessed.verdict == "fail"
    assert "errors: 50 of 50 bad, 0.02 allowed, 0 of 50 on the active version at the same time" in assessed.reason


def test_a_batch_that_comes_again_and_pairs_that_cannot_be_true_count_once_or_never():
    begun, given, event = state(canary=8), pairs(3, {"version": 8, "empty": True}, {"version": 7}), cause(10.0)
    once = monitoring.add_records(begun, [], event, RULES, pairs=given)
    assert monitoring.add_records(once, [], event, RULES, pairs=given) == once
    other = given[0].mirrored.model_copy(update={"request_id": "another"})
    false = [MirroredPair(served=given[0].served, mirrored=other)]
    canary = give(begun, false).targets[str(k.target(8))]
    assert canary.triggers == {}


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
