"""The manager as a process in virtual time, killed at each step of a promotion. All else that can go wrong: `tests/world`."""

import asyncio
import tempfile
from pathlib import Path

from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.factories import traffic_requested
from tests.unit.server_manager.fleet_world import FleetWorld


async def one_promotion(world):
    """A version is promoted, and nothing else happens."""
    world.publish(traffic_requested("t1", 1))


async def play(story, *kills):
    with tempfile.TemporaryDirectory() as folder:
        world = FleetWorld(Path(folder))
        running = [asyncio.create_task(world.keep_running(*kills)), asyncio.create_task(world.watch())]
        await asyncio.sleep(0)
        await story(world)
        await asyncio.sleep(12)
        busy = world.processes[0].life.steps[:] if world.processes else []
        await asyncio.sleep(18)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        ready = world.ready()
        await world.stop()
        assert world.violations == []
        assert world.deaths == len(kills)
        return world, ready, busy


def outcome(world, ready):
    """Return the end of it all, without times and the alerts about the outage of the process itself."""
    record = world.record()
    return {
        "ready": ready,
        "routes": {model: (route.epoch, route.cause_id) for model, route in world.routes.routes.items()},
        "answers": {event.id: [type(fact).__name__ for fact in world.answers(event)] for event in world.published},
        "open": (record.orders, record.waiting, record.lease and record.lease.state, record.outbox),
        "unacknowledged": world.streams.unacknowledged(),
    }


QUIET = ("FaultyRecords.get", "FakeLead.hold", "FakeLead.confirm", "EngineClient.index", "FakeRoutes.all", "keep_only")


def steps_that_change(steps):
    """Return the numbers of the steps that write, publish, load, unload, fetch or probe, before and after each."""
    return [number for number, name in enumerate(steps, start=1) if not name.endswith(QUIET)]


def test_killed_at_every_step_of_a_promotion_that_changes_something_it_ends_like_one_that_lived():
    world, ready, steps = run_virtual(play(one_promotion))
    expected, numbers = outcome(world, ready), steps_that_change(steps)
    assert any(steps[number - 1] == "after SlowLog.publish" for number in numbers)
    for kill_at in numbers:
        world, ready, _ = run_virtual(play(one_promotion, kill_at))
        assert outcome(world, ready) == expected, f"killed at step {kill_at}: {steps[kill_at - 1]}"
