"""Rollbacks that a process decided and left pending when it died: the next one looks again before it moves traffic."""

import asyncio

import pytest

from contracts import facts as cf
from decisions.routes.edits import move, promote
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World


async def left_pending(*facts, endpoints=None) -> World:
    """Return a world whose process died after its decision, before it moved traffic."""
    world = World()
    world.serve()
    if endpoints:
        active, previous = (f.served(version, endpoints=endpoints) for version in (7, 6))
        update = {"active": active, "previous": previous, "epoch": 13, "cause_id": "copies"}
        world.routes.set("production", world.route().model_copy(update=update))
    world.open_releases(6, 7)
    life = world.start(kill_at="before FakeRoutes.put")
    for number, fact in enumerate(facts):
        world.publish(fact(world), event_id=f"cause-{number}")
    await life.ended.wait()
    await world.stop()
    assert [rollback.phase for rollback in world.state().rollbacks] == ["decided"]
    return world


async def resumed(world, code) -> None:
    """Start the next process, and check that it does not move traffic and says why, once."""
    before = world.route()
    world.start()
    await asyncio.sleep(60)
    assert world.route() == before
    assert [failed.code for failed in world.log.facts(cf.RollbackFailed)] == [code]
    assert world.streams.unacknowledged() == []
    world.check()
    await world.stop()


def ordered(**about):
    return lambda _world: cf.RollbackOrdered(reason="odd", failed=f.target(7), **about)


@virtual_time
async def test_a_previous_version_that_lost_too_many_replicas_meanwhile_takes_no_traffic():
    hosts = tuple(f"host-{number}:8001" for number in range(4))
    world = await left_pending(World.alert, endpoints=hosts)
    world.probe.gone.update(hosts[:3])
    await resumed(world, "previous_not_ready")


@virtual_time
async def test_an_alert_that_was_resolved_meanwhile_moves_nothing():
    world = await left_pending(World.alert)
    await asyncio.sleep(5)
    world.publish(world.alert(kind=cf.AlertResolved))
    await resumed(world, "alert_resolved")


@pytest.mark.parametrize("fact", [World.alert, ordered()], ids=["alert", "order"])
@virtual_time
async def test_a_decision_of_more_than_fifteen_minutes_ago_moves_nothing(fact):
    world = await left_pending(fact)
    await asyncio.sleep(901)
    await resumed(world, "order_expired")


@virtual_time
async def test_an_order_that_expired_meanwhile_moves_nothing():
    world = await left_pending(ordered(expires_at=f.START + f.timedelta(seconds=30)))
    await asyncio.sleep(31)
    await resumed(world, "order_expired")


@virtual_time
async def test_an_order_for_an_epoch_that_is_over_moves_nothing():
    world = await left_pending(ordered(epoch=12))
    route = world.route()
    trial = promote(route, f.served(8), weight_ratio=0.2, epoch=route.epoch, cause_id="p-8").route
    world.routes.set("production", trial)
    await asyncio.sleep(5)
    await resumed(world, "stale_epoch")


@virtual_time
async def test_a_clock_that_was_set_back_meanwhile_keeps_no_rollback_from_being_carried_out():
    world = await left_pending(World.alert)
    world.clock.jump(-86_400)
    world.start()
    await asyncio.sleep(1)
    assert world.route().active.target == f.target(6)
    await world.stop()


@virtual_time
async def test_a_version_that_returned_before_its_route_was_moved_is_published_and_not_refused():
    world = World()
    world.serve(7, 6, suspended=(f.Suspended(served=f.served(5), cause="slow", since=f.after(-60)),))
    world.start()
    world.log.unanswered = 1
    order = cf.SuspensionDecided(reason="cleared", target=f.target(5), decision="return", at_once=True)
    world.publish(order, event_id="l-1")
    await asyncio.sleep(0.1)
    back = world.route()
    assert (back.cause_id, back.active.target, back.suspended) == ("l-1", f.target(5), ())
    moved = move(back, f.target(7), ("triton-2:8001",), epoch=back.epoch, cause_id="moved-1")
    world.routes.set("production", moved.route)
    await asyncio.sleep(60)
    assert world.log.facts(cf.OrderRefused) == []
    assert {fact.cause for fact in world.log.facts(cf.DeploymentChanged)} == {"return"}
    assert world.streams.unacknowledged() == []
    await world.stop()
