"""Whether a fact causes a rollback: pure, so every order, repetition and guard can be played."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as cf
from contracts.routes import CanaryShare, Suspended
from decisions.rollback.rule import Standby, rollback_id
from services.rollback_controller.domain import decision, execution
from services.rollback_controller.domain.decision import VoidOrder
from services.rollback_controller.domain.record import RollbackState, record_policy
from testbed import factories as f
from tests.kit.soak import often
from tests.unit.rollback_controller.decisions import RULES, alert, cause, published, route, state, switch, take

# -- alerts -----------------------------------------------------------------------------------------------------------


def test_an_automatic_trigger_of_an_active_target_starts_a_rollback():
    decided = take(state(), alert(), fact_id="a-1")
    (started,) = published(decided, cf.RollbackStarted)
    assert (started.rollback_id, started.cause_id, started.failed, started.mode) == (
        rollback_id("a-1"),
        "a-1",
        f.target(7),
        "automatic",
    )
    assert started.timeline.first_bad_at == f.after(-3)
    assert started.timeline.detected_at == f.after(0)
    assert started.timeline.decided_at == f.after(0)
    assert [todo.rollback_id for todo in execution.pending(decided)] == [rollback_id("a-1")]


@pytest.mark.parametrize(
    "what",
    [
        alert(trigger="refusals"),  # declared as manual
        alert(trigger="unheard-of"),  # not declared
        alert(trigger=None, alert_id="x"),  # a hard failure without a trigger
        alert(version=5),  # takes no traffic
        alert(version=6),  # ready as the previous target, but takes no traffic
    ],
)
def test_what_was_not_declared_or_does_not_serve_starts_nothing(what):
    before = state()
    assert take(before, what) is before


def test_a_model_without_a_route_gets_no_rollback():
    before = state()
    assert decision.decide_on_alert(before, alert(), None, cause(), RULES) is before


def test_a_canary_is_taken_out_too():
    decided = take(state(), alert(version=7), on=route(6, 5, canary=7))
    assert len(execution.pending(decided)) == 1
    ended = route(6, 5, canary=7, weight=0.0)
    assert take(state(), alert(version=7), on=ended) == state()


def suspension(version):
    return Suspended(served=f.served(version), cause="errors", since=f.after(-60))


def test_a_canary_is_taken_out_although_a_version_is_suspended():
    on = route(6, 5, canary=7, suspended=(suspension(4),))
    decided = take(state(), alert(version=7), on=on)
    assert (len(execution.pending(decided)), published(decided, cf.RollbackFailed)) == (1, [])


def test_while_a_version_returns_as_a_canary_the_active_one_is_left_only_if_it_answers_nothing():
    canary = CanaryShare(served=f.served(7), weight_ratio=0.1, returns=suspension(7))
    on = route(6, 5).model_copy(update={"canary": canary})
    decided = take(state(), alert(version=6), on=on)
    assert [failed.code for failed in published(decided, cf.RollbackFailed)] == ["suspended"]
    assert len(execution.pending(take(state(), alert(version=6, answers_nothing=True), on=on))) == 1


def test_the_same_alert_starts_one_rollback_however_often_it_is_published():
    decided = take(state(), alert(), fact_id="a-1")
    again = take(decided, alert(), fact_id="a-1", at=1)
    updated = take(again, alert(kind=cf.AlertUpdated), fact_id="a-2", at=20)
    assert updated is decided
    done = switch(decided)
    assert take(done, alert(kind=cf.AlertUpdated), at=40) is done


def test_a_rollback_that_failed_is_tried_again_while_the_alert_lasts():
    failed = take(state(), alert(), fact_id="a-1")
    failed = execution.record_failure(failed, rollback_id("a-1"), "previous_not_ready", "v6 is dead", f.after(1))
    assert take(failed, alert(), fact_id="a-1", at=30) is failed  # the very same fact
    retried = take(failed, alert(kind=cf.AlertUpdated), fact_id="a-3", at=15)
    assert [todo.rollback_id for todo in execution.pending(retried)] == [rollback_id("a-3")]


def test_a_second_alert_does_not_start_a_second_rollback_of_the_same_target():
    decided = take(state(triggers={"7": (f.trigger(name="slow"), f.trigger(name="late", metric="e2e_ms"))}), alert())
    assert take(decided, alert(trigger="late")) is decided


def suspending(**changes):
    gone = f.Suspended(served=f.served(7), cause="slow", since=f.after(0))
    return route(6, 5, suspended=(gone,), **changes)


def test_while_one_version_is_suspended_a_trigger_pages_once_and_silence_moves_traffic():
    gone = switch(take(state(), alert()))
    on = suspending()
    paged = take(gone, alert(version=6), at=30, on=on)
    (failed,) = published(paged, cf.RollbackFailed)
    assert failed.code == "suspended"
    assert str(f.target(7)) in failed.reason
    assert execution.pending(paged) == ()
    assert take(paged, alert(version=6, kind=cf.AlertUpdated), at=60, on=on) is paged
    silent = take(paged, alert(version=6, kind=cf.AlertUpdated, answers_nothing=True), at=61, on=on)
    assert len(execution.pending(silent)) == 1


def test_without_a_declared_trigger_a_target_is_left_only_if_it_answers_nothing():
    alone = alert(trigger=None, alert_id="x", kind=cf.AlertRaised)
    assert take(state(), alone) == state()
    moved = take(state(), alert(trigger=None, alert_id="x", answers_nothing=True))
    assert len(execution.pending(moved)) == 1


def test_moves_to_a_previous_version_are_never_limited():
    names = [f"trigger-{number}" for number in range(10)]
    current = state(triggers={"7": tuple(f.trigger(name=name) for name in names)})
    for at, name in enumerate(names):
        current = take(current, alert(trigger=name), at=at)
        current = switch(current, at + 0.1)
    assert len(published(current, cf.RollbackStarted)) == 10
    assert published(current, cf.RollbackFailed) == []


def test_in_staging_only_the_trigger_under_rehearsal_starts_a_rollback():
    rehearsing = state(
        environment="staging",
        rehearsing="slow",
        triggers={"7": (f.trigger(name="slow"), f.trigger(name="late", metric="e2e_ms"))},
    )
    assert take(rehearsing, alert(trigger="late")) is rehearsing
    assert len(execution.pending(take(rehearsing, alert(trigger="slow")))) == 1


@pytest.mark.parametrize(("sequence", "starts"), [(4, False), (5, False), (6, True), (0, True)])
def test_an_alert_of_an_earlier_attempt_at_a_rehearsal_starts_nothing(sequence, starts):
    """`rehearsing_since` is the number of the last fact before the attempt; 0 is an alert without a number."""
    rehearsing = state(environment="staging", rehearsing="slow", rehearsing_since=5)
    about = replace(cause(), sequence=sequence)
    decided = decision.decide_on_alert(rehearsing, alert(), route(), about, RULES)
    assert bool(execution.pending(decided)) == starts


# -- canaries ---------------------------------------------------------------------------------------------------------


def assessed(verdict="fail", version=7):
    return cf.CanaryAssessed(target=f.target(version), weight_ratio=0.2, requests=100, verdict=verdict, reason="worse")


def shadow_assessed(verdict="fail", version=7):
    return cf.ShadowAssessed(target=f.target(version), share_ratio=0.2, requests=100, verdict=verdict, reason="worse")


def shadowing(version=7, share=0.2, **changes):
    return route(6, 5, shadow=f.ShadowShare(served=f.served(version), share_ratio=share), **changes)


def finished(outcome="expired", version=7):
    return cf.ReleaseFinished(release_id="r-7", model=f.MODEL, version=version, outcome=outcome, reason="late")


@pytest.mark.parametrize(
    ("what", "on", "expected"),
    [
        (assessed(), route(6, 5, canary=7), 1),
        (assessed("inconclusive"), route(6, 5, canary=7), 0),
        (assessed("pass"), route(6, 5, canary=7), 0),
        (assessed(), route(7, 6), 0),  # promoted meanwhile
        (assessed(), route(6, 5, canary=7, weight=0.0), 0),
        (finished(), route(6, 5, canary=7), 1),
        (finished("cancelled"), route(6, 5, canary=7), 1),
        (finished("promoted"), route(6, 5, canary=7), 0),
        (finished(version=8), route(6, 5, canary=7), 0),
        (finished(), route(6, 5), 0),
        (shadow_assessed(), shadowing(), 1),
        (shadow_assessed("inconclusive"), shadowing(), 0),
        (shadow_assessed("pass"), shadowing(), 0),
        (shadow_assessed(), route(6, 5, canary=7), 0),  # it takes traffic by now: its canary decides
        (shadow_assessed(), shadowing(share=0.0), 0),
        (shadow_assessed(version=8), shadowing(), 0),
        (assessed(), shadowing(), 0),
        (finished("cancelled"), shadowing(), 1),
        (finished("promoted"), shadowing(), 0),
        (finished(), shadowing(8), 0),
    ],
)
def test_a_canary_or_shadow_that_failed_or_lost_its_release_is_taken_out(what, on, expected):
    of_release = isinstance(what, cf.ReleaseFinished)
    take_it = decision.decide_on_release_end if of_release else decision.decide_on_assessment
    decided = take_it(state(), what, on, cause(fact_id="c-1"))
    assert len(execution.pending(decided)) == expected
    assert take_it(decided, what, on, cause(fact_id="c-1")) is decided
    assert take_it(decided, what, on, cause(fact_id="c-2")) is decided or not expected


# -- orders -----------------------------------------------------------------------------------------------------------


def order(failed=7, to_version=None):
    return cf.RollbackOrdered(reason="looks odd", failed=f.target(failed) if failed else None, to_version=to_version)


def test_an_order_that_names_a_shadow_ends_it_and_one_that_names_nothing_means_what_serves():
    """`slipway cancel` ends it with its release; an order also ends one whose release has ended without it."""
    decided = decision.decide_on_order(state(), order(7), shadowing(), cause(1), RULES)
    assert [rollback.failed for rollback in execution.pending(decided)] == [f.target(7)]
    void = decision.decide_on_order(state(), order(7), shadowing(share=0.0), cause(1), RULES)
    assert "takes no traffic" in void.reason
    unnamed = decision.decide_on_order(state(), order(None), shadowing(), cause(1), RULES)
    assert [rollback.failed for rollback in execution.pending(unnamed)] == [f.target(6)]
    decided = decision.decide_on_order(state(), order(6), shadowing(), cause(1), RULES)
    assert [rollback.failed for rollback in execution.pending(decided)] == [f.target(6)]


def test_an_order_is_never_held():
    gone = switch(take(state(), alert()))
    decided = decision.decide_on_order(gone, order(6, 4), route(6, 5), cause(1), RULES)
    (todo,) = execution.pending(decided)
    assert (todo.mode, todo.failed, todo.to_version, todo.reason) == ("manual", f.target(6), 4, "ops: looks odd")


def test_an_order_that_names_nothing_means_the_active_target_but_not_right_after_a_rollback():
    (todo,) = execution.pending(decision.decide_on_order(state(), order(None), route(), cause(), RULES))
    assert todo.failed == f.target(7)
    gone = switch(take(state(), alert()))
    refused = decision.decide_on_order(gone, order(None), route(6, 5), cause(20), RULES)
    assert isinstance(refused, VoidOrder)
    assert "name the target" in refused.reason
    for seconds in (500, -500):  # a clock that was set back by more than that makes the order no riddle either
        decided = decision.decide_on_order(gone, order(None), route(6, 5), cause(seconds), RULES)
        assert not isinstance(decided, VoidOrder)


@pytest.mark.parametrize("on", [None, route(6, 5)])
def test_an_order_about_what_takes_no_traffic_is_refused(on):
    assert isinstance(decision.decide_on_order(state(), order(7), on, cause(), RULES), VoidOrder)


def test_an_order_that_comes_twice_is_carried_out_once():
    decided = decision.decide_on_order(state(), order(), route(), cause(fact_id="o-1"), RULES)
    assert decision.decide_on_order(decided, order(), route(), cause(fact_id="o-1"), RULES) is decided


# -- policies ---------------------------------------------------------------------------------------------------------


def test_the_first_policy_of_a_version_is_kept_and_versions_are_bounded():
    def policy(name="slow"):
        return f.policy(triggers=(f.trigger(name=name),))

    current = record_policy(RollbackState(model=f.MODEL, environment="production"), 1, policy())
    assert record_policy(current, 1, policy("other")) is current
    for version in range(2, 101):
        current = record_policy(current, version, policy())
    assert sorted(map(int, current.triggers)) == list(range(37, 101))


def release_opened(**about):
    whole = {
        "model": f.MODEL,
        "attempt": 1,
        "release_key": f.digest("key"),
        "base": f.base(),
        "weights": f.weights(),
        "training": f.training(),
        "variants": ("int8",),
        "source_event_id": "e-1",
    }
    return cf.ReleaseOpened(**(whole | about))


# -- whatever comes ---------------------------------------------------------------------------------------------------

moves = st.sampled_from(["raise", "update", "other", "order", "assess", "finish", "switch", "fail", "late"])


@settings(max_examples=often(200), deadline=None)
@given(st.lists(st.tuples(moves, st.integers(0, 3)), max_size=25))
def test_a_target_never_has_two_rollbacks_in_progress_and_every_decision_is_published_once(played):
    current, on = state(), route(6, 5, canary=7)
    for at, (move, number) in enumerate(played):
        now = cause(at, f"{move}-{number}")
        if move in ("raise", "update"):
            kind = cf.AlertRaised if move == "raise" else cf.AlertUpdated
            current = decision.decide_on_alert(current, alert(kind=kind, number=number), on, now, RULES)
        elif move == "other":
            current = decision.decide_on_alert(current, alert(version=6, number=number), on, now, RULES)
        elif move == "order":
            decided = decision.decide_on_order(current, order(7), on, now, RULES)
            current = current if isinstance(decided, VoidOrder) else decided
        elif move == "assess":
            current = decision.decide_on_assessment(current, assessed(), on, now)
        elif move == "finish":
            current = decision.decide_on_release_end(current, finished(), on, now)
        elif move in ("switch", "fail"):
            for todo in execution.pending(current)[:1]:
                if move == "switch":
                    current = execution.record_switch(current, todo.rollback_id, route(6, 5), "abort", f.after(at))
                else:
                    current = execution.record_failure(
                        current, todo.rollback_id, "previous_not_ready", "not loaded", f.after(at)
                    )
        else:
            current = execution.assess_by_probe(current, rollback_id(f"raise-{number}"), answers=True, now=f.after(at))
        automatic = [todo.failed for todo in execution.pending(current) if todo.mode == "automatic"]
        assert len(automatic) == len(set(automatic))
    identities = [out.id for out in current.outbox]
    assert len(identities) == len(set(identities))
    assert len(published(current, cf.RollbackStarted)) == len(current.rollbacks)
    assert current == RollbackState.model_validate_json(current.model_dump_json())


def test_a_rollback_is_dated_by_the_alert_not_by_its_delivery():
    decided = decision.decide_on_alert(state(), alert(raised_at=f.after(-9)), route(), cause(2), RULES)
    (todo,) = execution.pending(decided)
    assert todo.timeline.detected_at == f.after(-9)
    assert todo.timeline.decided_at - todo.timeline.detected_at == timedelta(seconds=11)


def play_updates(serving, seconds, now=None):
    """Return the record after a lasting alert on a route, updated every 15 s, and what was published."""
    now = now or state()
    for second in range(0, seconds, 15):
        lasting = alert(kind=cf.AlertUpdated)
        now = decision.decide_on_alert(now, lasting, serving, cause(second), RULES)
        for rollback in execution.pending(now):
            now = execution.record_failure(now, rollback.rollback_id, "no_previous_target", "No.", f.after(second))
    return now, [entry.type for entry in now.outbox]


def test_an_alert_without_a_target_to_roll_back_to_is_held_once_and_starts_when_there_is_one():
    alone = route(previous=None)
    held, published = play_updates(alone, 3600)
    assert published == [cf.RollbackFailed.TYPE], "not one each 15 s"
    assert (held.rollbacks, list(held.held.values())) == ((), ["no_previous_target"])
    lasting = alert(kind=cf.AlertUpdated)
    started = decision.decide_on_alert(held, lasting, route(previous=6), cause(3600), RULES)
    assert [rollback.phase for rollback in started.rollbacks] == ["decided"]


@pytest.mark.parametrize(("behind", "code"), [("not_ready", "previous_not_ready"), ("too_few", "too_few_replicas")])
def test_a_page_says_what_the_previous_version_lacks(behind, code):
    about = cause()
    paged = decision.decide_on_alert(state(), alert(), route(), about, RULES, standby=Standby(behind, "it is so"))
    (failed,) = published(paged, cf.RollbackFailed)
    assert (failed.code, failed.reason, execution.pending(paged)) == (code, "it is so", ())


def test_a_failed_canary_ends_though_there_is_nothing_behind_the_active_version():
    serving = route(active=6, previous=None, canary=7)
    after = decision.decide_on_alert(state(), alert(), serving, cause(), RULES)
    assert [str(rollback.failed) for rollback in after.rollbacks] == [str(f.target(7))]
