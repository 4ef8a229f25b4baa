"""What the shadow of a suspended version showed: confirmed is quarantined, any other verdict is written down."""

import asyncio

import pytest

from contracts import facts as cf
from decisions.routes.edits import promote
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
TRIGGERS = (f.trigger(name="slow"), ERRORS)


async def left(trigger="errors", **about) -> World:
    world = World()
    world.serve()
    world.open_releases(6, 7, triggers=TRIGGERS)
    world.start()
    await asyncio.sleep(1)
    world.publish(world.alert(trigger=trigger, **about))
    await asyncio.sleep(1)
    return world


def judged(world, verdict, **changes):
    about = {"target": f.target(7), "trigger": "errors", "reason": "3 of 90 were bad."}
    since = world.route().suspended[0].since
    return cf.SuspensionJudged(verdict=verdict, **about | {"since": since} | changes)


@pytest.mark.parametrize(
    ("trigger", "answers_nothing", "judged_by"),
    [("errors", False, "errors"), ("slow", False, ""), ("errors", True, "")],
)
@virtual_time
async def test_the_route_names_the_trigger_that_a_shadow_can_judge(trigger, answers_nothing, judged_by):
    world = await left(trigger, answers_nothing=answers_nothing)
    (entry,) = world.route().suspended
    assert (entry.trigger, world.route().judged is not None) == (judged_by, bool(judged_by))
    await world.stop()


@virtual_time
async def test_a_confirmed_version_is_quarantined():
    world = await left()
    world.publish(judged(world, "confirmed"))
    await asyncio.sleep(1)
    route = world.route()
    assert (route.active.target, route.suspended, route.quarantined) == (f.target(6), (), (f.target(7),))
    assert [fact.cause for fact in world.log.facts(cf.DeploymentChanged)] == ["rollback", "confirm"]
    await world.stop()


@pytest.mark.parametrize("verdict", ["cleared", "undecided"])
@virtual_time
async def test_another_verdict_is_written_down_and_a_person_returns_the_version(verdict):
    world = await left()
    world.publish(judged(world, verdict))
    await asyncio.sleep(1)
    (entry,) = world.route().suspended
    assert (entry.verdict, entry.evidence, world.route().active.target) == (verdict, "3 of 90 were bad.", f.target(6))
    world.publish(cf.SuspensionDecided(target=f.target(7), reason="cleared", decision="return", at_once=True))
    await asyncio.sleep(1)
    assert (world.route().active.target, world.route().suspended) == (f.target(7), ())
    assert [fact.cause for fact in world.log.facts(cf.DeploymentChanged)] == ["rollback", "judge", "return"]
    await world.stop()


@virtual_time
async def test_a_cleared_version_returns_by_itself_once_and_then_a_person_lets_it():
    world = await left()
    world.publish(judged(world, "cleared", returns=True))
    await asyncio.sleep(1)
    (entry,) = world.route().suspended
    assert (entry.verdict, bool(entry.returned_by)) == ("cleared", True)
    back = world.route()
    order = {"weight_ratio": 1.0, "epoch": back.epoch, "cause_id": "return"}
    world.routes.set("production", promote(back, f.served(7), **order).route)
    await asyncio.sleep(60)
    world.publish(world.alert(trigger="errors", number=2))
    await asyncio.sleep(1)
    world.publish(judged(world, "cleared", returns=True))
    await asyncio.sleep(1)
    (entry,) = world.route().suspended
    assert (entry.verdict, entry.returned_by) == ("cleared", "")
    world.publish(cf.SuspensionDecided(target=f.target(7), reason="it was the load", decision="return"))
    await asyncio.sleep(1)
    (entry,) = world.route().suspended
    assert (bool(entry.returned_by), world.route().active.target) == (True, f.target(6))
    assert [fact.cause for fact in world.log.facts(cf.DeploymentChanged)][-1] == "judge"
    await world.stop()


def finished(outcome="expired", code=None, returned_by=""):
    return cf.ReleaseFinished(
        release_id="r-7",
        model=f.MODEL,
        version=7,
        outcome=outcome,
        code=code,
        reason="no traffic",
        returned_by=returned_by,
    )


@pytest.mark.parametrize(
    ("fact", "suspended"),
    [
        (finished(), True),
        (finished("aborted", "gate_failed"), False),
        (cf.CanaryAssessed(target=f.target(7), weight_ratio=0.2, requests=9, verdict="fail", reason="worse"), False),
    ],
)
@virtual_time
async def test_a_canary_that_returns_is_suspended_again_without_a_verdict_and_quarantined_if_it_fails(fact, suspended):
    world = await left()
    world.publish(judged(world, "cleared", returns=True))
    await asyncio.sleep(1)
    back = world.route()
    order = {"weight_ratio": 0.2, "epoch": back.epoch, "cause_id": "return"}
    world.routes.set("production", promote(back, f.served(7), **order).route)
    if isinstance(fact, cf.ReleaseFinished):
        fact = fact.model_copy(update={"returned_by": back.suspended[0].returned_by})
    world.publish(fact)
    await asyncio.sleep(1)
    route = world.route()
    assert (route.active.target, route.canary.weight_ratio) == (f.target(6), 0.0)
    assert [(entry.served.target, entry.verdict) for entry in route.suspended] == [(f.target(7), "cleared")] * suspended
    assert route.quarantined == (f.target(7),) * (not suspended)
    await world.stop()


@virtual_time
async def test_of_a_version_whose_release_ends_before_its_canary_a_person_is_asked():
    world = await left()
    world.publish(judged(world, "cleared", returns=True))
    await asyncio.sleep(1)
    world.publish(finished("superseded", returned_by=world.route().suspended[0].returned_by))
    await asyncio.sleep(1)
    (entry,) = world.route().suspended
    assert (entry.verdict, entry.returned_by, world.route().active.target) == ("cleared", "", f.target(6))
    assert [fact.cause for fact in world.log.facts(cf.DeploymentChanged)] == ["rollback", "judge", "abort"]
    await world.stop()


@pytest.mark.parametrize("weight", [0.0, 0.2])
@pytest.mark.parametrize(("ended", "goes_on"), [("an earlier return", True), ("", True), (None, False)])
@virtual_time
async def test_the_late_end_of_an_earlier_release_ends_no_return_and_that_of_a_lost_one_does(weight, ended, goes_on):
    world = await left()
    world.publish(judged(world, "cleared", returns=True))
    await asyncio.sleep(1)
    route = world.route()
    if weight:
        route = promote(route, f.served(7), weight_ratio=weight, epoch=route.epoch, cause_id="return").route
        world.routes.set("production", route)
    world.publish(finished("aborted", returned_by=ended))
    await asyncio.sleep(1)
    assert (world.route() == route) == goes_on
    await world.stop()


@virtual_time
async def test_a_verdict_on_an_earlier_suspension_comes_too_late():
    world = await left()
    late = judged(world, "confirmed", since=f.after(-60))
    world.publish(late)
    await asyncio.sleep(1)
    assert (world.route().quarantined, len(world.route().suspended)) == ((), 1)
    await world.stop()
