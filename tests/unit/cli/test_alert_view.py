import json
from itertools import pairwise

import pytest

from clients.cli.events.event_log import EventFilter, streams_of
from clients.cli.views.alert import as_data, fold
from contracts import facts as f
from contracts.services import EVENTS, stream_subjects
from testbed.factories import after, event, fact

RAISED, UPDATED, RESOLVED = f.AlertRaised, f.AlertUpdated, f.AlertResolved


def logged(kind, at, alert_id="a/slow/1", **changes):
    about = {"alert_id": alert_id, "raised_at": after(at), "evidence": None, "drill": None} | changes
    return event(fact(kind, **about), time=after(at))


def test_a_raised_alert_is_open_since_it_was_raised():
    (alert,) = fold([logged(RAISED, 20, raised_at=after(10))])
    assert (alert.open, alert.since, alert.updates) == (True, after(10), 0)


def test_an_update_has_newer_figures_and_a_resolution_ends_the_alert():
    events = [logged(RAISED, 20, value=0.3), logged(UPDATED, 30, value=0.4), logged(UPDATED, 45, value=0.5)]
    (alert,) = fold(events)
    assert (alert.open, alert.fact.value, alert.updates) == (True, 0.5, 2)
    (alert,) = fold([*events, logged(RESOLVED, 90, value=0.01)])
    assert (alert.open, alert.resolved_at, alert.updates, alert.fact.value) == (False, after(90), 2, 0.01)


def test_an_id_that_is_raised_again_is_a_new_alert():
    """server-manager's alerts are named after their target alone."""
    alerts = fold([logged(RAISED, 20), logged(RESOLVED, 30), logged(RAISED, 40), logged(UPDATED, 50)])
    assert [(alert.open, alert.since, alert.updates) for alert in alerts] == [
        (True, after(40), 1),
        (False, after(20), 0),
    ]


def test_an_event_repeated_after_the_resolution_changes_nothing():
    history = [logged(RAISED, 20), logged(UPDATED, 25), logged(RESOLVED, 30)]
    for again in history:
        assert fold([*history, again]) == fold(history)


def test_a_log_that_begins_in_the_middle_of_an_alert_still_shows_it():
    (alert,) = fold([logged(UPDATED, 30)])
    assert (alert.open, alert.since) == (True, after(30))
    (alert,) = fold([logged(RESOLVED, 30)])
    assert not alert.open


def test_the_most_severe_comes_first_then_the_oldest_and_resolved_ones_last():
    alerts = fold(
        [
            logged(RAISED, 1, "gone"),
            logged(RESOLVED, 2, "gone"),
            logged(RAISED, 5, "late"),
            logged(RAISED, 4, "early"),
            logged(RAISED, 3, "mild", severity="warning"),
            logged(RAISED, 2, "note", severity="info"),
        ]
    )
    assert [alert.fact.alert_id for alert in alerts] == ["early", "late", "mild", "note", "gone"]


def test_other_events_are_not_alerts():
    assert fold([event(f.DeploymentChanged), event(f.RollbackStarted)]) == []


def test_the_data_is_that_of_the_event_with_the_state():
    (alert,) = fold([logged(RAISED, 20), logged(UPDATED, 30), logged(RESOLVED, 40)])
    data = json.loads(json.dumps(as_data(alert)))
    assert (data["state"], data["updates"], data["alert_id"], data["environment"]) == (
        "resolved",
        1,
        "a/slow/1",
        "production",
    )
    assert data["since"] == after(20).isoformat()
    assert data["resolved_at"] == after(40).isoformat()
    assert set(data["window"]) == {"from", "to"}


# -- the part of the log that is read ---------------------------------------------------------------------------------


def _matches(pattern, subject):
    expected, theirs = pattern.split("."), subject.split(".")
    return len(expected) == len(theirs) and all(a in ("*", b) for a, b in zip(expected, theirs, strict=True))


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_a_filter_selects_the_events_that_it_names_and_no_other(environment):
    part = EventFilter(("alert.*", "rollback.*"), environment)
    selected = {
        f.AlertRaised,
        f.AlertUpdated,
        f.AlertResolved,
        f.RollbackStarted,
        f.RollbackCompleted,
        f.RollbackFailed,
    }
    for kind in f.FACTS.values():
        selected_event = event(kind, environment=environment)
        hits = [
            any(
                _matches(subject, selected_event.nats_subject) for subject in part.subjects((model,) if model else None)
            )
            for model in (None, "support-bot")
        ]
        in_events = any(_matches(subject, selected_event.nats_subject) for subject in stream_subjects(EVENTS))
        assert all(hits) == (kind in selected or kind is f.RollbackOrdered)
        assert not any(hits) or in_events or kind is f.RollbackOrdered
        assert not any(_matches(subject, selected_event.nats_subject) for subject in part.subjects(("other",)))


def test_the_subjects_of_a_filter_do_not_overlap():
    subjects = EventFilter(("alert.*", "rollback.*", "deployment.changed", "window.summarised")).subjects(
        ("support-bot",)
    )
    assert not any(_matches(a, b) or _matches(b, a) for a, b in pairwise(sorted(subjects)))


def test_filtered_events_are_in_one_stream():
    assert streams_of(EventFilter(("alert.*",))) == (EVENTS,)
    assert EVENTS in streams_of(None)
    assert len(streams_of(None)) == 3
