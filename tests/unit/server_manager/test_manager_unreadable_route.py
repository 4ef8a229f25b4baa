"""The route of one of two models cannot be read: it keeps what it serves, and the other one is served as before."""

from typing import Any

import pytest

from contracts.facts import AlertResolved, DeploymentChanged, PromotionRefused, VariantStaged
from services.server_manager.domain import staging
from tests.kit.records import dump_newer
from tests.unit.server_manager.factories import deployable, route, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World

C6, C7, C8 = (str(deployable(version, "cat").target) for version in (6, 7, 8))
NEWER = dump_newer(route(8, 7, model="cat", epoch=2))
SPOILT = {"damaged": b"{", "newer": NEWER}


@pytest.fixture(params=SPOILT)
async def world(tmp_path, request):
    """Two models are served; then the route of the second one cannot be read any more."""
    world: Any = World(tmp_path)
    world.routes.routes["bot"] = route(1, 0)
    world.routes.routes["cat"] = route(7, 6, model="cat")
    await world.ticks()
    assert set(world.engine.models) == {V0, V1, C6, C7}
    world.spoil = lambda: world.routes.routes.put("cat", SPOILT[request.param])
    return world


async def test_the_other_model_is_healed_and_its_orders_are_carried_out(world):
    world.spoil()
    world.engine.dead.add(V1)
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(20)
    assert [changed.route.active.target for changed in world.said.facts(DeploymentChanged)] == [deployable(2).target]
    assert world.phases()[V1] == world.phases()[V2] == "ready"


@pytest.mark.parametrize("forgotten", [False, True])
async def test_it_keeps_what_it_serves_for_as_long_as_that_lasts(world, forgotten):
    world.spoil()
    if forgotten:
        world.forget_routes()
    await world.ticks(20, seconds=60)
    assert {C6, C7} <= set(world.engine.models)


async def test_memory_that_is_short_takes_nothing_from_it(world):
    world.spoil()
    world.forget_routes()
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 3, 1)))
    await world.ticks(20, seconds=20)
    assert {C6, C7} <= set(world.engine.models)


async def test_what_was_loaded_for_an_order_stays_too_because_the_route_may_name_it_by_now(world):
    await world.order(traffic_requested("t1", 8, epoch=1, model="cat"))
    world.artifacts.broken[deployable(8, "cat").manifest.digest] = OSError("not yet")
    await world.ticks(1)
    world.artifacts.broken.clear()
    world.spoil()
    await world.ticks(10)
    assert C8 in world.engine.models
    await world.state.write(lambda record: staging.drop_order(record, "t1"))
    await world.ticks(20, seconds=20)
    assert C8 in world.engine.models


async def test_what_the_engine_lost_is_loaded_again_as_the_route_was_last_seen(world):
    world.spoil()
    world.engine.restart()
    await world.ticks(10)
    assert set(world.engine.models) == {V0, V1, C6, C7}


async def test_its_orders_wait_and_hold_back_no_staging_of_the_other(world):
    before = world.routes.routes["cat"]
    world.spoil()
    await world.order(traffic_requested("t1", 7, epoch=5, model="cat"))
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(10)
    assert world.said.facts(PromotionRefused) == []
    assert len(world.said.facts(VariantStaged)) == 1
    world.routes.routes["cat"] = before
    await world.ticks(2)
    assert [refused.code for refused in world.said.facts(PromotionRefused)] == ["stale_epoch"]


async def test_its_alert_is_not_resolved_because_nothing_is_known_of_it(world):
    world.engine.dead.add(C7)
    world.artifacts.broken[deployable(7, "cat").manifest.digest] = OSError("no")
    await world.ticks(10)
    world.spoil()
    world.forget_routes()
    await world.ticks(10)
    assert [alert.alert_id for alert in world.state.record.alerts] == [f"engine-{C7}"]
    assert world.said.facts(AlertResolved) == []


async def test_its_bytes_are_not_written_over_and_its_route_is_not_called_lost(world, capsys):
    world.spoil()
    before = world.routes.bucket.data["cat"]
    await world.ticks(5)
    assert world.routes.bucket.data["cat"] == before
    assert "routes_lost" not in capsys.readouterr().out
