"""The controller's record is lost: policies are read from what is signed, at the next alert."""

import asyncio

from contracts import facts as cf
from services.rollback_controller.domain import decision
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.decisions import RULES, alert, cause, published, route, state, switch, take
from tests.unit.rollback_controller.world import World


async def lost(*signed) -> World:
    """Return a world whose record was lost under way, with the policies of some versions signed."""
    world = World()
    world.serve(history=())
    world.open_releases(6, 7)
    world.start()
    await asyncio.sleep(1)
    world.proofs.policies = {version: world.proofs.policies[version] for version in signed}
    world.bucket.data.clear()
    return world


@virtual_time
async def test_an_alert_after_the_loss_moves_traffic_by_the_signed_policy():
    world = await lost(6, 7)
    world.publish(world.alert())
    await asyncio.sleep(1)
    assert world.route().active.target == f.target(6)
    assert set(world.state().triggers) >= {"6", "7"}
    world.check()
    await world.stop()


@virtual_time
async def test_without_a_signed_policy_an_alert_waits_until_it_can_be_read():
    world = await lost(6)
    world.publish(world.alert())
    await asyncio.sleep(20)
    assert world.route().active.target == f.target(7)
    world.proofs.policies[7] = world.proofs.policies[6]
    world.publish(world.alert(kind=cf.AlertUpdated))
    await asyncio.sleep(10)
    assert world.route().active.target == f.target(6), "the rollback proceeds"
    await world.stop()


def test_an_alert_that_has_the_id_of_an_earlier_one_again_starts_a_rollback():
    """The monitor's record and the log were lost, so that alerts are numbered from 1 again."""
    moved = switch(take(state(), alert(), fact_id="a-1"), at=10)
    now = cause(600, "a-2")
    repeated = alert()
    assert decision.decide_on_alert(moved, repeated, route(), now, RULES) is moved
    later = repeated.model_copy(update={"raised_at": f.after(600)})
    after = decision.decide_on_alert(moved, later, route(), now, RULES)
    assert len(published(after, cf.RollbackStarted)) == 2
