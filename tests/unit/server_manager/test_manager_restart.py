"""A manager that was just started, or just took over: it does nothing before the engine has said what it holds."""

import pytest

from contracts.facts import AlertRaised
from services.server_manager.domain import staging
from shared.errors import Transient
from tests.unit.server_manager.factories import deployable, route, staging_requested
from tests.unit.server_manager.test_manager import V0, V1, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def served_since_before(world, *versions):
    for version in versions:
        one = deployable(version)
        folder = await world.artifacts.materialise(one)
        await world.engine.load(str(one.target), folder, digest=one.manifest.digest, memory_bytes=200)
    world.engine.loads.clear()


async def test_what_serves_is_not_loaded_again_by_a_manager_that_was_not_told_yet_what_there_is(world):
    world.routes.routes["bot"] = route(1, 0)
    await served_since_before(world, 0, 1)
    world.engine.loading = True
    await world.ticks(5)
    assert world.engine.loads == []
    assert world.artifacts.kept == set(), "no local copy is removed either"
    assert world.said.facts(AlertRaised) == []
    world.engine.loading = False
    await world.ticks(3)
    assert world.engine.loads == []
    assert world.phases() == {V0: "hot", V1: "hot"}


async def test_the_same_after_a_takeover_by_another_process_and_back(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    world.lead.leads = False
    await world.ticks(2)
    world.lead.leads = True
    world.engine.loading = True
    await world.ticks(5)
    assert world.engine.loads == [V1]
    world.engine.loading = False
    await world.ticks(2)
    assert (world.engine.loads, world.phases()) == ([V1], {V1: "hot"})


async def test_the_same_without_the_bus(world):
    world.routes.routes["bot"] = route(1)
    await served_since_before(world, 1)
    world.engine.loading = True
    await world.ticks(1)
    world.state.lost = True
    for _ in range(3):
        with pytest.raises(Transient):
            await world.ticks(1)
    assert world.engine.loads == []


async def test_production_of_a_lost_route_is_not_taken_for_temporary_before_the_engine_answered(world):
    await served_since_before(world, 0)
    await world.state.edit(lambda record: staging.enqueue_staging(record, staging_requested("s1", 1, 0)))
    world.engine.loading = True
    await world.ticks(3)
    assert world.state.record.temporary == ()
    world.engine.loading = False
    await world.ticks(3)
    assert world.state.record.temporary == (deployable(1).target,)
