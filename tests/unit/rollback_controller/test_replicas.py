"""Two replicas carry out one rollback: what became of the route is what is published. Replicas of targets."""

import asyncio

import pytest

from contracts import facts as cf
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World


@pytest.mark.parametrize(("gone", "answers_nothing", "active"), [(1, False, 6), (2, False, 7), (2, True, 6)])
@virtual_time
async def test_half_of_the_replicas_of_the_previous_version_have_to_generate(gone, answers_nothing, active):
    hosts = tuple(f"host-{number}:8001" for number in range(4))
    world = World()
    world.routes.set(
        "production",
        f.route(
            active=f.served(7, endpoints=hosts),
            previous=f.served(6, endpoints=hosts[:3]),
            canary=None,
            quarantined=(),
            suspended=(),
        ),
    )
    world.open_releases(6, 7)
    world.start()
    world.probe.gone.update(hosts[:gone])
    await asyncio.sleep(1)
    world.publish(world.alert(answers_nothing=answers_nothing))
    await asyncio.sleep(1)
    assert world.route().active.target == f.target(active)
    codes = [failed.code for failed in world.log.facts(cf.RollbackFailed)]
    assert codes == ["too_few_replicas"] * (active == 7)
    await world.stop()


@virtual_time
async def test_what_became_the_previous_version_while_another_was_asked_is_asked_itself():
    world = World()
    world.serve()
    world.open_releases(5, 6, 7)
    world.start()
    await asyncio.sleep(1)
    world.probe.takes_s = 1.0
    world.probe.unloaded.add(str(f.target(6)))
    world.publish(world.alert())
    await asyncio.sleep(0.5)
    world.serve(7, 5, history=(), epoch=world.route().epoch + 1)
    await asyncio.sleep(60)
    assert (world.route().active.target, world.log.facts(cf.RollbackFailed)) == (f.target(5), [])
    await world.stop()
