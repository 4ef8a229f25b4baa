"""Drills in production: only on models that operations allow; always in staging, and always to end one."""

import asyncio

import pytest

from contracts import facts as cf
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World

FAULT = cf.DrillFault(delay_ms=800)


async def ordered(allowed, **changes):
    """Return the refusals' codes and the drills after an order."""
    world = World(production_drills=allowed)
    world.serve(7, 6)
    world.start()
    about = {"reason": "practice", "target": f.target(7), "environment": "production", "share_ratio": 0.5}
    world.publish(
        cf.DrillOrdered(**(about | changes), fault=FAULT, expires_at=world.clock.now() + f.timedelta(seconds=60))
    )
    await asyncio.sleep(10)
    refusals = world.log.facts(cf.OrderRefused)
    stored = await world.drills.get(changes.get("environment", "production"), f.MODEL)
    await world.stop()
    return refusals, stored


@pytest.mark.parametrize("allowed", ["", "other-bot", "support", "support-bot-2", " , ,"])
@virtual_time
async def test_a_drill_in_production_is_refused_where_operations_did_not_allow_it(allowed):
    (refusal,), stored = await ordered(allowed)
    assert (refusal.code, stored) == ("drill_not_allowed", None)
    assert "ROLLBACK_CONTROLLER_PRODUCTION_DRILLS" in refusal.reason


@pytest.mark.parametrize(
    ("allowed", "changes"),
    [
        ("support-bot", {}),
        ("other-bot, support-bot", {}),
        ("*", {}),
        ("", {"environment": "staging"}),
        ("", {"share_ratio": 0.0}),
    ],
)
@virtual_time
async def test_it_is_carried_out_where_they_did_and_in_staging_and_it_can_always_be_ended(allowed, changes):
    refusals, stored = await ordered(allowed, **changes)
    assert (refusals, stored.actor) == ([], f.OPERATOR)
