"""What an alert says while it is open, and how it ends: drills, recoveries, little traffic."""

from contracts.facts import AlertRaised, AlertUpdated
from tests.unit.monitor.factories import feed, published, record, routed


def slow(at, **about):
    return record(at, ttft_ms=9000.0, **about)


def test_a_regression_after_a_drill_that_touched_a_few_requests_is_no_drill():
    after = feed(routed(), 1, 3, lambda at: slow(at, drill="d-1"), batch_s=1)
    after = feed(after, 60, 10, slow, start=2)
    updates = published(after, AlertUpdated)
    assert "A drill touched 3 of the bad ones (d-1)" in updates[0].message
    assert [each.drill for each in (*published(after, AlertRaised), *updates)] == [None] * (1 + len(updates))


def test_a_drill_stays_named_after_its_end_until_other_requests_exceed_the_limit():
    after = feed(routed(), 30, 1, lambda at: slow(at, drill="d-1"), batch_s=1)
    quiet = feed(after, 150, 0.1, record, start=40, batch_s=10)
    facts = (*published(quiet, AlertRaised), *published(quiet, AlertUpdated))
    assert facts[-1].value == 0.0
    assert {each.drill for each in facts} == {"d-1"}
    again = feed(quiet, 60, 1, slow, start=190, batch_s=1)
    assert published(again, AlertUpdated)[-1].drill is None
