"""The previous target is asked for a token every few seconds: a rollback finds it ready, and asks nothing."""

import asyncio

from services.rollback_controller.adapters.probes import FRESH_S, RememberedProbe
from testbed import factories as f
from tests.kit.fakes_rollback import FakeProbe
from tests.kit.fakes_serving import FakeClock
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World


def test_what_is_behind_the_active_version_is_asked_before_anything_goes_wrong():
    async def scenario():
        world = World()
        world.probes_standby = True
        world.serve()
        world.open_releases(6, 7)
        world.start()
        await asyncio.sleep(2 * FRESH_S)
        assert len(world.probe.asked) >= 3
        assert set(world.probe.asked) == {str(f.target(6))}
        await world.stop()

    run_virtual(scenario())


async def test_a_proof_of_one_replica_is_none_of_two():
    clock, inner = FakeClock(), FakeProbe()
    probe, served = RememberedProbe(inner, clock), f.served(6, endpoints=("a:1", "b:1"))
    assert [await probe.answered(served, least) for least in (1, 1, 2, 2, 1)] == [None] * 5
    assert len(inner.asked) == 2, "once for one, once for both"
    clock.seconds = 9.0
    inner.gone.add("b:1")
    assert await probe.answered(served, 2) is None
    clock.seconds = 11.0
    assert await probe.answered(served, 2) is not None
    assert await probe.answered(served) is None
