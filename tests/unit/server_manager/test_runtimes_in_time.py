"""Two endpoints in virtual time, one of which is down for long: what does not need it goes on within seconds."""

import asyncio
import tempfile
from pathlib import Path

from contracts import facts as cf
from contracts.vocabulary import ServingSettings
from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.factories import (
    deployable,
    release_finished,
    route,
    stage_released,
    stage_requested,
    traffic_requested,
)
from tests.unit.server_manager.fleet_world import FleetWorld
from tests.unit.server_manager.world import with_settings

NEXT = ServingSettings(runtime="next")
TEN_MINUTES = 600.0
"""Several times the limit while another order waits."""


def in_time(story):
    async def play():
        with tempfile.TemporaryDirectory() as folder:
            world = FleetWorld(Path(folder), "next")
            world.routes.routes["bot"] = route(1, 0)
            running = [asyncio.create_task(world.keep_running()), asyncio.create_task(world.watch())]
            await asyncio.sleep(20)
            await story(world)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await world.stop()
            assert world.violations == []

    run_virtual(play())


def staged(world, event):
    return [fact for fact in world.answers(event) if isinstance(fact, cf.VariantStaged)]


async def first(world, event, limit_s):
    """Wait until an order is answered; return the fact and the seconds."""
    began = world.clock.monotonic()
    while not world.answers(event):
        assert world.clock.monotonic() - began < limit_s, f"{event.id} was not answered within {limit_s:g} s"
        await asyncio.sleep(0.5)
    return world.answers(event)[0], world.clock.monotonic() - began


def test_staging_goes_on_while_a_lease_waits_for_an_endpoint_that_died_and_that_one_ends_when_it_is_back():
    async def story(world):
        on_next = world.publish(with_settings(stage_requested("s1", 2, 1), "candidate", NEXT))
        await asyncio.sleep(1.5)
        assert world.record().lease.lease_id == "s1"
        world.engines["next"].down = True
        await asyncio.sleep(10)
        other = world.publish(stage_requested("s2", 3, 1, release="r2"))
        _, seconds = await first(world, other, 30.0)
        assert seconds < 15.0
        third = world.publish(stage_requested("s3", 4, 1, release="r3"))
        await asyncio.sleep(30)
        assert world.answers(third) == [], "one lease at a time"
        world.publish(stage_released(3, release="r2"))
        await first(world, third, 30.0)
        assert world.answers(on_next) == []
        world.publish(release_finished("r3"))
        world.engines["next"].restart()
        fact, _ = await first(world, on_next, 30.0)
        assert isinstance(fact, cf.VariantStaged)

    in_time(story)


def test_an_order_for_an_endpoint_that_died_holds_up_no_staging_and_is_refused_at_its_deadline():
    async def story(world):
        world.engines["next"].down = True
        await asyncio.sleep(10)
        order = world.publish(with_settings(traffic_requested("t2", 2, epoch=1, release="r2"), "target", NEXT))
        await asyncio.sleep(5)
        other = world.publish(stage_requested("s3", 3, 1, release="r3"))
        _, seconds = await first(world, other, 30.0)
        assert seconds < 15.0
        refused, _ = await first(world, order, 200.0)
        assert isinstance(refused, cf.PromotionRefused)
        assert "runtime next does not answer" in refused.reason

    in_time(story)


def test_a_staged_lease_on_an_endpoint_that_died_fails_when_another_has_waited_for_the_limit():
    async def story(world):
        on_next = world.publish(with_settings(stage_requested("s1", 2, 1), "candidate", NEXT))
        await first(world, on_next, 30.0)
        world.engines["next"].down = True
        await asyncio.sleep(TEN_MINUTES)
        assert len(world.answers(on_next)) == 1, "alone it keeps its lease: the measurement has limits of its own"
        other = world.publish(stage_requested("s2", 3, 1, release="r2"))
        await first(world, other, 30.0)
        failed = world.answers(on_next)[1]
        assert isinstance(failed, cf.VariantFailed)
        assert failed.code == "endpoint_unreachable"

    in_time(story)


def test_a_short_outage_costs_a_lease_nothing_when_it_is_alone():
    async def story(world):
        event = world.publish(with_settings(stage_requested("s1", 2, 1), "candidate", NEXT))
        await asyncio.sleep(1.5)
        world.engines["next"].down = True
        await asyncio.sleep(8)
        assert world.record().lease.lease_id == "s1"
        world.engines["next"].restart()
        fact, _ = await first(world, event, 30.0)
        assert isinstance(fact, cf.VariantStaged)
        assert fact.candidate.target == deployable(2).target

    in_time(story)
