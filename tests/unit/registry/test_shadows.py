"""A shadow: a candidate is asked unseen before it takes traffic, and the verdict on that decides about its release."""

from datetime import timedelta

import pytest

from contracts.facts import CanaryAdvanced, DeadlinePassed, ReleaseHeld
from contracts.policy import Canary, Promotion, Shadow
from services.registry.domain.deadlines import awaited_step, deadline_at
from services.registry.domain.orders import assess_order
from services.registry.domain.record import DeadlineReached, Hold
from services.registry.domain.versions import plan_deployment_record
from tests.kit import fakes_registry as k
from tests.unit.registry.walks import Walk

OLD, NEW = k.target("int8", 9), k.target("int8")
SHADOWING = k.changed(k.route(OLD, shadow=NEW, epoch=8), "shadow")
HOLD = Hold(at=k.START, event_id="hold", sender="jonas", order=ReleaseHeld(release_id=k.RELEASE, paused=True))
CANARY = k.changed(k.route(OLD, NEW, weight=0.1, epoch=9), "canary")


def walk_to_shadow(**changes):
    policy = k.policy(canary=Canary(steps=(0.1,)), shadow=Shadow(share_ratio=0.3, **changes))
    walk = Walk(policy).to_verdict(k.turn(first=False, epoch=7))
    ordered = walk.last["traffic.requested:shadow"]
    assert (ordered["weight_ratio"], ordered["shadow_ratio"], ordered["epoch"]) == (0.0, 0.3, 7)
    assert list(walk.handle(SHADOWING)) == ["stage.released:int8"], "a shadow may last for hours; it holds no lease"
    return walk


def test_the_first_order_takes_no_traffic_and_the_canary_follows_a_pass():
    walk = walk_to_shadow()
    assert awaited_step(walk.release) == "shadow"
    assert walk.handle(k.shadow_assessed("int8", "inconclusive")) == {}
    following = walk.handle(k.shadow_assessed("int8"))
    assert list(following) == ["traffic.requested:0.1"]
    assert following["traffic.requested:0.1"]["epoch"] == 8
    assert "shadow_ratio" not in following["traffic.requested:0.1"]
    walk.handle(CANARY, k.assessed("int8", 0.1), k.changed(k.route(NEW, epoch=10)))
    assert walk.end.outcome == "promoted"
    steps = [step.step for step in walk.end.timeline]
    assert steps.index("deployed shadow") < steps.index("shadow assessed") < steps.index("deployed 0.1")


def test_a_failed_shadow_aborts_with_its_reason_and_no_share_was_ordered():
    walk = walk_to_shadow()
    emitted = walk.handle(k.shadow_assessed("int8", "fail"))
    assert list(emitted) == ["release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("aborted", "gate_failed")
    assert walk.end.reason == "The shadow failed before any caller was served: it was so unseen"
    assert not [key for key in walk.release.emitted if key.startswith("traffic.requested:0")]


def test_a_verdict_that_came_before_the_route_counts_once_the_shadow_has_begun():
    policy = k.policy(canary=Canary(steps=(0.1,)), shadow=Shadow())
    walk = Walk(policy).to_verdict(k.turn(first=False, epoch=7))
    assert walk.handle(k.shadow_assessed("int8")) == {}
    assert "traffic.requested:0.1" in walk.handle(SHADOWING)


def test_a_failure_replaces_a_pass_while_the_release_is_held_and_not_once_traffic_is_ordered():
    walk = walk_to_shadow()
    walk.handle(k.shadow_assessed("int8"), k.shadow_assessed("int8", "fail"))
    assert walk.end is None, "traffic was ordered because of the pass: the canary decides now"
    held = Walk(k.policy(canary=Canary(steps=(0.1,)), shadow=Shadow())).to_verdict(k.turn(first=False, epoch=7))
    held.handle(SHADOWING)
    held.release = held.release.model_copy(update={"hold": HOLD})
    assert held.handle(k.shadow_assessed("int8")) == {}
    held.handle(k.shadow_assessed("int8", "fail"))
    assert (held.end.outcome, held.end.code) == ("aborted", "gate_failed")


@pytest.mark.parametrize("rule", ["ask", "continue"])
def test_a_shadow_without_a_verdict_does_what_the_policy_says(rule):
    walk = walk_to_shadow(duration_s=10, deadline_s=50, on_deadline=rule)
    assert deadline_at(walk.release) == walk.now + timedelta(seconds=50)
    walk.now += timedelta(seconds=50)
    emitted = walk.handle(DeadlineReached(step="shadow"))
    assert walk.end is None
    assert ("traffic.requested:0.1" in emitted) == (rule == "continue")
    passed = DeadlinePassed.model_validate(emitted["deadline.passed:shadow"])
    assert passed.step == "shadow"
    if rule == "continue":
        assert "the policy goes on without it" in passed.waiting_for
        assert awaited_step(walk.release) == "traffic"
    else:
        assert "a person decides" in passed.waiting_for
        assert deadline_at(walk.release) is None
        order = CanaryAdvanced(release_id=k.RELEASE, weight_ratio=0.0, reason="too little traffic")
        assert assess_order(walk.release, order, "anna") is None
        assert "traffic.requested:0.1" in walk.handle(order)


def test_a_cancellation_ends_a_shadow():
    walk = walk_to_shadow()
    walk.handle(k.cancel())
    assert walk.end.outcome == "cancelled"


def test_a_shadow_that_was_rolled_back_or_fell_with_the_active_version_aborts():
    walk = walk_to_shadow()
    walk.handle(k.changed(k.route(OLD, epoch=9, quarantined=(NEW,)), "abort"))
    assert (walk.end.outcome, walk.end.code) == ("aborted", "quarantined")
    walk = walk_to_shadow()
    walk.handle(k.changed(k.route(k.target("int8", 8), epoch=9, quarantined=(OLD,)), "rollback"))
    assert (walk.end.outcome, walk.end.code) == ("aborted", "stale_epoch")
    walk = walk_to_shadow()
    walk.handle(k.changed(k.route(OLD, shadow=NEW, epoch=9), "restore"))
    assert walk.end is None, "it was only moved to another endpoint"


def test_the_first_release_of_a_model_has_no_shadow_and_an_approval_comes_before_one():
    first = Walk(k.policy(shadow=Shadow())).to_verdict()
    assert [key for key in first.last if key.startswith("traffic")] == ["traffic.requested:1"]
    manual = k.policy(shadow=Shadow(), promotion=Promotion(mode="manual"))
    asked = Walk(manual).to_verdict(k.turn(first=False, epoch=7))
    assert "traffic.requested:shadow" not in asked.last
    assert awaited_step(asked.release) == "approval"


def test_a_shadow_leaves_no_record_of_a_deployment_and_its_end_leaves_one_without_traffic():
    assert plan_deployment_record(SHADOWING, "c") is None
    ended = k.route(OLD, shadow=NEW, epoch=9, quarantined=(NEW,))
    ended = ended.model_copy(update={"shadow": ended.shadow.model_copy(update={"share_ratio": 0.0})})
    record = plan_deployment_record(k.changed(ended, "abort"), "c")
    assert (record.target, record.weight_ratio, record.cause) == (NEW, 0.0, "abort")
