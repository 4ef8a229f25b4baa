"""`promote` and `roll_back`: each rule of design section 5.7 by example, and over arbitrary histories."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.routes import Route
from decisions.routes.edits import (
    AWAY,
    AWAY_EVERY,
    AWAY_TIMES,
    HISTORY_KEPT,
    AlreadyApplied,
    Changed,
    EditRefused,
    confirm,
    end_trial,
    has_trial,
    is_returning,
    judge,
    move,
    order_return,
    promote,
    return_suspended,
    returns_by_itself,
    roll_back,
    take_away,
)
from decisions.routes.versions import newest
from testbed.factories import MODEL, route, served, target

EMPTY = Route(model=MODEL)
NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


def apply(state, edit):
    assert isinstance(edit, Changed), edit
    return edit.route


def promoted(state, version, cause, weight=1.0, **more):
    order = {"weight_ratio": weight, "epoch": state.epoch, "cause_id": cause}
    return apply(state, promote(state, served(version), **order, **more))


def line(*versions):
    state = EMPTY
    for version in versions:
        state = promoted(state, version, f"p{version}")
    return state


# -- a shadow ------------------------------------------------------------------------------------------------------


def test_a_shadow_takes_no_traffic_and_its_first_share_ends_it():
    state = promoted(line(1, 2), 3, "s", weight=0.0, shadow_ratio=0.25)
    assert (state.active, state.previous, state.canary) == (served(2), served(1), None)
    assert (state.shadowed, state.shadow.share_ratio) == (served(3), 0.25)
    canary = promoted(state, 3, "c", weight=0.1)
    assert (canary.shadow, canary.canary.served) == (None, served(3))


def test_a_restored_route_whose_shadow_is_quarantined_since_is_not_taken():
    restored = promoted(line(1, 2), 3, "s", weight=0.0, shadow_ratio=0.25)
    known = roll_back(restored, target(3), cause_id="r").route
    assert newest(known, restored.model_copy(update={"epoch": known.epoch})) == known


def test_a_restored_route_is_taken_although_a_canary_of_no_weight_is_quarantined():
    state = promoted(line(1, 2), 3, "c", weight=0.1)
    known = roll_back(state, target(3), cause_id="r").route
    restored = known.model_copy(update={"last_edit_id": "restored", "quarantined": ()})
    assert (restored.canary.served, restored.canary.weight_ratio) == (served(3), 0.0)
    assert newest(known, restored) == restored


@pytest.mark.parametrize("to_version", [None, 4])
def test_a_quarantined_version_of_the_history_is_not_chosen(to_version):
    state = route(active=served(6), previous=served(5), history=(served(4),), quarantined=(target(4),), canary=None)
    edit = roll_back(state, target(6), cause_id="r", to_version=to_version)
    assert edit.code == "no_previous_target" if to_version else edit.route.active == served(5)


def test_a_failed_shadow_is_quarantined_and_nothing_else_changes():
    state = promoted(line(1, 2), 3, "s", weight=0.0, shadow_ratio=0.25)
    edit = roll_back(state, target(3), cause_id="r")
    assert edit.cause == "abort"
    assert (edit.route.shadowed, edit.route.shadow.share_ratio) == (None, 0.0)
    assert (edit.route.active, edit.route.previous) == (served(2), served(1))
    assert edit.route.is_quarantined(target(3))
    assert roll_back(edit.route, target(3), cause_id="again").code == "stale_epoch"


def test_a_rollback_of_the_active_version_ends_the_shadow():
    state = promoted(line(1, 2), 3, "s", weight=0.0, shadow_ratio=0.25)
    edit = roll_back(state, target(2), cause_id="r")
    assert (edit.route.active, edit.route.shadow) == (served(1), None)
    late = promote(edit.route, served(3), weight_ratio=0.1, epoch=state.epoch, cause_id="late")
    assert late.code == "stale_epoch"


def test_a_shadow_moves_to_another_endpoint_and_goes_on():
    state = promoted(line(1, 2), 3, "s", weight=0.0, shadow_ratio=0.25)
    moved = apply(state, move(state, target(3), ("b:2",), epoch=state.epoch, cause_id="m"))
    assert (moved.shadowed.endpoints, moved.shadow.share_ratio, moved.active) == (("b:2",), 0.25, state.active)
    assert promote(moved, served(3), weight_ratio=0.1, epoch=state.epoch, cause_id="c").cause == "canary"


# -- promote -------------------------------------------------------------------------------------------------------


def test_first_promotion_keeps_the_fallback_as_previous():
    state = promoted(EMPTY, 1, "c1", fallback=served(0, "bf16"))
    assert state.active == served(1)
    assert state.previous == served(0, "bf16")
    assert state.history == ()


def test_fallback_is_not_used_when_something_was_active():
    state = promoted(line(1), 2, "c", fallback=served(0, "bf16"))
    assert state.previous == served(1)


def test_a_quarantined_fallback_or_the_target_itself_is_never_previous():
    quarantined = EMPTY.model_copy(update={"quarantined": (target(0, "bf16"),)})
    assert promoted(quarantined, 1, "c", fallback=served(0, "bf16")).previous is None
    assert promoted(EMPTY, 0, "c", fallback=served(0)).previous is None


def test_each_promotion_moves_the_line_back_by_one_newest_first():
    state = line(1, 2, 3, 4)
    assert state.active == served(4)
    assert state.previous == served(3)
    assert state.history == (served(2), served(1))


def test_the_line_of_older_targets_is_bounded():
    state = line(*range(1, HISTORY_KEPT + 9))
    assert len(state.history) == HISTORY_KEPT
    assert state.history[0] == served(HISTORY_KEPT + 6)


def test_promoting_an_older_target_again_leaves_it_in_the_line_once():
    state = promoted(line(1, 2, 3), 1, "again")
    assert (state.active, state.previous, state.history) == (served(1), served(3), (served(2),))


def test_promoting_the_active_target_again_refreshes_it_and_keeps_the_line():
    state = line(1, 2)
    moved = served(2, endpoints=("127.0.0.1:9001",))
    changed = promote(state, moved, weight_ratio=1.0, epoch=state.epoch, cause_id="moved")
    assert changed.route.active == moved
    assert changed.route.previous == served(1)
    assert changed.route.epoch == state.epoch + 1


def test_canary_leaves_active_and_line_alone_and_full_weight_ends_it():
    state = line(1, 2)
    canary = promoted(state, 3, "c", weight=0.05)
    assert canary.canary.weight_ratio == 0.05
    assert (canary.active, canary.previous) == (state.active, state.previous)
    done = promoted(canary, 3, "d")
    assert done.canary is None
    assert (done.active, done.previous) == (served(3), served(2))


@pytest.mark.parametrize("difference", [-1, 1, 7])
def test_order_for_another_epoch_is_refused(difference):
    state = line(1, 2)
    refused = promote(state, served(3), weight_ratio=1.0, epoch=state.epoch + difference, cause_id="c")
    assert isinstance(refused, EditRefused)
    assert refused.code == "stale_epoch"
    assert str(state.epoch) in refused.reason


@pytest.mark.parametrize("weight", [0.05, 1.0])
def test_a_quarantined_target_is_refused_at_any_weight(weight):
    state = route(canary=None, quarantined=(target(8),))
    refused = promote(state, served(8), weight_ratio=weight, epoch=state.epoch, cause_id="c")
    assert (refused.code, type(refused)) == ("quarantined", EditRefused)


def test_another_variant_of_a_quarantined_version_is_not_quarantined():
    state = route(canary=None, quarantined=(target(8, "int8"),))
    changed = promote(state, served(8, "bf16"), weight_ratio=1.0, epoch=state.epoch, cause_id="c")
    assert isinstance(changed, Changed)


# -- suspension ----------------------------------------------------------------------------------------------------


def suspended(state, version):
    return apply(
        state, roll_back(state, target(version), cause_id=f"a{version}", suspended_by=(f"alert-{version}", NOW))
    )


def test_an_alert_suspends_the_active_target_and_voids_earlier_orders():
    state = line(1, 2, 3)
    back = suspended(state, 3)
    assert (back.active, back.previous, back.quarantined) == (served(2), served(1), ())
    (entry,) = back.suspended
    assert (entry.served, entry.cause, entry.since) == (served(3), "alert-3", NOW)
    assert promote(back, served(4), weight_ratio=1.0, epoch=state.epoch, cause_id="late").code == "stale_epoch"
    assert promote(back, served(3), weight_ratio=1.0, epoch=back.epoch, cause_id="again").code == "suspended"


def test_the_next_move_skips_what_is_suspended():
    twice = suspended(suspended(line(1, 2, 3), 3), 2)
    assert (twice.active, twice.previous, twice.history) == (served(1), None, ())
    assert [entry.served for entry in twice.suspended] == [served(2), served(3)]
    assert roll_back(twice, target(1), cause_id="x", suspended_by=("a", NOW)).code == "no_previous_target"


def test_a_failing_canary_is_quarantined_although_an_alert_ends_it():
    state = promoted(line(1, 2), 3, "c", weight=0.1)
    edit = roll_back(state, target(3), cause_id="a", suspended_by=("alert", NOW))
    assert (edit.cause, edit.route.suspended, edit.route.quarantined) == ("abort", (), (target(3),))


def test_an_order_of_before_a_confirmation_still_counts():
    back = left()
    confirmed = confirm(back, target(3), cause_id="c").route
    assert confirmed.epoch > back.epoch
    edit = promote(confirmed, served(4), weight_ratio=0.1, epoch=back.epoch, cause_id="o")
    assert edit.cause == "canary"


def test_a_canary_is_away_for_a_minute_once_in_some_and_orders_of_before_still_count():
    state = promoted(line(1, 2, 3), 4, "canary", weight=0.1)
    edit = take_away(state, target(4), at=NOW, cause_id="a")
    assert (edit.cause, edit.route.canary.away_until, edit.route.canary.weight_ratio) == ("judge", NOW + AWAY, 0.1)
    assert isinstance(take_away(edit.route, target(4), at=NOW, cause_id="a"), AlreadyApplied)
    assert take_away(edit.route, target(4), at=NOW + 2 * AWAY, cause_id="b").code == "stale_epoch"
    assert isinstance(take_away(edit.route, target(4), at=NOW + AWAY + AWAY_EVERY, cause_id="b"), Changed)
    assert take_away(state, target(3), at=NOW, cause_id="a").code == "stale_epoch"
    onwards = promote(edit.route, served(4), weight_ratio=0.5, epoch=state.epoch, cause_id="o")
    assert (onwards.cause, onwards.route.canary.away_until) == ("canary", None)


def test_a_canary_is_away_so_often_at_most_at_each_share():
    state, at = promoted(line(1, 2, 3), 4, "canary", weight=0.1), NOW
    for number in range(AWAY_TIMES):
        state = take_away(state, target(4), at=at, cause_id=f"a{number}").route
        at += AWAY + AWAY_EVERY
    assert take_away(state, target(4), at=at, cause_id="b").code == "stale_epoch"
    onwards = promote(state, served(4), weight_ratio=0.5, epoch=state.epoch, cause_id="o").route
    assert isinstance(take_away(onwards, target(4), at=at, cause_id="b"), Changed)


def test_a_confirmed_target_is_quarantined_and_traffic_stays():
    back = suspended(line(1, 2, 3), 3)
    edit = confirm(back, target(3), cause_id="c")
    assert (edit.cause, edit.route.active, edit.route.suspended) == ("confirm", served(2), ())
    assert edit.route.quarantined == (target(3),)
    assert isinstance(confirm(edit.route, target(3), cause_id="c"), AlreadyApplied)


def test_a_returned_target_is_active_again_and_the_other_one_behind_it():
    state = line(1, 2, 3)
    edit = return_suspended(suspended(state, 3), target(3), at=NOW, cause_id="r")
    assert (edit.cause, edit.route.suspended, edit.route.quarantined) == ("return", (), ())
    assert (edit.route.active, edit.route.previous, edit.route.history) == (state.active, state.previous, state.history)
    assert isinstance(return_suspended(edit.route, target(3), at=NOW, cause_id="r"), AlreadyApplied)


@pytest.mark.parametrize("decide", [confirm, partial(return_suspended, at=NOW), partial(order_return, at=NOW)])
def test_only_what_is_suspended_is_decided_about(decide):
    assert decide(line(1, 2), target(2), cause_id="d").code == "not_suspended"


# -- judgement -----------------------------------------------------------------------------------------------------


def left(*, judged_by="errors"):
    return roll_back(line(1, 2, 3), target(3), cause_id="s", suspended_by=("alert", NOW), judged_by=judged_by).route


def judged(state, verdict, cause="j", since=NOW, **more):
    return judge(state, target(3), since=since, verdict=verdict, evidence="3 of 90", cause_id=cause, **more)


def test_what_a_shadow_can_judge_is_judged_until_its_verdict_and_not_beside_a_candidate():
    state = left()
    assert state.judged.served == served(3)
    assert left(judged_by="").judged is None
    assert promoted(state, 4, "shadow", weight=0.0, shadow_ratio=0.25).judged is None
    assert judged(state, "cleared").route.judged is None


@pytest.mark.parametrize("verdict", ["cleared", "undecided"])
def test_another_verdict_than_confirmed_is_written_down_and_traffic_stays(verdict):
    edit = judged(left(), verdict)
    (entry,) = edit.route.suspended
    assert (edit.cause, edit.route.active, entry.verdict, entry.evidence) == ("judge", served(2), verdict, "3 of 90")
    assert isinstance(judged(edit.route, verdict), AlreadyApplied)
    assert return_suspended(edit.route, target(3), at=NOW, cause_id="r").route.active == served(3)


def test_a_confirmed_verdict_quarantines():
    edit = judged(left(), "confirmed")
    assert (edit.cause, edit.route.suspended, edit.route.quarantined) == ("confirm", (), (target(3),))


def test_a_verdict_on_an_earlier_suspension_changes_nothing():
    assert judged(left(), "confirmed", since=NOW.replace(hour=9)).code == "not_suspended"
    assert judged(line(1, 2, 3), "confirmed").code == "not_suspended"


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_the_first_traffic_of_a_newer_release_ends_the_suspension(weight):
    back = suspended(line(1, 2, 3), 3)
    asked = promoted(back, 4, "shadow", weight=0.0, shadow_ratio=0.25)
    assert asked.suspended == back.suspended
    newer = promoted(asked, 4, "traffic", weight=weight)
    assert (newer.suspended, newer.quarantined) == ((), (target(3),))


def test_a_suspended_target_moves_to_another_endpoint_and_stays_suspended():
    back = suspended(line(1, 2), 2)
    moved = apply(back, move(back, target(2), ("b:2",), epoch=back.epoch, cause_id="m"))
    assert (moved.suspended[0].served.endpoints, moved.suspended[0].cause) == (("b:2",), "alert-2")


# -- return --------------------------------------------------------------------------------------------------------


def returning(weight=None, state=None):
    state = judged(left() if state is None else state, "cleared", returns_at=NOW).route
    return state if weight is None else promoted(state, 3, "c", weight=weight)


def test_a_cleared_target_returns_and_orders_from_before_still_count():
    before = left()
    (entry,) = returning().suspended
    assert (entry.verdict, entry.returned_by) == ("cleared", "j")
    assert isinstance(promote(returning(), served(4), weight_ratio=0.1, epoch=before.epoch, cause_id="n"), Changed)
    assert judged(before, "undecided", returns_at=NOW).route.suspended[0].returned_by == ""
    assert judged(before, "cleared").route.suspended[0].returned_by == ""


def test_it_returns_as_a_canary_and_is_in_traffic_like_any_other():
    canary = returning(0.1)
    assert (canary.active, canary.canary.served, canary.suspended, canary.quarantined) == (served(2), served(3), (), ())
    more = promoted(canary, 3, "c2", weight=0.5)
    assert more.canary.returns == canary.canary.returns
    done = promoted(more, 3, "p")
    assert (done.active, done.previous, done.canary, done.quarantined) == (served(3), served(2), None, ())
    assert promoted(returning(), 3, "p").active == served(3), "a policy without canary steps"


def test_a_second_order_to_return_leaves_the_release_of_the_first_one():
    asked = apply(left(), order_return(left(), target(3), at=NOW, cause_id="o"))
    assert order_return(asked, target(3), at=NOW, cause_id="o2") == AlreadyApplied(asked)
    ended = apply(asked, end_trial(asked, target(3), cause_id="e"))
    assert apply(ended, order_return(ended, target(3), at=NOW, cause_id="o2")).suspended[0].returned_by == "o2"


def test_others_stay_suspended_beside_a_canary_that_returns():
    state = suspended(left(), 2)
    canary = promoted(apply(state, order_return(state, target(3), at=NOW, cause_id="o")), 3, "c", weight=0.1)
    assert ([entry.served for entry in canary.suspended], canary.quarantined) == ([served(2)], ())
    done = promoted(canary, 3, "p")
    assert (done.previous, [entry.served for entry in done.suspended]) == (served(1), [served(2)])


def test_a_second_move_suspends_it_again_in_its_canary_and_after_it():
    canary, done = returning(0.1), promoted(returning(0.1), 3, "p")
    for state in (canary, done):
        (entry,) = suspended(state, 3).suspended
        assert (entry.served, entry.cause, entry.verdict, entry.returned_by) == (served(3), "alert-3", None, "")
        assert suspended(state, 3).active == served(2)
    again = judged(suspended(done, 3), "cleared", "j2", returns_at=NOW + timedelta(days=9)).route
    assert again.suspended[0].returned_by == "", "a version returns by itself once"
    assert apply(again, order_return(again, target(3), at=NOW, cause_id="o")).suspended[0].returned_by == "o"


def test_a_canary_that_returns_and_fails_its_test_is_quarantined():
    edit = roll_back(returning(0.1), target(3), cause_id="f")
    assert (edit.route.suspended, edit.route.quarantined) == ((), (target(3),))


def test_what_ends_its_canary_without_a_word_on_it_puts_it_back():
    canary = returning(0.1)
    left_again = roll_back(canary, target(2), cause_id="a", suspended_by=("alert", NOW)).route
    assert [(entry.served, entry.returned_by) for entry in left_again.suspended] == [(served(2), ""), (served(3), "")]
    ended = end_trial(canary, target(3), order_id="c", cause_id="e").route
    assert [(entry.served, entry.verdict) for entry in ended.suspended] == [(served(3), "cleared")]
    assert promoted(canary, 4, "n", weight=0.1).quarantined == (target(3),), "a newer release is never blocked"


@pytest.mark.parametrize("weight", [None, 0.1])
def test_the_end_of_its_release_suspends_it_as_before_and_a_person_decides(weight):
    state = returning(weight)
    ended = apply(state, end_trial(state, target(3), cause_id="e"))
    assert [(entry.served, entry.verdict, entry.returned_by) for entry in ended.suspended] == [
        (served(3), "cleared", "")
    ]
    assert (is_returning(state, target(3)), is_returning(ended, target(3))) == (True, False)
    assert (ended.active, ended.quarantined, has_trial(ended, target(3))) == (served(2), (), False)
    assert isinstance(end_trial(ended, target(3), cause_id="e"), AlreadyApplied)
    newer = promote(ended, served(4), weight_ratio=0.1, epoch=state.epoch, cause_id="n")
    assert isinstance(newer, Changed) == (weight is None), "as long as traffic stays, orders of before count"


def test_a_shadow_puts_back_what_returns_as_a_canary():
    asked = promoted(returning(0.1), 4, "shadow", weight=0.0, shadow_ratio=0.25)
    assert [(entry.served, entry.returned_by) for entry in asked.suspended] == [(served(3), "")]


def test_what_traffic_moved_to_although_it_was_suspended_does_not_return_by_itself_again():
    back = left()
    dead = apply(back, roll_back(back, target(2), cause_id="d", to_version=3, suspended_by=("dead", NOW)))
    assert dead.active == served(3)
    assert not returns_by_itself(dead, target(3), NOW + timedelta(days=9))


def test_of_a_model_one_version_a_day_returns_by_itself():
    state = returning()
    assert not returns_by_itself(state, target(2), NOW + timedelta(hours=23))
    assert returns_by_itself(state, target(2), NOW + timedelta(hours=24))
    at_once = return_suspended(left(), target(3), at=NOW, cause_id="r").route
    assert not returns_by_itself(at_once, target(3), NOW + timedelta(days=9))


def alone_behind_its_return():
    """Return a route whose active version has nothing behind it but the version that returns as a canary."""
    return returning(0.1).model_copy(update={"previous": None, "history": ()})


@pytest.mark.parametrize("to_version", [None, 3])
def test_an_order_to_leave_the_active_version_finds_the_one_that_returns(to_version):
    state = alone_behind_its_return()
    after = apply(state, roll_back(state, target(2), cause_id="o", to_version=to_version))
    assert (after.active, after.canary, after.suspended, after.quarantined) == (served(3), None, (), (target(2),))


def test_what_returns_takes_over_where_the_active_version_answers_nothing():
    state = returning(0.1)
    after = apply(state, roll_back(state, target(2), cause_id="d", to_version=3, suspended_by=("dead", NOW)))
    assert (after.active, [entry.served for entry in after.suspended]) == (served(3), [served(2)])


def test_what_returns_as_a_canary_takes_all_traffic_at_once_if_a_person_says_so():
    edit = return_suspended(returning(0.1), target(3), at=NOW, cause_id="r")
    assert (edit.cause, edit.route.active, edit.route.canary, edit.route.suspended) == ("return", served(3), None, ())


def test_a_canary_that_returns_moves_to_another_endpoint():
    canary = returning(0.1)
    moved = apply(canary, move(canary, target(3), ("b:2",), epoch=canary.epoch, cause_id="m"))
    assert (moved.canary.served.endpoints, moved.canary.returns.served.endpoints) == (("b:2",), ("b:2",))


# -- roll_back -----------------------------------------------------------------------------------------------------


def test_failing_active_hands_over_to_previous_and_bars_it_and_aborts_the_canary():
    state = promoted(line(1, 2, 3), 4, "canary", weight=0.1)
    changed = roll_back(state, target(3), cause_id="alert")
    assert changed.cause == "rollback"
    back = changed.route
    assert (back.active, back.previous, back.history, back.canary) == (served(2), served(1), (), None)
    assert back.quarantined == (target(3),)
    assert back.epoch == state.epoch + 1


def test_failing_canary_goes_to_weight_zero_and_active_stays():
    state = promoted(line(1, 2), 3, "canary", weight=0.1)
    changed = roll_back(state, target(3), cause_id="alert")
    assert changed.cause == "abort"
    assert changed.route.canary.weight_ratio == 0.0
    assert changed.route.active == served(2)
    assert changed.route.quarantined == (target(3),)
    again = roll_back(changed.route, target(3), cause_id="another alert")
    assert isinstance(again, EditRefused)


def test_without_a_previous_target_there_is_no_rollback():
    refused = roll_back(line(1), target(1), cause_id="alert")
    assert refused.code == "no_previous_target"


@pytest.mark.parametrize("version", [1, 2, 9])
def test_only_active_and_canary_can_be_rolled_back(version):
    refused = roll_back(line(1, 2, 3), target(version), cause_id="alert")
    assert (refused.code, type(refused)) == ("stale_epoch", EditRefused)


def test_a_failed_canary_that_is_also_previous_is_no_longer_previous():
    """Version 2 is a canary again while it is previous: once it failed, no rollback may go to it."""
    state = promoted(line(1, 2, 3), 2, "retry", weight=0.2)
    aborted = apply(state, roll_back(state, target(2), cause_id="alert"))
    assert aborted.previous == served(1)
    back = apply(aborted, roll_back(aborted, target(3), cause_id="alert 2"))
    assert back.active == served(1)


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_the_active_target_is_no_canary_and_no_shadow_of_itself(weight):
    state = line(1, 2)
    odd = promote(state, served(2), weight_ratio=weight, epoch=state.epoch, cause_id="odd", shadow_ratio=0.5)
    assert odd.code == "stale_epoch"


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_a_trial_is_ended_without_a_quarantine_only_while_its_order_made_the_route(weight):
    begun = promoted(line(1, 2), 3, "order", weight=weight, shadow_ratio=0.5)
    ended = apply(begun, end_trial(begun, target(3), order_id="order", cause_id="end"))
    assert (has_trial(begun, target(3)), has_trial(ended, target(3))) == (True, False)
    assert (ended.active, ended.quarantined, ended.epoch) == (begun.active, (), begun.epoch + 1)
    assert isinstance(end_trial(ended, target(3), order_id="order", cause_id="end"), AlreadyApplied)
    later = promoted(begun, 3, "later", weight=0.5)
    for edited, name in ((later, "order"), (ended, "other"), (begun, "other")):
        assert isinstance(end_trial(edited, target(3), order_id=name, cause_id="new"), EditRefused)


def test_a_quarantined_previous_of_an_old_record_gets_no_rollback():
    state = route(canary=None, quarantined=(target(6),))
    assert roll_back(state, target(7), cause_id="alert").code == "no_previous_target"


def test_stale_promotion_cannot_bring_a_rolled_back_target_back():
    state = line(1, 2)
    late = {"weight_ratio": 1.0, "epoch": state.epoch, "cause_id": "late order"}
    back = apply(state, roll_back(state, target(2), cause_id="alert"))
    assert promote(back, served(2), **late).code == "quarantined"


# -- redelivery ----------------------------------------------------------------------------------------------------


def test_redelivered_cause_changes_nothing():
    state = line(1, 2)
    assert promote(state, served(2), weight_ratio=1.0, epoch=1, cause_id="p2") == AlreadyApplied(state)
    back = apply(state, roll_back(state, target(2), cause_id="alert"))
    assert roll_back(back, target(2), cause_id="alert") == AlreadyApplied(back)
    moved = move(back, back.active.target, ("10.0.0.2:1",), epoch=back.epoch, cause_id="moved-1").route
    assert roll_back(moved, target(2), cause_id="alert") == AlreadyApplied(moved)
    shared = move(state, target(2), ("10.0.0.2:1",), epoch=state.epoch, cause_id="moved-2").route
    assert promote(shared, served(2), weight_ratio=1.0, epoch=1, cause_id="p2") == AlreadyApplied(shared)


# -- arbitrary histories -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """One edit as it arrives: maybe stale, maybe delivered again, maybe about any target."""

    kind: str
    version: int
    weight: float
    epoch_late_by: int
    with_fallback: bool
    redeliver: int


ORDERS = st.lists(
    st.builds(
        Order,
        kind=st.sampled_from(["promote", "promote", "roll_back"]),
        version=st.integers(0, 4),
        weight=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 1.0, 1.0]),
        epoch_late_by=st.sampled_from([0, 0, 0, 0, 1, -1]),
        with_fallback=st.booleans(),
        redeliver=st.integers(0, 12),
    ),
    max_size=14,
)


def run(state, order, cause):
    if order.kind == "roll_back":
        return roll_back(state, target(order.version), cause_id=cause)
    return promote(
        state,
        served(order.version),
        weight_ratio=order.weight,
        epoch=state.epoch - order.epoch_late_by,
        cause_id=cause,
        fallback=served(0) if order.with_fallback else None,
        shadow_ratio=0.0 if order.weight else 0.1,
    )


def check(state):
    """What must hold for every route there can ever be."""
    assert Route.model_validate(state.model_dump()) == state
    quarantined = set(state.quarantined)
    assert len(quarantined) == len(state.quarantined)
    names = [value.target for value in (state.active, state.previous, *state.history) if value is not None]
    assert len(names) == len(set(names)), "no target stands in the line twice"
    assert not quarantined & set(names), "nothing quarantined serves or waits to serve"
    if state.canary is not None and state.canary.weight_ratio > 0.0:
        assert state.canary.served.target not in quarantined
    assert state.shadowed is None or state.canary is None, "what is asked unseen takes no traffic beside it"
    if state.shadowed is not None:
        assert state.shadowed.target not in quarantined
    if state.previous is None:
        assert state.history == ()
    assert len(state.history) <= HISTORY_KEPT


@given(ORDERS)
def test_every_history_keeps_the_rules(orders):
    state, done = EMPTY, []
    for number, order in enumerate(orders):
        edit = run(state, order, f"c{number}")
        check_edit(state, order, edit)
        if isinstance(edit, Changed):
            check(edit.route)
            assert edit.route.epoch == state.epoch + 1
            assert edit.route.cause_id == f"c{number}"
            assert set(state.quarantined) <= set(edit.route.quarantined), "a quarantine never ends"
            done.append((order, state, f"c{number}"))
            state = edit.route
            assert run(state, order, f"c{number}") == AlreadyApplied(state)
        if done and order.redeliver < len(done):
            earlier, before, cause = done[order.redeliver]
            late = redelivered(state, earlier, before, cause)
            expected = AlreadyApplied if cause == state.cause_id else EditRefused
            assert isinstance(late, expected), "an order carried out long ago is never carried out again"


def redelivered(state, order, before, cause):
    if order.kind == "roll_back":
        return roll_back(state, target(order.version), cause_id=cause)
    epoch = before.epoch - order.epoch_late_by
    ratio = 0.0 if order.weight else 0.1
    again = {"weight_ratio": order.weight, "epoch": epoch, "cause_id": cause, "shadow_ratio": ratio}
    return promote(state, served(order.version), **again)


def check_edit(state, order, edit):
    subject = target(order.version)
    if order.kind == "promote":
        if state.is_quarantined(subject):
            assert edit.code == "quarantined"
        elif order.epoch_late_by or (order.weight < 1.0 and state.active and state.active.target == subject):
            assert edit.code == "stale_epoch"
        else:
            assert isinstance(edit, Changed)
            assert edit.cause == {1.0: "promote", 0.0: "shadow"}.get(order.weight, "canary")
            if order.weight == 0.0:
                before = (state.active, state.previous, state.history)
                assert (edit.route.active, edit.route.previous, edit.route.history) == before
                assert edit.route.canary is None
            else:
                assert edit.route.shadow is None
        return
    is_active = state.active is not None and state.active.target == subject
    on_trial = state.canary is not None and state.canary.served.target == subject and state.canary.weight_ratio > 0
    on_trial |= state.shadowed is not None and state.shadowed.target == subject
    if not is_active and not on_trial:
        assert edit.code == "stale_epoch"
    elif is_active and state.previous is None:
        assert edit.code == "no_previous_target"
    else:
        assert edit.cause == ("rollback" if is_active else "abort")
        assert edit.route.is_quarantined(subject)


@given(ORDERS, ORDERS)
def test_two_writers_that_decide_on_the_same_route_cannot_both_be_right(first, second):
    """The writer that loses the compare-and-set decides again, and a promotion decided before then finds a later epoch."""
    state = EMPTY
    for number, order in enumerate(first):
        edit = run(state, order, f"a{number}")
        state = edit.route if isinstance(edit, Changed) else state
    for number, order in enumerate(second):
        first_edit, second_edit = run(state, order, f"b{number}"), run(state, order, f"c{number}")
        if isinstance(second_edit, Changed) and order.kind == "promote":
            late = promote(
                second_edit.route,
                served(order.version),
                weight_ratio=order.weight,
                epoch=state.epoch,
                cause_id=f"b{number}",
                shadow_ratio=0.0 if order.weight else 0.1,
            )
            assert isinstance(first_edit, Changed)
            assert late.code == "stale_epoch"
            state = second_edit.route


# -- further back, and forward again -------------------------------------------------------------------------------


def test_a_person_may_go_further_back_and_what_is_skipped_stays_in_line():
    state = line(1, 2, 3, 4)
    back = apply(state, roll_back(state, target(4), cause_id="order", to_version=2))
    assert (back.active, back.previous, back.history) == (served(2), served(3), (served(1),))
    assert back.quarantined == (target(4),)


@pytest.mark.parametrize("version", [4, 9, 0])
def test_going_back_to_what_is_not_in_line_is_refused(version):
    state = line(1, 2, 3, 4)
    assert roll_back(state, target(4), cause_id="order", to_version=version).code == "no_previous_target"
