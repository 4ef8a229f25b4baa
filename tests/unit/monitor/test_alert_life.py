"""What an alert says while it is open, and how it ends: drills, recoveries, little traffic."""

import pytest

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated
from decisions.evidence.observation import SLOTS_PER_WINDOW
from services.monitor.domain import monitoring
from services.monitor.domain.record import MonitorState
from testbed import factories as f
from tests.unit.monitor.factories import RULES, cause, failed, feed, policy, published, record, routed, take, watch


def slow(at, **about):
    return record(at, ttft_ms=9000.0, **about)


def sweep(state, begin, end, *, step=1):
    """Let time pass without requests."""
    for second in range(int(begin), int(end), step):
        state = monitoring.assess(state, cause(second), RULES)
    return state


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


def test_an_alert_of_a_model_with_little_traffic_is_resolved_after_the_newest_requests_are_good():
    after = feed(routed(), 40, 0.5, lambda at: failed(at, caller=f"c{int(at) % 6}"), batch_s=2)
    (alert,) = published(after, AlertRaised)
    for number in range(1, 11):
        after = take(after, [record(40.0 + 10 * number, caller=f"c{number % 6}")], 41 + 10 * number)
    assert published(after, AlertResolved) == []
    after = sweep(after, 142, 210)
    (resolved,) = published(after, AlertResolved)
    assert (resolved.alert_id, resolved.trigger) == (alert.alert_id, "errors")


def test_requests_that_are_minutes_apart_resolve_an_alert():
    after = feed(routed(), 40, 0.5, failed, batch_s=2)
    for number in range(1, 11):
        after = take(after, [record(40.0 + 200 * number)], 41 + 200 * number)
    assert len(published(sweep(after, 2042, 2110), AlertResolved)) == 1


def test_a_few_good_requests_then_silence_resolve_nothing():
    after = feed(routed(), 40, 0.5, failed, batch_s=2)
    for number in range(1, 10):
        after = take(after, [record(40.0 + 10 * number)], 41 + 10 * number)
    assert published(sweep(after, 140, 800, step=10), AlertResolved) == []


@pytest.mark.parametrize("every", [2, 3])
def test_a_regression_of_a_model_with_little_traffic_stays_open(every):
    after = feed(routed(), 40, 0.5, failed, batch_s=2)
    for number in range(60):
        at = 50.0 + 10 * number
        after = take(after, [failed(at) if number % every == 0 else record(at)], at + 1)
        after = sweep(after, at + 2, at + 10)
    assert published(after, AlertResolved) == []
    assert len(published(after, AlertRaised)) == 1


def test_the_slots_of_a_trigger_are_bounded():
    after = routed()
    for number in range(200):
        after = take(after, [record(5.0 * number)], 5.0 * number + 1)
    slots = next(iter(after.targets.values())).triggers["errors"].slots
    assert len(slots) <= 2 * SLOTS_PER_WINDOW + 2


def staged(state, version, at, *, serves=True):
    route = f.route(
        active=f.served(version) if serves else None,
        canary=None,
        previous=None,
        history=(),
        quarantined=(),
        epoch=int(at),
    )
    return monitoring.follow_route(state, route, cause(at), RULES)


def test_the_record_does_not_grow_with_the_alerts_of_versions_that_are_gone_and_no_id_comes_again():
    state, sizes, ids = MonitorState(model=f.MODEL, environment="staging"), [], []
    for number in range(1, 301):
        version, at = 1 + number % 100, 1000.0 * number
        state = monitoring.add_policy(state, version, f"r-{version}", policy(), cause(at))
        state = staged(state, version, at)
        state = take(state, [failed(at + i, version=version, environment="staging") for i in range(10)], at + 15)
        state = staged(state, version, at + 20, serves=False)
        ids += [alert.alert_id for alert in published(state, AlertRaised)]
        state = state.model_copy(update={"outbox": ()})
        sizes.append(len(state.alerts))
    assert len(set(ids)) == len(ids) == 300
    assert set(sizes) == {0}


def test_the_alert_of_a_version_that_stays_is_kept_when_another_leaves():
    state = feed(routed(canary=8, of=watch(versions=(7, 8))), 20, 1, failed, batch_s=1)
    (alert,) = published(state, AlertRaised)
    state = routed(of=state, epoch=13, at=30.0)
    assert [each.alert_id for each in state.alerts.values() if each.open] == [alert.alert_id]
