import json

from clients.cli.commands.replay import report
from clients.cli.replay.compare import COLUMNS, as_data, match, read_recorded, row, why_not, would
from contracts import facts as f
from contracts.policy import Trigger
from decisions.replay.engine import replay
from testbed.factories import after, event, fact
from tests.unit.cli.recordings import ERRORS, SLOW, V1, V2, changed, minutes

LONG_AGO = after(-86_400)
ROUTE = [changed(1, -3600, 1), changed(2, -1800, 2, 1)]
REGRESSION = [*ROUTE, *minutes(0, 10), *minutes(600, 5, failed=30)]


def alert(kind, at, *, alert_id="a-1", trigger="errors", about="errors", which=V2):
    whole = fact(kind, alert_id=alert_id, trigger=trigger, target=which, raised_at=None)
    whole = whole.model_copy(update={"kind": about})
    return event(whole, id=f"{alert_id}-{kind.TYPE}-{at}", time=after(at))


def rollback(kind, at, *, rollback_id="rb-1", which=V2, mode="automatic", **changes):
    times = f.RollbackTimeline(detected_at=after(at - 1), decided_at=after(at - 0.5), switched_at=after(at))
    whole = fact(kind, rollback_id=rollback_id, failed=which, to=V1, mode=mode, timeline=times, **changes)
    return event(whole, id=f"{rollback_id}-{kind.TYPE}", time=after(at))


def lines_of(events, triggers=(ERRORS,)):
    result = replay(triggers, events, since=LONG_AGO)
    return result, match(result, read_recorded(events, LONG_AGO))


def test_recorded_events_are_on_the_line_of_the_replayed_one(snapshot):
    events = [
        *REGRESSION,
        alert(f.AlertRaised, 630),
        rollback(f.RollbackStarted, 631),
        rollback(f.RollbackCompleted, 631),
    ]
    result, lines = lines_of(events)
    (line,) = lines
    assert [event.what for event in line.recorded] == ["alert errors raised", "rolled back to support-bot.v1.bf16"]
    cells = row(line, result, (ERRORS,))
    assert len(cells) == len(COLUMNS)
    assert " | ".join(cells) == snapshot


def test_a_line_without_recorded_events_shows_nothing():
    result, (line,) = lines_of(REGRESSION)
    assert row(line, result, (ERRORS,))[-1] == "nothing"


def test_an_alert_that_was_not_replayed_has_its_own_line():
    loose = ERRORS.model_copy(update={"threshold": 0.9})
    events = [*REGRESSION, alert(f.AlertRaised, 630), rollback(f.RollbackCompleted, 631)]
    result, lines = lines_of(events, (loose,))
    assert [row(line, result, (loose,))[2:] for line in lines] == [
        ("errors", "-", "nothing", "alert errors raised"),
        ("-", "-", "nothing", "rolled back to support-bot.v1.bf16"),
    ]


def test_an_alert_far_away_or_of_another_target_or_kind_does_not_match():
    for other in (
        alert(f.AlertRaised, 10),
        alert(f.AlertRaised, 630, which=V1),
        alert(f.AlertRaised, 630, trigger="slow", about="latency"),
        alert(f.AlertRaised, 1500),
    ):
        events = [*REGRESSION, other]
        if other.time == after(10):
            events.append(alert(f.AlertResolved, 100))
        _, lines = lines_of(events)
        assert [len(line.recorded) for line in lines if line.fired is not None] == [0]
        assert len(lines) == 2


def test_an_alert_that_has_lasted_for_long_stands_beside_it():
    _, (line,) = lines_of([*REGRESSION, alert(f.AlertRaised, 10)])
    assert line.recorded[0].describe(line.at).endswith("earlier")


def test_a_trigger_of_another_name_but_the_same_kind_is_the_same_story():
    _, lines = lines_of([*REGRESSION, alert(f.AlertRaised, 630, trigger="failures")])
    assert len(lines) == 1


def test_a_rollback_is_listed_once_by_its_end():
    events = [rollback(f.RollbackStarted, 5), rollback(f.RollbackFailed, 5, code="previous_not_ready")]
    for ordered in (events, events[::-1]):
        (recorded,) = read_recorded(ordered, LONG_AGO)
        assert recorded.what == "not rolled back (previous_not_ready)"
    (begun,) = read_recorded(events[:1], LONG_AGO)
    assert "its end is not in the log" in begun.what
    (manual,) = read_recorded([rollback(f.RollbackCompleted, 5, mode="manual")], LONG_AGO)
    assert manual.what == "rolled back to support-bot.v1.bf16 by order"


def test_only_events_within_the_requested_time_are_listed():
    story = [
        alert(f.AlertRaised, 10, alert_id="over"),
        alert(f.AlertResolved, 50, alert_id="over"),
        alert(f.AlertRaised, 20, alert_id="reaching"),
        alert(f.AlertResolved, 150, alert_id="reaching"),
        alert(f.AlertRaised, 30, alert_id="open"),
        rollback(f.RollbackCompleted, 40),
        rollback(f.RollbackCompleted, 140, rollback_id="rb-2"),
    ]
    assert [event.at for event in read_recorded(story, after(100))] == [after(20), after(30), after(140)]


def test_the_reason_without_a_replayed_event_is_shown(snapshot):
    triggers = (ERRORS, Trigger(name="circles", metric="repetition_ratio", threshold=0.1))
    result = replay(triggers, REGRESSION, since=LONG_AGO)
    unmatched = [
        rollback(f.RollbackCompleted, 5, mode="manual"),
        alert(f.AlertRaised, 5, trigger=None),
        alert(f.AlertRaised, 5, trigger="drift", about="drift"),
        alert(f.AlertRaised, 5, trigger="slow", about="latency"),
        alert(f.AlertRaised, 900),
        alert(f.AlertRaised, 5, trigger="circles", about="quality"),
        alert(f.AlertRaised, 5),
    ]
    reasons = [why_not(read_recorded([each], LONG_AGO)[0], result, triggers) for each in unmatched]
    assert "\n".join(reasons) == snapshot


def test_the_consequence_is_one_phrase():
    manual = ERRORS.model_copy(update={"action": "manual"})
    (held,) = replay([manual], REGRESSION, since=LONG_AGO).fired
    assert would(held) == "manual: The policy declares errors as manual: an operator decides."
    (back,) = replay([ERRORS], REGRESSION, since=LONG_AGO).fired
    assert would(back) == "rolled back to support-bot.v1.bf16"


def test_the_report_is_plain_json():
    triggers = (ERRORS, SLOW, Trigger(name="drift", metric="drift", threshold=0.2))
    events = [
        *REGRESSION,
        alert(f.AlertRaised, 630),
        alert(f.AlertRaised, 2000, alert_id="a-2", trigger=None, about="engine"),
    ]
    result, lines = lines_of(events, triggers)
    data = json.loads(json.dumps(report("support-bot", result, lines, triggers), allow_nan=False))
    assert (data["windows"], data["requests"], data["triggers"]) == (15, 900, {"errors": 1, "slow": 0, "drift": 0})
    assert data["not_replayed"][0]["trigger"] == "drift"
    first, second = data["moments"]
    assert (first["fired"]["outcome"], first["fired"]["to"]) == ("rolled back", "support-bot.v1.bf16")
    assert first["recorded"][0]["what"] == "alert errors raised"
    assert (second["fired"], second["why_not"]) == (None, "-: it would have been out of traffic")


def test_every_line_has_its_json():
    result, lines = lines_of([*REGRESSION, alert(f.AlertRaised, 2000, alert_id="a-2")])
    for line in lines:
        assert as_data(line, result, (ERRORS,))["at"] == line.at.isoformat()
