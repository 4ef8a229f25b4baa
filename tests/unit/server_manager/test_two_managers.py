"""Several processes of server-manager before one engine, in virtual time: one acts at a time, and each order is answered once."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

from contracts.facts import VariantStaged
from tests.kit.fakes_serving import LEASE_S
from tests.kit.virtual_time import virtual_time
from tests.unit.server_manager.factories import route, stage_requested, traffic_requested
from tests.unit.server_manager.fleet_world import FleetWorld, target


@contextlib.asynccontextmanager
async def fleet(processes: int):
    """Start processes that are started again when they die; at the end nothing may have been violated."""
    with tempfile.TemporaryDirectory() as folder:
        world = FleetWorld(Path(folder))
        running = [asyncio.create_task(world.watch())]
        for _ in range(processes):
            running.append(asyncio.create_task(world.keep_running()))
            await asyncio.sleep(0.7)
        yield world
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await world.stop()
        assert world.violations == []


async def longest_gap_s(world, during_s: float) -> float:
    """Return the longest time between two renewals of the lease."""
    seen, since, longest = world.lease.revision, world.clock.monotonic(), 0.0
    while during_s > 0:
        await asyncio.sleep(0.1)
        during_s -= 0.1
        longest = max(longest, world.clock.monotonic() - since)
        if world.lease.revision != seen:
            seen, since = world.lease.revision, world.clock.monotonic()
    return longest


@virtual_time
async def test_a_silent_log_of_facts_does_not_delay_the_renewal_of_the_lease():
    async with fleet(1) as world:
        world.routes.routes["bot"] = route(1, 0)
        await asyncio.sleep(20)
        stored = len(world.log.log)
        world.log.silent = True
        world.publish(traffic_requested("t1", 2, epoch=9))
        world.engine.dead.add(target(1))
        assert await longest_gap_s(world, 120) < LEASE_S - 2
        assert target(1) in world.ready(), "what died is healed meanwhile"
        world.log.silent = False
        await asyncio.sleep(60)
        assert sorted(type(emit.fact).__name__ for emit in world.log.log[stored:]) == [
            "AlertRaised",
            "AlertResolved",
            "PromotionRefused",
        ]


@virtual_time
async def test_a_clock_that_went_back_makes_no_load_last_less_than_nothing():
    async with fleet(1) as world:
        world.routes.routes["bot"] = route(1, 0)
        await asyncio.sleep(20)
        world.publish(stage_requested("s1", 2, 1))
        await asyncio.sleep(2)
        world.process.clock.jump(-3600.0)
        await asyncio.sleep(20)
        (staged,) = [emit.fact for emit in world.log.log if isinstance(emit.fact, VariantStaged)]
        assert staged.load_s >= 0


@virtual_time
async def test_an_engine_that_hangs_leaves_the_lease_with_its_holder_and_is_alerted():
    async with fleet(2) as world:
        world.routes.routes["bot"] = route(1, 0)
        await asyncio.sleep(20)
        holder = world.lease.leader.holder
        world.engine.hanging = True
        for _ in range(60):
            await asyncio.sleep(1)
            assert world.lease.leader.holder == holder
        assert "engine-bot.v1.bf16" in {alert.alert_id for alert in world.record().alerts}
        world.engine.hanging = False
        await asyncio.sleep(30)
        assert world.record().alerts == ()
        assert world.ready() == {target(0), target(1)}
