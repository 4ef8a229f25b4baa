"""The bucket `routes` is absent, emptied or restored: production stays loaded, and the newer routes are written back."""

import pytest

from contracts.routes import Route
from decisions.routes.edits import roll_back
from services.server_manager.domain import staging
from tests.unit.server_manager.factories import deployable, route, stage_released, stage_requested
from tests.unit.server_manager.world import V0, V1, V2, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def load(world, version):
    loadable = deployable(version)
    folder = await world.artifacts.materialise(loadable)
    await world.engine.load(str(loadable.target), folder, digest=loadable.manifest.digest, memory_bytes=100)


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_emptied_bucket_unloads_nothing_and_gets_its_routes_back(world, restarts):
    world.routes.routes["bot"] = before = route(2, 1)
    await world.ticks()
    world.routes.routes.clear()
    if restarts:
        world.start()
    await world.ticks(10, seconds=30)
    assert set(world.engine.models) == {V1, V2}
    assert world.routes.routes == {"bot": before}


async def test_with_neither_bucket_nor_memory_what_the_engine_holds_stays(world):
    for version in (1, 2):
        await load(world, version)
    await world.ticks(10, seconds=30)
    assert set(world.engine.models) == {V1, V2}
    assert world.routes.routes == {}


async def test_memory_that_is_short_takes_nothing_from_a_model_without_a_route(world):
    for version in range(5):
        await load(world, version)
    world.routes.routes["cat"] = route(7, 6, model="cat")
    await world.ticks(10, seconds=30)
    assert {f"bot.v{version}.bf16" for version in range(5)} <= set(world.engine.models)


async def test_what_was_only_staged_goes_also_when_its_model_has_no_route(world):
    """Also after a restart: the record says what was loaded only for a staging order."""
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks()
    assert set(world.engine.models) == {V0, V1}
    await world.state.write(lambda record: staging.release_staging(record, stage_released(1)))
    world.start()
    await world.ticks(6, seconds=20)
    assert world.engine.models == {}
    assert world.state.record.temporary == ()


async def test_a_staged_target_that_was_promoted_is_no_longer_temporary(world):
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks()
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    await world.state.write(lambda record: staging.release_staging(record, stage_released(2)))
    world.routes.routes.clear()
    world.forget_routes()
    await world.ticks(6, seconds=20)
    assert set(world.engine.models) == {V1, V2}


async def test_production_without_a_known_route_that_is_staged_as_baseline_stays_afterwards(world):
    await load(world, 1)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks()
    await world.state.write(lambda record: staging.release_staging(record, stage_released(2)))
    await world.ticks(6, seconds=20)
    assert set(world.engine.models) == {V1}


async def test_a_route_that_no_longer_names_a_target_lets_it_go(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.routes.routes["bot"] = route(2, 1, epoch=2)
    await world.ticks(6, seconds=20)
    assert set(world.engine.models) == {V1, V2}


async def test_an_empty_route_of_a_higher_epoch_retires_its_model(world):
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.routes.routes["bot"] = Route(model="bot", epoch=2)
    await world.ticks(6, seconds=20)
    assert world.engine.models == {}
    assert world.routes.routes["bot"].epoch == 2


async def test_a_restored_older_route_is_replaced_by_the_one_that_is_known(world):
    """The backup is from before a rollback: it would serve again what was quarantined."""
    backup = route(2, 1, epoch=7)
    world.routes.routes["bot"] = backup
    await world.ticks()
    world.routes.routes["bot"] = after = roll_back(backup, backup.active.target, cause_id="alert").route
    await world.ticks()
    world.routes.routes["bot"] = backup
    await world.ticks(1)
    assert world.routes.routes["bot"] == after


async def test_an_edit_starts_from_the_known_route_not_from_the_restored_one(world):
    world.routes.routes["bot"] = known = route(2, 1, epoch=7)
    await world.ticks()
    world.routes.routes["bot"] = route(1, epoch=3)
    edit = await world.known.edit("bot", lambda stored: roll_back(stored, known.active.target, cause_id="alert"))
    assert edit.route.epoch == 8
    assert edit.route.active.target == deployable(1).target
    assert world.routes.routes["bot"] == edit.route
