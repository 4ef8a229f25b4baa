"""When a gateway of several workers is ready."""

import pytest

from services.gateway.server.worker_state import START_S, decide_ready
from testbed.factories import route
from tests.unit.gateway.world import World

RULES = {
    "all can serve": (2, 2, 2, False, True),
    "one is missing: the others serve": (1, 1, 2, False, True),
    "one is missing at the start": (1, 1, 2, True, False),
    "one runs and cannot serve": (1, 2, 2, False, False),
    "none runs": (0, 0, 2, False, False),
    "one that is replaced is counted twice for a moment": (3, 3, 2, True, True),
}


@pytest.mark.parametrize(("ready", "running", "declared", "starting", "expected"), RULES.values(), ids=RULES)
def test_the_rule(ready, running, declared, starting, expected):
    assert decide_ready(ready, running, declared, starting=starting) is expected


async def test_a_missing_worker_is_named_and_after_the_start_no_reason_to_take_no_requests():
    world = World(route(), workers=2)
    before = await world.admin.get("/readyz")
    assert (before.status_code, before.json()["checks"]["workers"]) == (503, "1 of 2 ready")
    await world.clock.pause(START_S)
    after = await world.admin.get("/readyz")
    assert (after.status_code, after.json()["checks"]["workers"]) == (200, "1 of 2 ready")
    page = (await world.admin.get("/metrics/")).text
    assert "slipway_gateway_worker_starts_total 1.0\n" in page
    assert "slipway_gateway_workers_ready 1.0\n" in page
