"""Orders of people about a release: pausing commutes with everything and blocks no rollback; refusals; denials."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as f
from contracts.policy import Canary, Promotion
from services.registry.domain import deadlines
from services.registry.domain.orders import assess_order
from services.registry.domain.record import DeadlineReached, Input, Release
from services.registry.domain.release_holds import begins_step
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k
from tests.kit.soak import often
from tests.unit.registry.histories import CAREFUL, HISTORIES, NOW, REHEARSED, emitted, inputs, walk

PATIENT = k.careful_policy(promotion=Promotion(mode="manual"), canary=Canary(steps=(0.1, 0.5), on_deadline="promote"))


def hold(paused, seconds, sender="oscar"):
    fact = f.ReleaseHeld(release_id=k.RELEASE, paused=paused, reason="wait")
    return Input(f"hold-{seconds}", k.START + timedelta(seconds=seconds), fact, sender=sender)


PAUSE, RESUME = hold(paused=True, seconds=100), hold(paused=False, seconds=200)


def stored(release):
    """The release as another process reads it after a crash."""
    return Release.model_validate_json(release.model_dump_json())


def without_holds(release):
    times = {name: at for name, at in release.times.items() if not name.startswith(("paused", "resumed"))}
    applied = tuple(name for name in release.applied if not name.startswith("hold-"))
    return release.model_copy(update={"outbox": (), "hold": None, "times": times, "applied": applied, "finished": None})


@pytest.mark.parametrize("name", ["straight", "careful", "rehearsed"])
@given(data=st.data())
@settings(max_examples=often(25), deadline=None)
def test_a_pause_and_its_end_change_nothing_but_when_whatever_the_order_the_copies_and_the_crashes(name, data):
    opening, received = HISTORIES[name]
    at = data.draw(st.integers(0, len(received)))
    ending = [PAUSE, RESUME] if data.draw(st.booleans()) else [RESUME, PAUSE]
    orders = data.draw(st.permutations([*ending, *data.draw(st.lists(st.sampled_from(ending), max_size=2))]))
    release = open_release(opening, cause_id="e0", now=k.START).release
    for each in (*received[:at], *orders, *received[at:]):
        release = stored(decide(release, each, NOW).release)
    expected = walk(opening, received)
    assert set(emitted(release)) == set(emitted(expected))
    assert without_holds(release) == without_holds(expected)


@given(data=st.data())
@settings(max_examples=often(25), deadline=None)
def test_while_it_is_paused_nothing_begins_and_what_happens_is_kept(data):
    opening, received = CAREFUL
    at = data.draw(st.integers(0, len(received)))
    paused = decide(walk(opening, received[:at]), PAUSE, NOW).release
    if paused.finished is not None:
        return
    before = set(emitted(paused))
    for each in received[at:]:
        paused = decide(paused, each, NOW).release
        begun = [key for key in set(emitted(paused)) - before if begins_step(key)]
        assert begun == [] or paused.finished is not None, "what was never asked for had been answered to the end"
    going_on = decide(paused, RESUME, NOW).release
    assert set(emitted(going_on)) == set(emitted(walk(opening, received)))


@given(at=st.integers(12, 15))
def test_a_pause_blocks_no_rollback(at):
    opening, received = CAREFUL
    paused = decide(walk(opening, received[:at]), PAUSE, NOW).release
    assert paused.is_paused
    back = k.route(k.target("bf16", 9), epoch=9, quarantined=(k.target("int8"),))
    ended = decide(paused, Input("rb", NOW, k.changed(back, "rollback")), NOW).release
    assert (ended.finished.outcome, ended.finished.code) == ("aborted", "quarantined")


@pytest.mark.parametrize("fact", [k.cancel(), k.assessed("int8", 0.1, "fail")])
def test_a_paused_canary_still_ends(fact):
    paused = decide(walk(CAREFUL[0], CAREFUL[1][:12]), PAUSE, NOW).release
    assert decide(paused, Input("x", NOW, fact, sender="oscar"), NOW).release.finished is not None


def test_a_paused_canary_that_passed_and_turns_bad_ends():
    paused = decide(walk(CAREFUL[0], CAREFUL[1][:12]), PAUSE, NOW).release
    passed = decide(paused, Input("v-1", NOW, k.assessed("int8", 0.1)), NOW).release
    assert passed.finished is None
    ended = decide(passed, Input("v-2", NOW, k.assessed("int8", 0.1, "fail")), NOW).release
    assert (ended.finished.outcome, ended.finished.code) == ("aborted", "gate_failed")
    late = decide(ended, Input("r", NOW, RESUME.data), NOW).release
    assert "traffic.requested:0.5" not in emitted(late)


def test_a_failure_that_comes_after_the_next_share_was_ordered_ends_nothing():
    going_on = decide(walk(CAREFUL[0], CAREFUL[1][:12]), Input("v-1", NOW, k.assessed("int8", 0.1)), NOW).release
    assert "traffic.requested:0.5" in emitted(going_on)
    after = decide(going_on, Input("v-2", NOW, k.assessed("int8", 0.1, "fail")), NOW).release
    assert (after.finished, after.assessed["0.1"].verdict) == (None, "pass")


def test_a_pause_stops_the_deadlines_and_its_end_begins_them_anew():
    release = walk(CAREFUL[0], CAREFUL[1][:12])
    usual = deadlines.deadline_at(release)
    paused = decide(release, PAUSE, NOW).release
    assert deadlines.deadline_at(paused) is None
    late = usual + timedelta(days=3)
    assert decide(paused, Input("d", late, DeadlineReached(step="canary")), late).release.finished is None
    going_on = decide(paused, RESUME, NOW).release
    assert deadlines.deadline_at(going_on) == RESUME.at + timedelta(seconds=CAREFUL[0].policy.canary.deadline_s)


ONLY_INT8 = inputs(k.merged(), k.quantised("int8"), k.written(), k.turn(), k.staged("int8"), k.benchmarked("int8"))
WITHOUT_REHEARSAL = k.opened(policy=k.policy(), variants=("int8",))
LEASES = {
    "int8": (WITHOUT_REHEARSAL, ONLY_INT8),
    "int8:rehearsal": (REHEARSED[0], REHEARSED[1][:10]),
}


@pytest.mark.parametrize("lease", LEASES)
def test_a_paused_release_holds_no_lease_once_it_was_measured_and_goes_on_without_one(lease):
    """Staging has one lease: other models wait for it. What serves is loaded by the order for traffic itself."""
    opening, (*received, last) = LEASES[lease]
    paused = decide(walk(opening, received), PAUSE, NOW).release
    assert f"stage.requested:{lease}" in emitted(paused)
    assert f"stage.released:{lease}" not in emitted(paused), "it is measured or rehearsed still"
    paused = decide(paused, last, NOW).release
    assert f"stage.released:{lease}" in emitted(paused)
    assert not any(key.startswith("traffic.requested") for key in emitted(paused))
    assert [k.key_of(entry) for entry in k.without_progress(decide(paused, RESUME, NOW).publish)] == [
        "traffic.requested:1"
    ]


def test_the_first_step_of_a_canary_is_for_those_that_the_policy_names_and_the_next_for_everyone():
    canary = Canary(steps=(0.5, 0.1), only_for=("team:staff",))
    opening = k.opened(policy=k.policy(canary=canary), variants=("int8",))
    first = walk(opening, [*ONLY_INT8[:3], replace(ONLY_INT8[3], data=k.turn(first=False, epoch=3)), *ONLY_INT8[4:]])
    route = k.route(k.target("bf16", 9), k.target("int8"), weight=0.5, epoch=4)
    begun = decide(first, Input("t-1", NOW, k.changed(route, "canary")), NOW).release
    onwards = decide(begun, Input("v-1", NOW, k.assessed("int8", 0.5)), NOW).release
    orders = {key: data.get("only_for") for key, (_, data) in emitted(onwards).items() if "traffic" in key}
    assert orders == {"traffic.requested:0.5": ["team:staff"], "traffic.requested:0.1": None}


def test_a_pause_gives_back_the_lease_that_a_canary_kept():
    opening = k.opened(policy=k.policy(canary=Canary(steps=(0.1,))), variants=("int8",))
    on_canary = walk(
        opening, [*ONLY_INT8[:3], replace(ONLY_INT8[3], data=k.turn(first=False, epoch=3)), *ONLY_INT8[4:]]
    )
    assert "traffic.requested:0.1" in emitted(on_canary)
    assert "stage.released:int8" not in emitted(on_canary)
    paused = decide(on_canary, PAUSE, NOW)
    assert [k.key_of(entry) for entry in k.without_progress(paused.publish)] == ["stage.released:int8"]
    assert k.without_progress(decide(paused.release, RESUME, NOW).publish) == []


WORK = ("merge", "quantise", "register", "stage", "benchmark", "evaluate")


@pytest.mark.parametrize("name", HISTORIES)
def test_workers_have_something_to_do_for_a_release_until_what_was_requested_before_its_pause_is_answered(name):
    opening, received = HISTORIES[name]
    held_back = []
    for at, following in enumerate(received):
        release = walk(opening, received[:at])
        assert deadlines.is_at_work(release) == (deadlines.awaited_step(release) in WORK)
        paused = decide(release, PAUSE, NOW).release
        assert deadlines.is_at_work(paused) == deadlines.is_at_work(release), "the pause itself frees no worker"
        before, paused = deadlines.awaited_step(paused), decide(paused, following, NOW).release
        awaited = deadlines.awaited_step(paused)
        if (before, awaited) in {("merge", "quantise"), ("queue", "stage")}:
            held_back.append(awaited)
            assert not deadlines.is_at_work(paused)
            assert deadlines.is_at_work(decide(paused, RESUME, NOW).release)
        for each in received[at + 1 :]:
            paused = decide(paused, each, NOW).release
        assert not deadlines.is_at_work(paused)
    assert held_back == ["quantise", "stage"]


# -- what applies -----------------------------------------------------------------------------------------------------


def held(paused):
    return f.ReleaseHeld(release_id=k.RELEASE, paused=paused)


def test_orders_that_do_not_fit_the_state_are_refused():
    open_one, ended = walk(CAREFUL[0], CAREFUL[1][:5]), walk(*CAREFUL)
    denial = f.ApprovalDenied(release_id=k.RELEASE, reason="no")
    approval = k.approval(k.ref("x").digest)
    for order in (held(True), held(False), denial, advance(), k.cancel(), approval):
        assert assess_order(None, order, "oscar").code == "not_applicable"
        assert "has ended as promoted" in assess_order(ended, order, "oscar").reason
    for paused in (True, False):
        for release in (open_one, decide(open_one, PAUSE, NOW).release):
            assert assess_order(release, held(paused), "oscar") is None, "an older order may come later"
    assert "does not wait" in assess_order(open_one, denial, "anna").reason


# -- denial -----------------------------------------------------------------------------------------------------------


def deny(release, sender="anna"):
    fact = f.ApprovalDenied(release_id=k.RELEASE, reason="It is rude.")
    return assess_order(release, fact, sender), decide(release, Input("n", NOW, fact, sender=sender), NOW).release


def test_a_release_that_waits_for_approval_is_rejected_by_a_person():
    refusal, ended = deny(walk(CAREFUL[0], CAREFUL[1][:10]))
    assert refusal is None
    assert (ended.finished.outcome, ended.finished.code) == ("rejected", "approval_denied")
    assert ended.finished.reason == "anna: It is rude."
    assert decide(ended, CAREFUL[1][10], NOW).publish == ()


def test_a_denial_after_traffic_was_ordered_changes_nothing():
    refusal, release = deny(walk(CAREFUL[0], CAREFUL[1][:11]))
    assert refusal.code == "not_applicable"
    assert release.finished is None


# -- early promotion --------------------------------------------------------------------------------------------------


def advance(weight=0.1):
    return f.CanaryAdvanced(release_id=k.RELEASE, weight_ratio=weight, reason="too little traffic")


def canary(policy, publishers=("paula",)):
    opening = k.opened(policy=policy).model_copy(update={"publishers": publishers})
    received = [
        Input(
            each.id,
            each.at,
            k.rehearsed(of=policy) if isinstance(each.data, f.RehearsalCompleted) else each.data,
            sender=each.sender,
        )
        for each in CAREFUL[1][:12]
    ]
    return walk(opening, received)


def objective(policy):
    return policy.model_copy(update={"objective": "cost"})


def test_a_canary_takes_the_next_share_early_only_where_the_policy_promotes_without_a_verdict():
    allowed, forbidden = (
        canary(objective(PATIENT)),
        canary(objective(PATIENT.model_copy(update={"canary": Canary(steps=(0.1, 0.5))}))),
    )
    assert "traffic.requested:0.1" in emitted(allowed)
    assert assess_order(allowed, advance(), "anna") is None
    assert assess_order(forbidden, advance(), "anna").code == "promotion_not_allowed"
    assert "has 0.1" in assess_order(allowed, advance(0.5), "anna").reason
    after = decide(allowed, Input("a", NOW, advance(), sender="anna"), NOW).release
    assert "traffic.requested:0.5" in emitted(after)
    held_back = decide(decide(allowed, PAUSE, NOW).release, Input("a", NOW, advance(), sender="anna"), NOW).release
    assert "traffic.requested:0.5" not in emitted(held_back)


def test_a_canary_with_a_bad_verdict_ends_although_it_was_advanced():
    after = decide(canary(objective(PATIENT)), Input("a", NOW, advance(), sender="anna"), NOW).release
    ended = decide(after, Input("v", NOW, k.assessed("int8", 0.1, "fail")), NOW).release
    assert ended.finished.outcome == "aborted"


def test_the_publisher_does_not_advance_a_canary_where_approvals_exclude_him():
    policy = objective(PATIENT).model_copy(
        update={"approvals": PATIENT.approvals.model_copy(update={"not_by_publisher": True})}
    )
    assert assess_order(canary(policy), advance(), "paula").code == "approver_is_publisher"
