"""Which policies the monitor keeps: those of all versions that traffic can go to."""

import pytest

from contracts.facts import AlertRaised, AlertResolved
from contracts.facts.watch import Features
from services.monitor.domain import monitoring as watching
from services.monitor.domain.record import POLICIES_KEPT, MonitorState
from shared.storage.record_format import dump, parse
from testbed import factories as f
from tests.unit.monitor.factories import RULES, cause, feed, policy, published, record, take, watch

PLACES = {"previous": {"previous": f.served(2)}, "history": {"history": (f.served(2),)}}


def route(active, epoch, **places):
    about = {"canary": None, "previous": None, "history": (), "quarantined": ()} | places
    return f.route(active=f.served(active), epoch=epoch, **about)


def with_releases(state, versions):
    for version in versions:
        state = watching.add_policy(state, version, f"r-{version}", policy(), cause(1))
    return state


@pytest.mark.parametrize("place", PLACES)
def test_a_version_that_a_rollback_brings_back_after_many_releases_is_watched(place):
    after = watching.follow_route(watch(versions=(2, 3)), route(3, 1, **PLACES[place]), cause(0), RULES)
    after = parse(MonitorState, dump(with_releases(after, range(4, 5 + 2 * POLICIES_KEPT))), "alerts/x")
    after = watching.follow_route(after, route(2, 2), cause(10), RULES)
    after = feed(after, 20, 10, lambda at: record(at, version=2, ttft_ms=9000.0), start=10)
    (alert,) = published(after, AlertRaised)
    assert (alert.target.version, alert.trigger) == (2, "slow-first-token")
    assert len(after.policies) == POLICIES_KEPT


def test_that_no_key_feeds_automatic_triggers_is_an_alert_until_one_does():
    begun = watching.follow_route(watch(), route(7, 1), cause(0), RULES)
    state = feed(begun, 590, 1, lambda at: record(at, is_evidence=False), batch_s=5.0)
    assert published(state, AlertRaised) == [], "it has just begun to serve"
    state = feed(state, 30, 1, lambda at: record(at, is_evidence=False), start=590, batch_s=5.0)
    (alert,) = published(state, AlertRaised)
    assert (alert.kind, alert.severity, alert.trigger) == ("blind", "critical", None)
    assert published(state, AlertResolved) == []
    fed = feed(state, 5, 4, record, start=620)
    assert [resolved.alert_id for resolved in published(fed, AlertResolved)] == [alert.alert_id]
    again = feed(fed, 590, 1, lambda at: record(at, is_evidence=False), start=625, batch_s=5.0)
    assert published(again, AlertRaised) == [alert]
    again = feed(again, 30, 1, lambda at: record(at, is_evidence=False), start=1215, batch_s=5.0)
    assert [(raised.kind, raised.value) for raised in published(again, AlertRaised)[1:]] == [("blind", 605.0)]


def test_a_version_that_left_the_route_is_forgotten():
    after = watching.follow_route(watch(versions=(2, 3)), route(3, 1, previous=f.served(2)), cause(0), RULES)
    after = watching.follow_route(after, route(4, 2, previous=f.served(3)), cause(1), RULES)
    after = with_releases(after, range(4, 5 + POLICIES_KEPT))
    assert "2" not in after.policies
    assert {"3", "4"} <= set(after.policies)


EMPTY = Features(prompt_chars=5, output_chars=0, empty=True)


@pytest.mark.parametrize("wrong", [{"features": EMPTY}, {"error": "engine_failed", "ttft_ms": None}])
def test_an_alert_from_before_the_policy_of_its_version_ends_with_the_release_that_the_policy_names(wrong):
    """Also where a trigger of that policy has the same metric."""
    after = watching.follow_route(watch(versions=()), route(3, 1), cause(0), RULES)
    after = take(after, [record(at, version=3, **wrong) for at in range(10)], 12)
    after = take(with_releases(after, [3]), [record(13, version=3)], 14)
    after = watching.assess(watching.assess(after, cause(17), RULES), cause(90), RULES)
    (begun,), (ended,) = published(after, AlertRaised), published(after, AlertResolved)
    assert (begun.release_id, ended.release_id) == (None, "r-3")
