"""Orders about routes and drills, checked against the list of teams: whatever the bus still permits."""

import asyncio

import pytest

from contracts import facts as cf
from contracts.teams import Team
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

FOREIGN = (
    Team(name="shop", models=(f.MODEL,), members=("sue",)),
    Team(name="bank", models=("bank-bot",), members=(f.OPERATOR,)),
)
OWN = (Team(name="shop", models=(f.MODEL,), members=(f.OPERATOR,)),)
UNRESTRICTED = (Team(name="shop", models=(f.MODEL,), members=("sue",), unrestricted=(f.OPERATOR,)),)
ELSEWHERE = (Team(name="bank", models=("bank-bot",), members=(f.OPERATOR,)),)
HELD = f.Suspended(served=f.served(4), cause="slow", since=f.after(-60))


def orders(world):
    """Return an order of each kind that would change something."""
    until = world.clock.now() + f.timedelta(seconds=60)
    fault = cf.DrillFault(delay_ms=800)
    about = {"reason": "practice", "target": f.target(7), "environment": "production", "share_ratio": 0.5}
    return [
        cf.RollbackOrdered(reason="odd", failed=f.target(7)),
        cf.RollbackOrdered(reason="odd"),
        cf.SuspensionDecided(reason="slow", target=f.target(4), decision="confirm", expires_at=until),
        cf.DrillOrdered(**about, fault=fault, expires_at=until),
    ]


@pytest.mark.parametrize("teams", [FOREIGN, ELSEWHERE])
@virtual_time
async def test_orders_about_a_model_of_another_team_change_nothing_and_are_refused(teams):
    world = World()
    before = world.serve(7, 6, suspended=(HELD,))
    world.set_teams(*teams)
    world.start()
    given = [world.publish(order) for order in orders(world)]
    await asyncio.sleep(30)
    refused = world.log.facts(cf.OrderRefused)
    assert {(each.order_id, each.code) for each in refused} == {(event.id, "team_mismatch") for event in given}
    assert f"{f.MODEL} belongs to" in refused[0].reason
    assert world.route() == before
    assert await world.drills.get("production", f.MODEL) is None
    assert world.log.facts(cf.RollbackStarted) == world.log.facts(cf.RollbackFailed) == []
    assert world.streams.unacknowledged() == []
    await world.stop()


@pytest.mark.parametrize("teams", [OWN, UNRESTRICTED, ()])
@virtual_time
async def test_orders_of_members_of_identities_without_a_team_and_without_teams_are_carried_out(teams):
    for number in (0, 2, 3):
        world = World()
        world.serve(7, 6, suspended=(HELD,))
        world.set_teams(*teams)
        world.start()
        world.publish(orders(world)[number])
        await asyncio.sleep(30)
        assert world.log.facts(cf.OrderRefused) == [], number
        await world.stop()


@virtual_time
async def test_an_order_that_is_decided_stays_though_its_sender_left_the_team_before_it_comes_again():
    for number in (0, 2, 3):
        world = World()
        world.serve(7, 6, suspended=(HELD,))
        world.set_teams(*OWN)
        world.start()
        world.log.unanswered = 1
        world.publish(orders(world)[number])
        await asyncio.sleep(0.1)
        world.set_teams(*FOREIGN)
        await asyncio.sleep(60)
        assert world.log.facts(cf.OrderRefused) == [], number
        assert world.streams.unacknowledged() == []
        await world.stop()


@virtual_time
async def test_automatic_rollbacks_ask_for_no_team():
    world = World()
    world.serve(7, 6)
    world.open_releases(7)
    world.set_teams(*FOREIGN)
    world.start()
    await asyncio.sleep(1)
    world.publish(world.alert())
    await asyncio.sleep(30)
    assert world.route().active.target == f.target(6)
    await world.stop()
