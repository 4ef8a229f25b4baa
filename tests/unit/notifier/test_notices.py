"""What is sent to whom, in which order and when: the edits of a model's record, exhaustively and by random histories."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from services.notifier.domain import notices, silences
from services.notifier.domain.notices import KEPT, OLD, OLDEST, SETTLES, Times
from services.notifier.domain.receivers import Receiver
from services.notifier.domain.record import ModelNotices, Silence
from testbed import factories as f

PAGER = Receiver(name="pager", kind="pagerduty", severities=("critical",))
CHAT = Receiver(name="chat", kind="slack")
MANAGER = Receiver(name="manager", kind="alertmanager")
ALL = (PAGER, CHAT, MANAGER)
TIMES = Times(claim_s=30.0, resend_s=60.0, give_up_s=3600.0)
EMPTY = ModelNotices(model=f.MODEL)
NOW = f.after(0)


def alert(fact=AlertRaised, **changes):
    fields = {"drill": None, "severity": "critical", "raised_at": NOW, **changes}
    return f.fact(fact).model_copy(update=fields)


def raised(record=EMPTY, *, at=NOW, now=None, receivers=ALL, again=False, **changes):
    return notices.note_raised(
        record, alert(**changes), at=at, sequence=7, again=again, receivers=receivers, now=now or at
    )


def resolved(record, *, at=None, now=None, **changes):
    at = at or f.after(60)
    return notices.note_resolved(record, alert(AlertResolved, **changes), at=at, sequence=9, now=now or at)


def send(record, now, receivers=ALL):
    """Send all that is due; return the record and what was sent."""
    record, due = notices.claim(record, receivers, now, TIMES)
    by_name = {each.name: each for each in receivers}
    for each in due:
        record = notices.succeeded(record, each, by_name[each.receiver], now, TIMES)
    return record, [(each.receiver, each.transition) for each in due]


def test_each_receiver_gets_what_it_takes_once():
    record, sent = send(raised(), NOW)
    assert sent == [("pager", "raised"), ("chat", "raised"), ("manager", "raised")]
    assert send(record, NOW)[1] == []
    record, sent = send(raised(severity="info"), NOW)
    assert sent == [("chat", "raised"), ("manager", "raised")]


def test_a_receiver_of_other_models_gets_nothing():
    other = Receiver(name="other", kind="slack", models=("another-bot",))
    assert send(raised(receivers=(other,)), NOW, (other,))[1] == []


def test_alerts_of_drills_are_never_sent():
    record = raised(drill="drill-3")
    assert record == EMPTY
    assert resolved(record, drill="drill-3") == EMPTY


def test_an_alert_that_is_no_longer_a_drills_is_sent():
    updated = alert(AlertUpdated)
    record = notices.note_updated(raised(drill="drill-3"), updated, at=NOW, sequence=8, receivers=ALL, now=NOW)
    assert [transition for _, transition in send(record, NOW)[1]] == ["raised"] * 3


def test_the_end_of_an_alert_that_was_sent_is_sent_though_a_drill_began_meanwhile():
    record, _ = send(raised(), NOW)
    assert [transition for _, transition in send(resolved(record, drill="drill-3"), f.after(60))[1]] == ["resolved"] * 3


def test_the_end_follows_the_beginning():
    record, _ = send(raised(), NOW)
    record, sent = send(resolved(record), f.after(60))
    assert sent == [("pager", "resolved"), ("chat", "resolved"), ("manager", "resolved")]
    assert send(record, f.after(100_000))[1] == [], "nothing is repeated after the end"


def test_what_ended_before_anybody_was_told_is_not_sent():
    record = resolved(raised(at=NOW), at=f.after(1))
    assert send(record, f.after(500))[1] == []


def test_an_end_that_comes_first_is_remembered():
    record = resolved(EMPTY, at=f.after(60))
    record = raised(record, now=f.after(61))
    assert send(record, f.after(1000))[1] == []


def test_an_open_alert_is_repeated_to_alertmanager_only():
    record, _ = send(raised(), NOW)
    assert send(record, f.after(59))[1] == []
    for period in (1, 2, 3):
        record, sent = send(record, f.after(60 * period))
        assert sent == [("manager", "raised")]


def test_a_repeat_that_waits_gives_way_to_the_end():
    record, _ = send(raised(), NOW)
    _, sent = send(resolved(record), f.after(70))
    assert ("manager", "raised") not in sent


def test_the_same_event_again_changes_nothing():
    record, _ = send(raised(), NOW)
    assert raised(record) == record
    ended = resolved(record)
    assert resolved(ended) == ended
    assert raised(ended) == ended


def test_the_next_occurrence_is_another_alert():
    record, _ = send(raised(), NOW)
    record, _ = send(resolved(record), f.after(60))
    record = raised(record, at=f.after(300), raised_at=f.after(300))
    assert [name for name, _ in send(record, f.after(300))[1]] == ["pager", "chat", "manager"]


def test_what_failed_is_tried_later_and_later_and_the_end_waits_behind_it():
    record, now, waits = raised(receivers=(CHAT,)), NOW, []
    for _ in range(12):
        record, due = notices.claim(record, (CHAT,), now, TIMES)
        assert [each.transition for each in due] == ["raised"]
        record, dead = notices.failed(record, due[0], CHAT, now, TIMES)
        assert not dead
        record = resolved(record)
        (notice,) = record.notices.values()
        waits.append((notice.queues["chat"][0].next_at - now).total_seconds())
        assert notices.claim(record, (CHAT,), now + timedelta(seconds=waits[-1] - 0.1), TIMES)[1] == []
        now += timedelta(seconds=waits[-1])
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    record, sent = send(record, now, (CHAT,))
    assert sent == [("chat", "raised")]
    assert send(record, now, (CHAT,))[1] == [("chat", "resolved")]


def test_it_is_given_up_once_and_sent_again_when_an_administrator_says_so():
    record, due = notices.claim(raised(receivers=(CHAT,)), (CHAT,), NOW, TIMES)
    later = f.after(3601)
    record, dead = notices.failed(record, due[0], CHAT, later, TIMES)
    assert dead
    assert send(record, f.after(9000), (CHAT,))[1] == []
    assert raised(record, receivers=(CHAT,), now=f.after(9000)) == record, "the same event by itself"
    record = raised(record, receivers=(CHAT,), now=f.after(9000), again=True)
    assert send(record, f.after(9000), (CHAT,))[1] == [("chat", "raised")]


def test_alertmanager_is_tried_on_after_a_dead_letter():
    record, due = notices.claim(raised(receivers=(MANAGER,)), (MANAGER,), NOW, TIMES)
    record, dead = notices.failed(record, due[0], MANAGER, f.after(3601), TIMES)
    assert dead
    record, due = notices.claim(record, (MANAGER,), f.after(3700), TIMES)
    record, dead = notices.failed(record, due[0], MANAGER, f.after(9000), TIMES)
    assert not dead, "one dead letter says it"


def test_a_claim_keeps_others_away_and_ends():
    record, due = notices.claim(raised(), ALL, NOW, TIMES)
    assert len(due) == 3
    assert notices.claim(record, ALL, f.after(29), TIMES)[1] == []
    again = notices.claim(record, ALL, f.after(30), TIMES)[1]
    assert [each.receiver for each in again] == [each.receiver for each in due]


def test_an_old_alert_is_sent_later_and_one_of_last_week_not_at_all():
    record = raised(at=f.after(-3600), raised_at=f.after(-3600), now=NOW)
    assert send(record, f.after(SETTLES.total_seconds() - 1))[1] == []
    assert len(send(record, f.after(SETTLES.total_seconds()))[1]) == 3
    long_ago = NOW - OLDEST - timedelta(seconds=1)
    assert raised(at=long_ago, raised_at=long_ago, now=NOW) == EMPTY


def test_the_end_of_an_alert_that_was_sent_is_sent_however_long_it_was_open():
    record, _ = send(raised(), NOW)
    late = NOW + OLDEST + timedelta(days=1)
    record, sent = send(resolved(record, at=late), late)
    assert sent == [("pager", "resolved"), ("chat", "resolved"), ("manager", "resolved")]
    assert send(record, late + timedelta(hours=1))[1] == []
    assert notices.prune(record, late + KEPT).notices == {}


def test_the_end_of_an_old_alert_that_is_unknown_is_not_kept():
    late = NOW + OLDEST + timedelta(seconds=1)
    assert resolved(EMPTY, at=late) == EMPTY


def test_an_update_of_an_unknown_alert_shows_that_it_is_open():
    updated = alert(AlertUpdated, message="worse")
    record = notices.note_updated(EMPTY, updated, at=NOW, sequence=8, receivers=ALL, now=NOW)
    assert len(send(record, NOW)[1]) == 3
    record = notices.note_updated(raised(), updated, at=NOW, sequence=8, receivers=ALL, now=NOW)
    assert [notice.alert.message for notice in record.notices.values()] == ["worse"]


def silence(until, trigger=None):
    return Silence(trigger=trigger, until=until, by="jonas", reason="works", order_id="o-1")


def test_a_silence_holds_back_what_was_not_sent_and_ends():
    quiet = silences.silence(EMPTY, silence(f.after(600)), NOW)
    record, sent = send(raised(quiet, severity="warning"), NOW)
    assert sent == []
    assert [name for name, _ in send(record, f.after(600))[1]] == ["chat", "manager"]
    ended = resolved(record, at=f.after(60), severity="warning")
    assert {what for _, what in send(ended, f.after(600))[1]} == {"silence_ended"}


@pytest.mark.parametrize("kind", ["provenance", "engine", "latency"])
def test_only_a_silence_that_names_its_trigger_or_kind_holds_back_a_critical_alert(kind):
    quiet = silences.silence(EMPTY, silence(f.after(600)), NOW)
    assert len(send(raised(quiet, kind=kind), NOW)[1]) == 3
    named = silences.silence(EMPTY, silence(f.after(600), kind), NOW)
    assert send(raised(named, kind=kind), NOW)[1] == []


def test_an_alert_that_becomes_critical_within_a_silence_is_sent():
    quiet = silences.silence(EMPTY, silence(f.after(600)), NOW)
    record, sent = send(raised(quiet, severity="warning"), NOW)
    assert sent == []
    worse = alert(AlertUpdated)
    record = notices.note_updated(record, worse, at=f.after(5), sequence=8, receivers=ALL, now=f.after(5))
    assert [name for name, _ in send(record, f.after(5))[1]] == ["chat", "manager", "pager"]


def test_an_alert_that_becomes_critical_is_sent_to_those_who_take_only_critical_ones():
    record, sent = send(raised(severity="warning"), NOW)
    assert [name for name, _ in sent] == ["chat", "manager"]
    record = notices.note_updated(record, alert(AlertUpdated), at=NOW, sequence=8, receivers=ALL, now=f.after(5))
    record, sent = send(record, f.after(5))
    assert sent == [("pager", "raised")]
    assert [name for name, _ in send(resolved(record), f.after(60))[1]] == ["chat", "manager", "pager"]


def rollback_failed(record, *, at=None, now=None, **changes):
    fields = {"mode": "automatic", "code": "no_previous_target", "reason": "There is none.", **changes}
    rollback = f.fact(RollbackFailed).model_copy(update=fields | {"failed": fields.get("failed", alert().target)})
    at = at or f.after(5)
    return notices.note_rollback_failed(record, rollback, at=at, sequence=8, now=now or at)


def test_all_who_know_of_an_alert_are_told_once_that_no_rollback_follows():
    record, _ = send(raised(), NOW, (PAGER, CHAT))
    record, sent = send(rollback_failed(record), f.after(5), (PAGER, CHAT))
    assert sent == [("pager", "rollback_failed"), ("chat", "rollback_failed")]
    record, sent = send(rollback_failed(record, at=f.after(6)), f.after(6), (PAGER, CHAT))
    assert sent == []
    _, sent = send(rollback_failed(record, at=f.after(7), code="previous_not_ready"), f.after(7), (PAGER, CHAT))
    assert [transition for _, transition in sent] == ["rollback_failed"] * 2


def test_a_failed_rollback_that_is_read_before_its_alert_waits_for_it():
    record = rollback_failed(EMPTY)
    record, sent = send(raised(record, now=f.after(6)), f.after(6), (CHAT,))
    assert sent == [("chat", "raised")]
    (notice,) = record.notices.values()
    assert (notice.rollback_code, notice.rollback_reason) == ("no_previous_target", "There is none.")
    forgotten = notices.prune(rollback_failed(EMPTY), f.after(5) + OLD)
    assert forgotten.failed_rollbacks == ()


def test_a_rollback_of_a_person_of_another_target_or_before_the_alert_changes_nothing():
    record, _ = send(raised(), NOW)
    other = alert().target.model_copy(update={"version": 99})
    for each in (
        rollback_failed(record, mode="manual"),
        rollback_failed(record, failed=other),
        raised(rollback_failed(EMPTY, at=NOW - timedelta(seconds=1)), now=f.after(1)),
    ):
        assert all(notice.rollback_code is None for notice in each.notices.values())


def test_a_failed_rollback_belongs_to_the_alert_of_a_trigger():
    record = raised(alert_id="drift-1", trigger=None, at=f.after(3), raised_at=f.after(3))
    record = rollback_failed(raised(record))
    assert {each.alert.alert_id for each in record.notices.values() if each.rollback_code} == {alert().alert_id}


def test_a_silence_never_keeps_the_end_of_what_was_sent():
    record, _ = send(raised(), NOW)
    record = silences.silence(record, silence(f.after(600)), NOW)
    assert len(send(resolved(record), f.after(60))[1]) == 3


@pytest.mark.parametrize(("trigger", "sent"), [(None, 3), ("slow", 0), ("latency", 0), ("errors", 3)])
def test_a_silence_of_a_trigger_or_a_kind_holds_back_its_alerts_only(trigger, sent):
    record = silences.silence(EMPTY, silence(f.after(600), trigger), NOW)
    assert len(send(raised(record, trigger="slow", kind="latency"), NOW)[1]) == sent


def test_a_later_order_replaces_a_silence_and_one_that_is_over_ends_it():
    record = silences.silence(EMPTY, silence(f.after(600)), NOW)
    record = silences.silence(record, silence(f.after(60), "errors"), NOW)
    assert len(record.silences) == 2
    assert [each.trigger for each in silences.silence(record, silence(NOW), NOW).silences] == ["errors"]


def summaries_of(record, receiver):
    sent = [notice.summaries[receiver] for notice in record.notices.values() if receiver in notice.summaries]
    assert all(summary.count == len(summary.alerts) for summary in sent)
    return [each for summary in sent for each in summary.alerts]


def test_the_end_of_a_silence_brings_a_summary_of_what_it_held_back_to_those_who_would_have_had_it():
    quiet = silences.silence(EMPTY, silence(f.after(600), "slow"), NOW)
    record = raised(quiet, trigger="slow", alert_id="a")
    record = raised(record, trigger="slow", alert_id="b", at=f.after(60), severity="info", raised_at=f.after(60))
    record, sent = send(record, f.after(61))
    assert sent == []
    record = resolved(record, at=f.after(90), trigger="slow", alert_id="a")
    record = resolved(record, at=f.after(95), trigger="slow", alert_id="b", severity="info", raised_at=f.after(60))
    record = raised(record, trigger="slow", alert_id="open", at=f.after(100), raised_at=f.after(100))
    record, sent = send(record, f.after(599))
    assert sent == []
    assert notices.is_waiting(record)
    record, sent = send(record, f.after(601))
    assert sorted(sent) == [
        ("chat", "raised"),
        ("chat", "silence_ended"),
        ("manager", "raised"),
        ("manager", "silence_ended"),
        ("pager", "raised"),
    ]
    assert [each.alert_id for each in summaries_of(record, "chat")] == ["a", "b"]
    assert {(each.silenced_by, each.silenced_because) for each in summaries_of(record, "chat")} == {("jonas", "works")}
    assert send(record, f.after(602))[1] == []


def test_a_summary_is_sent_also_after_a_long_silence_and_when_the_silence_is_lifted():
    quiet = silences.silence(EMPTY, silence(f.after(30 * 86_400), "slow"), NOW)
    record, _ = send(resolved(raised(quiet, trigger="slow"), trigger="slow"), f.after(61))
    for day in range(1, 30):
        record, sent = send(record, f.after(day * 86_400))
        assert sent == []
    lifted = silences.silence(record, silence(f.after(30), "slow"), f.after(29 * 86_400))
    for ended, at in ((record, 30 * 86_400 + 1), (lifted, 29 * 86_400)):
        after, sent = send(ended, f.after(at))
        assert sent == [("chat", "silence_ended"), ("manager", "silence_ended")]
        assert not notices.prune(after, f.after(at + 2 * 86_400)).notices


def test_no_summary_for_a_receiver_that_nothing_was_held_back_from():
    quiet = silences.silence(EMPTY, silence(f.after(600), "slow"), NOW)
    record = resolved(raised(quiet, trigger="slow", receivers=(CHAT,)), trigger="slow")
    record, _ = send(record, f.after(61))
    assert send(record, f.after(601))[1] == [("chat", "silence_ended")]


@pytest.mark.parametrize("was_sent", [False, True])
def test_no_summary_of_what_was_sent_or_what_no_silence_held_back(was_sent):
    record = raised(trigger="slow")
    if was_sent:
        record, _ = send(record, NOW)
        record = silences.silence(record, silence(f.after(600), "slow"), f.after(10))
    else:
        record = silences.silence(record, silence(f.after(600), "other"), NOW)
    record, _ = send(resolved(record, trigger="slow"), f.after(61))
    assert send(record, f.after(601))[1] == []


def test_a_summary_that_was_given_up_is_sent_again_when_an_administrator_says_so():
    quiet = silences.silence(EMPTY, silence(f.after(600), "slow"), NOW)
    record = resolved(raised(quiet, trigger="slow"), trigger="slow")
    record, due = notices.claim(record, (CHAT,), f.after(601), TIMES)
    record, gives_up = notices.failed(record, due[0], CHAT, f.after(601 + 3600), TIMES)
    assert gives_up
    again = raised(record, trigger="slow", at=NOW, now=f.after(4300), again=True)
    assert send(again, f.after(4300), (CHAT,))[1] == [("chat", "silence_ended")]


def test_who_was_told_learns_who_takes_care():
    record, _ = send(raised(receivers=(PAGER, CHAT)), NOW)
    record = notices.acknowledge(record, alert().alert_id, by="jonas", reason="mine", sequence=3, now=f.after(5))
    assert send(record, f.after(5), (PAGER, CHAT))[1] == [("pager", "acknowledged"), ("chat", "acknowledged")]
    again = notices.acknowledge(record, alert().alert_id, by="lena", reason="", sequence=4, now=f.after(6))
    assert again == record, "the first one counts"


def test_an_alert_that_is_not_open_cannot_be_acknowledged():
    assert notices.acknowledge(EMPTY, "x", by="jonas", reason="", sequence=3, now=NOW) is None
    ended = resolved(send(raised(), NOW)[0])
    assert notices.acknowledge(ended, alert().alert_id, by="jonas", reason="", sequence=3, now=NOW) is None


def test_a_receiver_that_is_no_longer_configured_keeps_nothing():
    record = raised()
    record, sent = send(record, NOW, (CHAT,))
    assert sent == [("chat", "raised")]
    record = resolved(record)
    record, _ = send(record, f.after(60), (CHAT,))
    assert not notices.is_waiting(record)
    assert notices.prune(record, f.after(60) + KEPT).notices == {}


STEPS = st.lists(
    st.one_of(
        st.just("raise"), st.just("resolve"), st.just("update"), st.just("silence"), st.just("ack"), st.just("held"),
        st.tuples(st.sampled_from(["send", "fail", "lose"]), st.integers(1, 400)),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_history_sends_a_beginning_after_its_end(steps):  # noqa: PLR0912 - one branch for each step
    record, now, sent = EMPTY, NOW, {each.name: [] for each in ALL}
    by_name = {each.name: each for each in ALL}
    for step in steps:
        if step == "raise":
            record = raised(record, now=now)
        elif step == "resolve":
            record = resolved(record, at=now)
        elif step == "update":
            record = notices.note_updated(record, alert(AlertUpdated), at=now, sequence=8, receivers=ALL, now=now)
        elif step == "silence":
            record = silences.silence(record, silence(now + timedelta(seconds=100)), now)
        elif step == "held":
            record = rollback_failed(record, at=now)
        elif step == "ack":
            record = notices.acknowledge(record, alert().alert_id, by="j", reason="", sequence=1, now=now) or record
        else:
            what, seconds = step
            now += timedelta(seconds=seconds)
            record, due = notices.claim(record, ALL, now, TIMES)
            for each in due:
                if what != "fail":
                    sent[each.receiver].append(each.transition)
                if what == "send":
                    record = notices.succeeded(record, each, by_name[each.receiver], now, TIMES)
                elif what == "fail":
                    record, _ = notices.failed(record, each, by_name[each.receiver], now, TIMES)
    for name, transitions in sent.items():
        if "resolved" in transitions:
            assert set(transitions[transitions.index("resolved") :]) == {"resolved"}, (name, transitions)


def test_a_silence_of_weeks_keeps_few_alerts_and_counts_all():
    record = silences.silence(EMPTY, silence(f.after(30 * 86_400), "slow"), NOW)
    for number in range(300):
        begin = f.after(100 * number)
        changes = {"trigger": "slow", "alert_id": f"a{number}", "raised_at": begin}
        record = resolved(raised(record, at=begin, **changes), at=f.after(100 * number + 50), **changes)
        record, sent = send(record, f.after(100 * number + 60))
        assert sent == []
    (held,) = record.held.values()
    assert len(held.alerts) == silences.MOST_LISTED
    record, _ = send(record, f.after(30 * 86_400))
    (carrier,) = [notice for notice in record.notices.values() if notice.summaries]
    assert {name: summary.count for name, summary in carrier.summaries.items()} == {"chat": 300, "manager": 300}
    assert carrier.summaries["chat"].alerts[-1].alert_id == "a299"
