"""Killed between any two steps and started again, the controller ends where it would have ended undisturbed.

Repeated deaths, and those in anything else than one rollback by an alert: `tests/world`.
"""

import asyncio

from contracts import facts as cf
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
