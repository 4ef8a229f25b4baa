import json
import re
from itertools import pairwise

import pytest

from clients.cli.commands.alerts import in_order
from clients.cli.event_log import EventFilter, LoggedEvent, streams_of
from clients.cli.views.alert import COLUMNS, alert_event_line, as_data, blocks, fold, row
from contracts import facts as f
from contracts.services import EVENTS, stream_subjects
from tests.kit.factories import after, event, fact, ref, target

RAISED, UPDATED, RESOLVED = f.AlertRaised, f.AlertUpdated, f.AlertResolved


def said(kind, at, alert_id="a/slow/1", **changes):
    about = {"alert_id": alert_id, "raised_at": None, "evidence": None, "drill": None} | changes
    return event(fact(kind, **about), time=after(at))


def test_a_raised_alert_is_open_since_it_was_raised():
    (alarm,) = fold([said(RAISED, 20, raised_at=after(10))])
    assert (alarm.open, alarm.since, alarm.updates) == (True, after(10), 0)


def test_one_that_does_not_say_when_it_was_raised_is_open_since_it_was_said():
    (alarm,) = fold([said(RAISED, 20), said(UPDATED, 30)])
    assert alarm.since == after(20)


def test_an_update_brings_newer_figures_and_a_resolution_ends_it():
    events = [said(RAISED, 20, value=0.3), said(UPDATED, 30, value=0.4), said(UPDATED, 45, value=0.5)]
    (alarm,) = fold(events)
    assert (alarm.open, alarm.fact.value, alarm.updates) == (True, 0.5, 2)
    (alarm,) = fold([*events, said(RESOLVED, 90, value=0.01)])
    assert (alarm.open, alarm.resolved_at, alarm.updates, alarm.fact.value) == (False, after(90), 2, 0.01)


def test_an_id_that_is_raised_again_is_a_new_alert():
    """server-manager's alerts are named after their target alone."""
    alarms = fold([said(RAISED, 20), said(RESOLVED, 30), said(RAISED, 40), said(UPDATED, 50)])
    assert [(one.open, one.since, one.updates) for one in alarms] == [(True, after(40), 1), (False, after(20), 0)]


def test_what_is_said_again_after_the_resolution_changes_nothing():
    story = [said(RAISED, 20), said(UPDATED, 25), said(RESOLVED, 30)]
    for again in story:
        assert fold([*story, again]) == fold(story)


def test_an_alert_said_twice_is_one():
    assert fold([said(RAISED, 20), said(RAISED, 20)]) == fold([said(RAISED, 20)])


def test_a_log_that_begins_in_the_middle_of_an_alert_still_shows_it():
    (alarm,) = fold([said(UPDATED, 30)])
    assert (alarm.open, alarm.since) == (True, after(30))
    (alarm,) = fold([said(RESOLVED, 30)])
    assert not alarm.open


def test_the_worst_comes_first_then_the_oldest_and_what_is_resolved_last():
    alarms = fold(
        [
            said(RAISED, 1, "gone"),
            said(RESOLVED, 2, "gone"),
            said(RAISED, 5, "late"),
            said(RAISED, 4, "early"),
            said(RAISED, 3, "mild", severity="warning"),
            said(RAISED, 2, "note", severity="info"),
        ]
    )
    assert [one.fact.alert_id for one in alarms] == ["early", "late", "mild", "note", "gone"]


def test_other_facts_are_no_alerts():
    assert fold([event(f.DeploymentChanged), event(f.RollbackStarted)]) == []


def test_a_row_for_programs_has_every_column_on_one_line():
    (alarm,) = fold([said(RAISED, 20, value=0.3125, limit=0.05, message="31 %\nare\tslow.", evidence=ref("report"))])
    assert row(alarm) == (
        "open",
        "critical",
        "latency",
        "support-bot.v7.int8",
        "slow-first-token",
        "0.312 / 0.05",
        "2026-11-24 09:30:20",
        "31 % are slow.",
        "docs/runbooks/latency.md",
        ref("report").uri,
    )
    (over,) = fold([said(RAISED, 20), said(RESOLVED, 30, value=None, limit=None, trigger=None, runbook="")])
    assert row(over)[0] == "resolved"
    assert row(over)[4:6] == ("-", "-")
    assert row(over)[-2:] == ("-", "-")


def test_for_people_what_to_do_stands_beneath_the_columns_and_nothing_is_cut():
    alarms = fold(
        [said(RAISED, 20, evidence=ref("report")), said(RAISED, 10, "b", severity="info"), said(RESOLVED, 30, "b")]
    )
    (head, nothing), (line, below), (_, over) = blocks(alarms)
    assert [re.split(r"  +", one) for one in (head, line)] == [
        list(COLUMNS),
        ["critical", "latency", "support-bot.v7.int8", "slow-first-token", "0.31 / 0.05", "2026-11-24 09:30:20"],
    ]
    assert head.index("since") == line.index("2026")
    assert nothing == []
    assert below == [
        "31 % of answers began after 800 ms; 5 % are allowed.",
        "runbook docs/runbooks/latency.md",
        f"evidence {ref('report').uri}",
    ]
    assert over[0].startswith("resolved 2026-11-24 09:30:30: ")


def test_as_data_it_is_the_fact_with_its_state():
    (alarm,) = fold([said(RAISED, 20), said(UPDATED, 30), said(RESOLVED, 40)])
    data = json.loads(json.dumps(as_data(alarm)))
    assert (data["state"], data["updates"], data["alert_id"], data["environment"]) == (
        "resolved",
        1,
        "a/slow/1",
        "production",
    )
    assert data["since"] == after(20).isoformat()
    assert data["resolved_at"] == after(40).isoformat()
    assert set(data["window"]) == {"from", "to"}


@pytest.mark.parametrize(("kind", "word"), [(RAISED, "raised"), (UPDATED, "updated"), (RESOLVED, "resolved")])
def test_news_of_alerts_are_one_line(kind, word):
    line = alert_event_line(said(kind, 20, message="slow\nindeed", evidence=ref("report")))
    assert line.startswith(f"09:30:20  alert {word}")
    assert "support-bot.v7.int8  slow-first-token: slow indeed" in line
    assert line.endswith(ref("report").uri)
    assert ("docs/runbooks/latency.md" in line) == (kind is not RESOLVED)


def test_a_rollback_line_has_both_targets_and_the_duration():
    started = alert_event_line(event(f.RollbackStarted))
    assert "rollback started   automatic support-bot.v7.int8" in started
    completed = alert_event_line(event(f.RollbackCompleted))
    assert "support-bot.v7.int8 -> support-bot.v6.int8 400 ms after detection; recovery pass: 64" in completed
    failed = alert_event_line(event(f.RollbackFailed))
    assert "support-bot.v7.int8 was not rolled back: no_previous_target: support-bot.v6.int8 is not loaded." in failed
    assert alert_event_line(event(f.DeploymentChanged)) is None


def test_only_what_lies_before_the_end_of_the_log_is_folded_in_its_own_order():
    later, sooner = said(RAISED, 5), said(RESOLVED, 4)
    events = [LoggedEvent(EVENTS, 9, later), LoggedEvent(EVENTS, 7, sooner), LoggedEvent(EVENTS, 12, later)]
    assert in_order(events, {EVENTS: 9}) == [sooner, later]
    assert in_order(events, {}) == []


# -- the part of the log that is read ---------------------------------------------------------------------------------


def _matches(pattern, subject):
    mine, theirs = pattern.split("."), subject.split(".")
    return len(mine) == len(theirs) and all(a in ("*", b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_a_part_of_the_log_matches_the_facts_that_it_names_and_no_other(environment):
    part = EventFilter(("alert.*", "rollback.*"), environment)
    wanted = {f.AlertRaised, f.AlertUpdated, f.AlertResolved, f.RollbackStarted, f.RollbackCompleted, f.RollbackFailed}
    for kind in f.FACTS.values():
        one = event(kind, environment=environment)
        hits = [
            any(_matches(subject, one.nats_subject) for subject in part.subjects(model))
            for model in (None, "support-bot")
        ]
        in_events = any(_matches(subject, one.nats_subject) for subject in stream_subjects(EVENTS))
        assert all(hits) == (kind in wanted or kind is f.RollbackOrdered)
        assert not any(hits) or in_events or kind is f.RollbackOrdered
        assert not any(_matches(subject, one.nats_subject) for subject in part.subjects("other"))


def test_the_filters_of_a_part_do_not_overlap():
    subjects = EventFilter(("alert.*", "rollback.*", "deployment.changed", "window.summarised")).subjects("support-bot")
    assert not any(_matches(a, b) or _matches(b, a) for a, b in pairwise(sorted(subjects)))


def test_a_part_lies_in_the_stream_of_facts_alone():
    assert streams_of(EventFilter(("alert.*",))) == (EVENTS,)
    assert EVENTS in streams_of(None)
    assert len(streams_of(None)) == 3


def test_targets_of_alerts_are_named_as_everywhere():
    (alarm,) = fold([said(RAISED, 20, target=target(3, "bf16"))])
    assert row(alarm)[3] == "support-bot.v3.bf16"
