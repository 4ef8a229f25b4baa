"""Two server-managers before one engine: one that lost the bus or was paused does nothing to what the other set."""

import asyncio
import itertools

import pytest

from contracts.facts import PromotionRefused
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.domain.model_config import EngineConfig
from services.server_manager.domain.records import Leader
from services.server_manager.ports import LeaseLost
from shared.errors import Transient
from tests.kit.fakes_serving import LEASE_S
from tests.unit.server_manager.factories import deployable, route, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def settle():
    for _ in range(60):
        await asyncio.sleep(0)


async def without_the_bus(world, count=12, seconds=20.0):
    world.state.lost = True
    for _ in range(count):
        with pytest.raises(Transient):
            await world.ticks(1, seconds)
        await settle()
    world.state.lost = False


async def put(world, version):
    loadable = deployable(version)
    folder = await world.artifacts.materialise(loadable)
    await world.engine.load(str(loadable.target), folder, digest=loadable.manifest.digest, memory_bytes=100)


async def test_without_the_bus_a_target_that_the_next_holder_loaded_is_not_unloaded(world):
    """The review's case: A loses the bus and still reaches the engine, B promotes version 2."""
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    await put(world, 2)
    await without_the_bus(world)
    assert set(world.engine.models) == {V0, V1, V2}


async def test_without_the_bus_nothing_is_loaded_in_the_place_of_another_manifest(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    await world.engine.unload(V1)
    world.clock.seconds += 1
    folder = await world.artifacts.materialise(deployable(1))
    await world.engine.load(V1, folder, digest=deployable(9).manifest.digest, memory_bytes=100)
    loads = list(world.engine.loads)
    await without_the_bus(world)
    assert world.engine.loads == loads


async def test_without_the_bus_a_target_that_cannot_be_loaded_is_tried_later_and_later(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    world.engine.restart()
    tries = []

    async def fail(_name):
        tries.append(world.clock.seconds)
        raise Transient("load_failed", "no")

    world.engine.hooks.at["load before"] = fail
    await without_the_bus(world, count=60, seconds=1)
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert waits == [4, 8, 16]
    assert world.phases() == {V1: "failed"}


async def test_a_retry_that_is_not_allowed_keeps_the_failures(world):
    """The engine lost it, it does not load, and one try comes in a moment in which the bus names no leader."""
    world.routes.routes["bot"] = route(1)
    world.artifacts.broken[deployable(1).manifest.digest] = Transient("store_unavailable", "no")
    await world.ticks(8)
    before = world.manager.executor.held()[V1].failures
    assert before == 2
    del world.artifacts.broken[deployable(1).manifest.digest]
    world.lead.leaderless = True
    await world.ticks(1, seconds=20)
    world.lead.leaderless = False
    assert world.phases() == {V1: "failed"}
    assert world.manager.executor.held()[V1].failures == before
    await world.ticks(2, seconds=20)
    assert world.phases() == {V1: "ready"}


async def test_without_the_bus_a_holder_that_was_superseded_recycles_nothing_either(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks()
    loads = list(world.engine.loads)
    world.lease.terms.write(Leader(holder="another", term=9))
    world.engine.dead.add(V1)
    await without_the_bus(world)
    assert world.engine.loads == loads
    assert world.phases() == {}


@pytest.mark.parametrize("bus_lost", [False, True])
async def test_paused_between_the_decision_to_unload_and_the_request_the_request_is_not_made(world, bus_lost):
    """The pause ends when the next holder has written its term: nothing is unloaded under the old one."""
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    world.routes.routes["bot"] = route(2, 1, epoch=2)
    await world.ticks(2)
    world.clock.seconds += 60
    ticking = asyncio.create_task(world.manager.run_pass())
    while world.phases()[V0] != "unloading":
        await asyncio.sleep(0)
    world.supersede()
    world.state.lost = bus_lost
    await asyncio.gather(ticking, return_exceptions=True)
    await settle()
    assert V0 in world.engine.models


async def test_a_lease_that_lapsed_while_an_artifact_was_fetched_stops_the_load(world):
    gate = asyncio.Event()
    world.artifacts.hooks.at["materialise before"] = gate.wait
    world.routes.routes["bot"] = route(1)
    await world.ticks(1)
    world.supersede()
    gate.set()
    await settle()
    assert world.engine.loads == []


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_a_lease_that_lapsed_while_the_engine_made_a_request_wait_stops_the_request(world, what):
    """The engine takes one request at a time: the lease is asked for when the request's turn has come."""
    world.routes.routes["bot"] = route(1, 0)
    await world.ticks()
    gate = asyncio.Event()
    world.engine.hooks.at[f"{what} queued"] = lambda _name: gate.wait()
    world.routes.routes["bot"] = route(2, 1, epoch=2) if what == "load" else route(1, epoch=2)
    await world.ticks(1)
    await world.ticks(1, seconds=60 if what == "unload" else 1)
    assert world.phases()[V2 if what == "load" else V0] == f"{what}ing"
    world.supersede()
    gate.set()
    await settle()
    assert set(world.engine.models) == {V0, V1}


async def test_what_could_not_be_loaded_is_not_cleaned_up_without_the_lease(world):
    """The next holder may have loaded it well in the meantime."""

    async def fail(_name):
        world.supersede()
        raise Transient("load_failed", "no")

    world.engine.hooks.at["load after"] = fail
    world.routes.routes["bot"] = route(1)
    await world.ticks(1)
    assert set(world.engine.models) == {V1}


async def test_a_holder_paused_in_the_middle_of_a_look_answers_nothing(world):
    """An order that it would refuse belongs to the next holder by then."""
    world.routes.routes["bot"] = route(1, epoch=5)
    await world.order(traffic_requested("t1", 2, epoch=0))

    async def pause():
        world.supersede()

    world.engine.hooks.at["index before"] = pause
    with pytest.raises(LeaseLost):
        await world.ticks(1)
    assert world.said.facts(PromotionRefused) == []
    assert world.engine.loads == []


async def test_a_slow_look_renews_its_lease_and_goes_on(world):
    world.routes.routes["bot"] = route(1)

    async def take_long():
        world.clock.seconds += LEASE_S / 2

    world.engine.hooks.at["index before"] = take_long
    await world.ticks()
    assert set(world.engine.models) == {V1}


async def test_triton_is_not_asked_when_another_holder_has_written_its_term(tmp_path):
    engine = TritonEngine("127.0.0.1:1", tmp_path / "models", EngineConfig(kind="toy"), superseded=lambda: True)
    with pytest.raises(LeaseLost):
        await engine.unload(V1)
    with pytest.raises(LeaseLost):
        await engine.load(V1, tmp_path, digest="sha256:" + "0" * 64, memory_bytes=1)
    assert not (tmp_path / "models").exists(), "its files are the next holder's by now"
    await engine.close()
