"""Killed between any two steps and started again, the controller ends where it would have ended undisturbed.

Repeated deaths, and those in anything else than one rollback by an alert: `tests/world`.
"""

import asyncio

import pytest

from contracts import facts as cf
from decisions.routes.edits import promote
from testbed import factories as f
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World


async def by_alert(world):
    """An alert, told again while it lasts, and requests on the version behind."""
    world.serve()
    world.open_releases(6, 7)
    await asyncio.sleep(10)
    world.publish(world.alert(), event_id="a-1")
    for number in range(3):
        await asyncio.sleep(6)
        world.publish(world.alert(kind=cf.AlertUpdated), event_id=f"a-1-{number}")
    for _ in range(4):
        world.requests(6)
        await asyncio.sleep(4)


ALERT = f"{f.target(7)}/slow/1"
PUBLISHED = [fact.TYPE for fact in (cf.DeploymentChanged, cf.RollbackCompleted, cf.RollbackStarted)]


async def play(*kills):
    """Play the story to its end; processes die at the given steps of their lives. Return the world."""
    world = World(sweep_s=5.0)
    running = asyncio.create_task(world.keep_running(*kills))
    await by_alert(world)
    await asyncio.sleep(75)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await world.stop()
    world.check()
    return world


def test_killed_at_any_step_it_ends_like_one_that_lived():
    undisturbed = run_virtual(play())
    expected, steps = undisturbed.outcome(), undisturbed.life.steps
    assert (expected["route"].active.target, expected["ends"]) == (f.target(6), [(ALERT, "completed", "pass", None)])
    assert [kind for kind, _ in expected["published"]] == PUBLISHED
    assert expected["outbox"] == ()
    assert expected["unacknowledged"] == expected["dead_letters"] == []
    quiet = ("MemoryRecords.keys", "MemoryRecords.get")
    eventful = [number for number, name in enumerate(steps, start=1) if not name.endswith(quiet)]
    assert len(eventful) > 5
    for kill_at in eventful:
        world = run_virtual(play(kill_at))
        assert world.outcome() == expected, f"killed at step {kill_at} of {len(steps)}: {steps[kill_at - 1]}"


@pytest.mark.parametrize("later", ["promoted", "lifted"])
def test_a_switch_that_was_not_recorded_is_no_failure_when_the_route_has_changed_since(later):
    """The process dies after the switch; before it is back, another change gives the route another cause."""

    async def story():
        world = World()
        world.serve()
        world.open_releases(7)
        world.start(kill_at="after FakeRoutes.put")
        world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7)), event_id="a-1")
        await world.life.ended.wait()
        await world.stop()
        route = world.route()
        if later == "promoted":
            world.routes.set("production", promoted(route, 8))
        else:
            lifting = cf.QuarantineLifted(reason="false alarm", target=f.target(7))
            world.publish(lifting, event_id="l-1")
        world.start()
        await asyncio.sleep(60)
        await world.stop()
        world.check()
        return world

    world = run_virtual(story())
    assert world.log.facts(cf.RollbackFailed) == []
    (completed,) = world.log.facts(cf.RollbackCompleted)
    assert (completed.failed, completed.verdict) == (f.target(7), "inconclusive")
    (changed,) = (fact for fact in world.log.facts(cf.DeploymentChanged) if fact.cause == "rollback")
    assert (changed.route.cause_id, changed.route.active.target) == (completed.rollback_id, f.target(6))
    assert completed.to == f.target(6)
    assert [kind for kind, _ in world.published()].count(cf.DeploymentChanged.TYPE) == 1 + (later == "lifted")


def promoted(route, version):
    return promote(route, f.served(version), weight_ratio=1.0, epoch=route.epoch, cause_id="p-8").route
