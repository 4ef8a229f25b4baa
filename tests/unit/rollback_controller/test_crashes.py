"""Killed between any two steps and started again, the controller ends where it would have ended undisturbed.

Repeated deaths, and those in a canary, a shadow, a drill or a lifted quarantine: `tests/world`.
"""

import asyncio

import pytest

from contracts import facts as cf
from decisions.routes.edits import promote
from testbed import factories as f
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World

LATER_S = 75.0
"""Longer than a fact waits whose process dies four times with it: no later fact overtakes it."""


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


async def without_traffic(world):
    """An alert, and nothing to verify the rollback by."""
    world.serve()
    world.open_releases(7)
    await asyncio.sleep(10)
    world.publish(world.alert(), event_id="a-1")


async def by_order(world):
    """An operator's order, two versions back, and a second one that is void by then."""
    world.serve()
    await asyncio.sleep(10)
    about = {"reason": "odd", "failed": f.target(7)}
    world.publish(cf.RollbackOrdered(**about, to_version=5), event_id="o-1")
    await asyncio.sleep(LATER_S)
    world.publish(cf.RollbackOrdered(**about), event_id="o-2")


async def decided(world):
    """An alert suspends a version; a person gives it its traffic again, then orders the same of another."""
    world.serve()
    world.open_releases(7)
    await asyncio.sleep(10)
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(LATER_S)
    about = {"reason": "false alarm", "decision": "return", "at_once": True}
    world.publish(cf.SuspensionDecided(target=f.target(7), **about), event_id="s-1")
    await asyncio.sleep(LATER_S)
    world.publish(cf.SuspensionDecided(target=f.target(4), **about), event_id="s-2")


async def judged(world):
    """An alert suspends a version, and its shadow confirms that it was the cause; then it says so again."""
    world.serve()
    world.open_releases(7)
    await asyncio.sleep(10)
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(LATER_S)
    since = world.route().suspended[0].since
    about = {"target": f.target(7), "trigger": "slow", "reason": "30 of 90 were bad."}
    for event_id in ("j-1", "j-2"):
        world.publish(cf.SuspensionJudged(since=since, verdict="confirmed", **about), event_id=event_id)
        await asyncio.sleep(LATER_S)


async def unloaded_previous(world):
    """The version behind does not generate, and that is all."""
    world.serve()
    world.open_releases(7)
    world.probe.unloaded.add(str(f.target(6)))
    await asyncio.sleep(10)
    world.publish(world.alert(), event_id="a-1")


STORIES = [by_alert, without_traffic, by_order, decided, judged, unloaded_previous]
ALERT = f"{f.target(7)}/slow/1"
STARTED, SWITCHED, COMPLETED, FAILED, REFUSED, ACCEPTED = (
    fact.TYPE
    for fact in (
        cf.RollbackStarted,
        cf.DeploymentChanged,
        cf.RollbackCompleted,
        cf.RollbackFailed,
        cf.OrderRefused,
        cf.OrderAccepted,
    )
)
ENDS = {
    by_alert: (6, [(ALERT, "completed", "pass", None)], [SWITCHED, COMPLETED, STARTED]),
    without_traffic: (6, [(ALERT, "completed", "inconclusive", None)], [SWITCHED, COMPLETED, STARTED]),
    by_order: (
        5,
        [("o-1", "completed", "inconclusive", None), ("o-2", "failed", None, "not_in_traffic")],
        [SWITCHED, COMPLETED, FAILED, STARTED],
    ),
    decided: (
        7,
        [(ALERT, "completed", "inconclusive", None)],
        [SWITCHED, SWITCHED, ACCEPTED, REFUSED, COMPLETED, STARTED],
    ),
    judged: (6, [(ALERT, "completed", "inconclusive", None)], [SWITCHED, SWITCHED, COMPLETED, STARTED]),
    unloaded_previous: (7, [], [FAILED]),
}
"""What each story ends in: the version that serves, the rollbacks, what was published."""


async def play(story, *kills):
    """Play a story to its end; processes die at the given steps of their lives. Return the world."""
    world = World(sweep_s=5.0)
    running = asyncio.create_task(world.keep_running(*kills))
    await story(world)
    await asyncio.sleep(75)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await world.stop()
    world.check()
    return world


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_killed_at_any_step_it_ends_like_one_that_lived(story):
    undisturbed = run_virtual(play(story))
    expected, steps = undisturbed.outcome(), len(undisturbed.life.steps)
    version, ends, published = ENDS[story]
    assert (expected["route"].active.target, expected["ends"]) == (f.target(version), ends)
    assert [kind for kind, _ in expected["published"]] == published
    assert expected["outbox"] == ()
    assert expected["unacknowledged"] == expected["dead_letters"] == []
    eventful = [
        number
        for number, name in enumerate(undisturbed.life.steps, start=1)
        if not name.endswith(("MemoryRecords.keys", "MemoryRecords.get"))
    ]
    assert len(eventful) > 5
    for kill_at in eventful:
        world = run_virtual(play(story, kill_at))
        assert world.outcome() == expected, (
            f"killed at step {kill_at} of {steps}: {undisturbed.life.steps[kill_at - 1]}"
        )


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
