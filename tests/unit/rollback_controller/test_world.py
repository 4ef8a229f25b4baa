"""The checks that the stories of the rollback-controller rely on: each finds what it looks for."""

import asyncio
from dataclasses import replace

import pytest

from contracts import facts as cf
from testbed import factories as f
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World


async def rolled_back() -> World:
    world = World()
    world.serve()
    world.open_releases(6, 7)
    world.start()
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(1)
    world.requests(6)
    await asyncio.sleep(1)
    await world.stop()
    world.check()
    world.check_ends()
    return world


def stored(world, kind):
    """Return the one message of the log with a fact of this type."""
    (message,) = (message for message in world.log.stored if isinstance(message.event.data, kind))
    return message


def forget(world, kind):
    world.log.stored.remove(stored(world, kind))


def repeat(world, **changes):
    """Write the present route again, with the next epoch and these changes."""
    route = world.route()
    world.routes.set("production", route.model_copy(update={"epoch": route.epoch + 1, "cause_id": "x"} | changes))


def end_again(world):
    completed = stored(world, cf.RollbackCompleted)
    about = {field: getattr(completed.event.data, field) for field in ("rollback_id", "cause_id", "failed", "mode")}
    failed = f.fact(cf.RollbackFailed, **about)
    event = completed.event.model_copy(update={"id": "another", "type": cf.RollbackFailed.TYPE, "data": failed})
    world.log.stored.append(replace(completed, event=event))


def announce_another_route(world):
    changed = stored(world, cf.DeploymentChanged)
    other = changed.event.data.model_copy(update={"route": world.route().model_copy(update={"epoch": 99})})
    forget(world, cf.DeploymentChanged)
    world.log.stored.append(replace(changed, event=changed.event.model_copy(update={"data": other})))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: world.log.stored.append(stored(world, cf.RollbackStarted)),
        lambda world: repeat(world, epoch=13),
        lambda world: repeat(world, active=f.served(7)),
        lambda world: repeat(world, canary=share(7)),
        lambda world: repeat(world, cause_id=world.route().cause_id),
    ],
    ids=["a fact twice", "an epoch twice", "a quarantined target serves", "as a canary", "a switch twice"],
)
def test_what_must_hold_at_any_time_is_checked(spoil):
    world = run_virtual(rolled_back())
    spoil(world)
    with pytest.raises(AssertionError):
        world.check()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: forget(world, cf.RollbackCompleted),
        end_again,
        lambda world: repeat(world, cause_id="rb-of-nothing"),
        lambda world: forget(world, cf.DeploymentChanged),
        announce_another_route,
    ],
    ids=[
        "no end",
        "two ends",
        "a switch without an end",
        "a switch that is not announced",
        "announced as another route",
    ],
)
def test_what_each_rollback_ends_in_is_checked(spoil):
    world = run_virtual(rolled_back())
    spoil(world)
    with pytest.raises(AssertionError):
        world.check_ends()


def share(version):
    return f.CanaryShare(served=f.served(version), weight_ratio=0.2)
