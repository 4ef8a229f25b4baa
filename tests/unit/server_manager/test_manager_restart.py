"""A manager that was just started, or just took over: it does nothing before the engine has said what it holds."""

from dataclasses import replace

import pytest

from contracts.facts import AlertRaised
from services.server_manager.domain import staging
from shared.errors import Transient
from tests.unit.server_manager.factories import deployable, route, stage_released, stage_requested
from tests.unit.server_manager.world import V0, V1, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def served_since_before(world, *versions):
    for version in versions:
        loadable = deployable(version)
        folder = await world.artifacts.materialise(loadable)
        await world.engine.load(str(loadable.target), folder, digest=loadable.manifest.digest, memory_bytes=200)
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
    assert world.phases() == {V0: "ready", V1: "ready"}


@pytest.mark.parametrize(
    ("error", "given_up"),
    [(Transient("load_failed", "no kernel"), True), (Transient("store_unavailable", "silent"), False)],
)
async def test_what_does_not_load_again_after_a_restart_is_given_up_where_that_is_its_own_doing(world, error, given_up):
    world.routes.routes["bot"] = route(1)
    await world.ticks()

    async def fail(_name):
        raise error

    world.engine.hooks.at["load before"] = fail
    world.engine.restart()
    await world.ticks(2)
    (shown,) = world.view.stored["default"].targets
    assert (shown.phase, shown.given_up) == ("failed", False), "once may be chance"
    await world.ticks(80)
    (shown,) = world.view.stored["default"].targets
    assert (shown.phase, shown.given_up) == ("failed", given_up)
    world.engine.hooks.at.clear()
    await world.ticks(80)
    (shown,) = world.view.stored["default"].targets
    assert (shown.phase, shown.given_up) == ("ready", False)


async def test_production_of_a_lost_route_is_not_taken_for_temporary_before_the_engine_answered(world):
    await served_since_before(world, 0)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    world.engine.loading = True
    await world.ticks(3)
    assert world.state.record.temporary == ()
    world.engine.loading = False
    await world.ticks(3)
    assert world.state.record.temporary == (deployable(1).target,)


async def stage_and_release(world):
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(3)
    await world.state.write(lambda record: staging.release_staging(record, stage_released(1)))


@pytest.mark.parametrize("silent", ["down", "loading"])
async def test_staged_targets_are_unloaded_although_the_engine_did_not_answer_a_new_manager_at_first(world, silent):
    await stage_and_release(world)
    assert set(world.engine.models) == {V0, V1}
    world.engine.down, world.engine.loading = silent == "down", silent == "loading"
    world.start()
    await world.ticks(3)
    world.engine.down = world.engine.loading = False
    await world.ticks(4, seconds=20)
    assert world.engine.models == {}
    assert world.state.record.temporary == ()


async def test_a_staged_target_that_was_given_up_for_unreachable_and_is_there_all_the_same_is_unloaded(world):
    """The request broke off, the engine went on with it."""
    unbroken = [V1]

    async def break_off(name):
        if name in unbroken:
            unbroken.remove(name)
            world.engine.down = True
            raise Transient("endpoint_unreachable", "broken off")

    world.engine.hooks.at["load after"] = break_off
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 1, 0)))
    await world.ticks(3)
    await world.state.write(lambda record: staging.release_staging(record, stage_released(1)))
    await world.ticks(3)
    world.engine.down = False
    await world.ticks(4, seconds=20)
    assert world.engine.models == {}


async def test_a_staged_target_that_the_engine_was_still_loading_at_a_restart_is_unloaded(world):
    await stage_and_release(world)
    ready = world.engine.models[V1]
    world.engine.models[V1] = replace(ready, ready=False, settled=False)
    world.start()
    await world.ticks(3)
    world.engine.models[V1] = ready
    await world.ticks(4, seconds=20)
    assert world.engine.models == {}
