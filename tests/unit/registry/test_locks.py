"""Which versions are kept under lock, who looks at them, and the alerts about them."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import AlertRaised, AlertResolved
from contracts.routes import CanaryShare
from decisions.object_versions import Disturbance
from services.registry.domain import locks
from services.registry.domain.locks import KeptVersion, ModelLocks
from testbed import factories as f

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(minutes=2)
EMPTY = ModelLocks(model=f.MODEL)


def test_what_serves_is_a_canary_or_could_be_rolled_back_to_is_kept():
    assert set(locks.kept_versions(f.route())) == {5, 6, 7, 8}
    assert locks.kept_versions(None) == {}
    assert locks.kept_versions(f.route(active=None, previous=None, canary=None, history=())) == {}
    both = f.route(
        active=f.served(7, "int8"),
        canary=CanaryShare(served=f.served(7, "bf16"), weight_ratio=0.1),
        previous=f.served(0, "bf16"),
        history=(f.served(7, "int8"),),
    )
    kept = locks.kept_versions(both)
    assert {version: [each.target.variant for each in served] for version, served in kept.items()} == {
        7: ["int8", "bf16"],
        0: ["bf16"],
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-600, 600)), max_size=12))
def test_at_each_moment_one_process_has_the_lease_whatever_the_clocks_say(steps):
    record, now = EMPTY, NOW
    for owner, moved_s in steps:
        now += timedelta(seconds=moved_s)
        before = record
        record = locks.claim(record, owner, now, LEASE)
        if record.owner != owner:
            assert before is record
            assert now < record.leased_until <= now + LEASE, "a lease is never longer than one from now on"
        else:
            assert record.leased_until == now + LEASE


targets = st.sets(st.integers(1, 4), max_size=4).map(lambda versions: {f.target(version) for version in versions})


@given(st.lists(st.tuples(targets, targets), max_size=8))
def test_an_alert_is_raised_once_and_resolved_once_for_each_time_that_something_is_disturbed(rounds):
    record, now, facts = EMPTY, NOW, []
    for disturbed, left in rounds:
        now += timedelta(seconds=300)
        assessed = {target: [Disturbance("blobs/a", ("v1",))] for target in disturbed}
        record = locks.open_alerts(record, assessed, now)
        record = locks.close_alerts(record, left & disturbed, now)
        facts += record.outbox
        record = record.model_copy(update={"outbox": ()})
        assert {alert.target for alert in record.alerts} == left & disturbed
    open_ids = set()
    assert len({entry.id for entry in facts}) == len(facts)
    for entry in facts:
        if entry.type == AlertRaised.TYPE:
            assert entry.data["alert_id"] not in open_ids
            open_ids.add(entry.data["alert_id"])
        else:
            assert entry.type == AlertResolved.TYPE
            open_ids.remove(entry.data["alert_id"])
    assert open_ids == {alert.alert_id for alert in record.alerts}


def test_the_message_names_the_first_objects_and_how_many_more():
    assessed = [Disturbance(f"blobs/{number}", ("v",)) for number in range(6)] + [Disturbance("blobs/6", lost=True)]
    record = locks.open_alerts(EMPTY, {f.target(2): assessed}, NOW)
    message = record.outbox[0].data["message"]
    assert "blobs/4 was deleted or overwritten; 2 more." in message
    assert "blobs/5" not in message
    assert record.outbox[0].data["runbook"] == "docs/runbooks/store.md"


def test_what_is_known_of_versions_replaces_what_was_known():
    record = locks.note_version(EMPTY, KeptVersion(version=2, reason="late"))
    record = locks.note_version(record, KeptVersion(version=1, objects=3))
    assert [each.version for each in record.versions] == [1, 2]
    record = locks.note_version(record, KeptVersion(version=2, objects=5))
    assert [(each.version, each.objects, each.reason) for each in record.versions] == [(1, 3, ""), (2, 5, "")]
    assert locks.note_versions(record, [KeptVersion(version=3)]).versions == (KeptVersion(version=3),)
