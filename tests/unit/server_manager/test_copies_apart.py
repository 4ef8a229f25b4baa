"""Copies and the version behind: what shares an endpoint is parted, and what leaves a route is not ended at once."""

import asyncio
from dataclasses import replace

import pytest

from contracts.facts import OrderAccepted, OrderRefused
from contracts.vocabulary import Runtime
from decisions.routes.edits import roll_back
from services.server_manager.domain.declared_copies import find_parted
from services.server_manager.domain.reconcile import Phase
from shared.errors import Transient
from tests.unit.server_manager.copies import (
    FIRST,
    SECOND,
    THIRD,
    active,
    drain,
    holders,
    placed,
    promote,
    with_copies,
)
from tests.unit.server_manager.factories import deployable, held, route, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, endpoints=("two",))


@pytest.fixture
def three(tmp_path):
    return World(tmp_path, endpoints=("two", "three"))


def with_budgets(world, size):
    names = ("default", "two", "three")
    world.limits = replace(world.limits, budgets=dict.fromkeys(names, size), memory_budget_bytes=3 * size)
    world.start()


async def begin_canary(world, version):
    epoch = world.routes.routes["bot"].epoch
    event = traffic_requested(f"c{version}", version, epoch=epoch, weight=0.1)
    event = event.model_copy(update={"data": event.data.model_copy(update={"copies": 2})})
    await world.order(event)
    await world.ticks(8)


async def test_two_versions_that_came_together_on_the_only_triton_are_parted_once_there_is_another_one(world):
    await promote(world, 1)
    await begin_canary(world, 2)
    world.engines["default"].down = True
    world.engines["default"].models.clear()
    await world.ticks(6)
    await promote(world, 2)
    await world.ticks(20, seconds=10.0)
    assert active(world).endpoints == (SECOND,)
    world.engines["default"].down = False
    await world.ticks(30, seconds=10.0)
    now = world.routes.routes["bot"]
    assert (now.active.endpoints, now.previous.endpoints) == ((SECOND,), (FIRST,))
    assert (holders(world, V1), holders(world, V2)) == (["default"], ["two"])


def test_a_shared_home_is_parted_by_the_version_behind_else_by_the_active_one():
    pair, shared = with_copies(route(2, 1), 2), {V1: held(1), V2: held(2)}
    both = {V1: ("two",), V2: ("three",)}

    def parted(ready, states=shared, of=pair, unusable=()):
        return find_parted({"bot": of}, states, ready, unusable=unusable)

    assert parted(both) == {V1: "two"}
    assert parted({V2: ("three",)}) == {V2: "three"}
    assert parted(both, unusable={"two"}) == {V2: "three"}
    assert parted({}) == {}
    assert parted(both, {V1: held(1), V2: held(2, endpoint="two")}) == {}
    assert parted(both, {V1: held(1, Phase.LOADING), V2: held(2)}) == {V2: "three"}
    assert parted(both, {V2: held(2)}) == {}
    canary = with_copies(route(1, 0, canary=2), 2)
    three = {V1: held(1), V2: held(2), V0: held(0, endpoint="two")}
    assert parted({V1: ("two", "three")}, three, canary) == {V1: "three"}, "not to the home of the version behind"
    assert parted({V1: ("two",)}, three, canary) == {}


def test_a_version_behind_that_shares_its_home_has_a_copy_before_the_active_one():
    pair, shared = with_copies(route(2, 1), 3), {V2: "two", V1: "two"}
    assert placed(pair, shared, 2) == {V1: ("default",), V2: ()}
    assert placed(pair, shared, 3) == {V1: ("default",), V2: ("three",)}
    alone = pair.model_copy(update={"previous": pair.previous.model_copy(update={"copies": 1})})
    assert placed(alone, shared, 2) == {V2: ("default",)}


def test_a_canary_and_a_shadow_have_no_copies_at_any_weight():
    for weight in (0.01, 0.9):
        trial = with_copies(route(1, 0, canary=2, weight=weight), 2)
        only = trial.model_copy(
            update={name: getattr(trial, name).model_copy(update={"copies": 1}) for name in ("active", "previous")}
        )
        assert placed(only, {V1: "default", V0: "two", V2: "three"}, 4) == {}
        assert V2 not in placed(trial, {V1: "default", V0: "two", V2: "three"}, 4)


# -- loads and unloads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_bytes", [1000, 500])
@pytest.mark.parametrize("takes_over", [False, True])
async def test_a_drain_loads_nothing_where_the_copy_is_loaded_and_waits_until_it_generates(
    world, budget_bytes, takes_over
):
    world.limits = replace(world.limits, memory_budget_bytes=budget_bytes)
    world.start()
    gate, begun = asyncio.Event(), []

    async def wait(name):
        begun.append(name)
        await gate.wait()

    world.engines["two"].hooks.at["load before"] = wait
    await promote(world, 1)
    if takes_over:
        gate.set()
        await world.ticks(1)
        world.start()
    await drain(world, "default")
    await world.ticks(4)
    gate.set()
    await world.ticks(10, seconds=10.0)
    assert (begun, world.said.facts(OrderRefused)) == ([V1], [])
    assert (active(world).endpoints, holders(world, V1)) == ((SECOND,), ["two"])


async def test_a_copy_whose_loads_answer_was_lost_is_probed_and_not_unloaded(world):
    engine, unloads = world.engines["two"], []

    async def lose(_):
        del engine.hooks.at["load after"]
        raise Transient("endpoint_unreachable", "the agent does not answer")

    async def note(name):
        unloads.append(name)

    engine.hooks.at |= {"load after": lose, "unload queued": note}
    await promote(world, 1)
    await world.ticks(8)
    assert active(world).endpoints == (FIRST, SECOND)
    assert (engine.loads, unloads) == ([V1], [])


@pytest.mark.parametrize("takes_over", [False, True])
async def test_what_was_rolled_back_lingers_on_each_triton_that_needs_no_memory(three, takes_over):
    with_budgets(three, 500)
    await promote(three, 1, copies=1)
    await promote(three, 2)
    await three.ticks(10)
    home = three.manager.executor.held()[V2].endpoint
    (other,) = set(holders(three, V2)) - {home}
    await three.routes.edit("bot", lambda route: roll_back(route, deployable(2).target, cause_id="r"))
    await three.ticks(1)
    if takes_over:
        three.start()
    else:
        del three.engines[home].models[V2]
    await three.ticks(4)
    assert other in holders(three, V2)
    await three.ticks(10, seconds=10.0)
    assert holders(three, V2) == []


async def test_a_drained_triton_is_left_where_what_is_never_unloaded_has_the_memory(three):
    with_budgets(three, 300)
    await promote(three, 1)
    old = deployable(1, "old")
    folder = await three.artifacts.materialise(old)
    await three.engines["three"].load(str(old.target), folder, digest=old.manifest.digest, memory_bytes=200)
    await three.ticks(3)
    await drain(three, "two")
    await three.ticks(20, seconds=10.0)
    assert len(three.said.facts(OrderAccepted)) == 1
    assert (active(three).endpoints, holders(three, V1)) == ((FIRST,), ["default"])


async def test_a_drain_that_waits_for_a_triton_whose_agent_is_away_says_so(three):
    await promote(three, 1)

    async def fail(_):
        raise Transient("endpoint_unreachable", "the agent does not answer")

    three.engines["three"].hooks.at["load before"] = fail
    await drain(three, "two")
    await three.ticks(8)
    assert three.view.stored["two"].waits_for.endswith("could not be loaded on three: the agent does not answer")
    three.engines["three"].hooks.at.clear()
    await three.ticks(8, seconds=10.0)
    assert (active(three).endpoints, three.view.stored["two"].waits_for) == ((FIRST, THIRD), "")


async def test_what_ran_the_engine_of_a_copy_is_what_runs_the_target_that_it_becomes(world):
    """Two endpoints of a runtime may run different builds, as during an upgrade."""
    old, new = (Runtime(engine="vllm", engine_version=version) for version in "12")
    world.engine.runtime, world.engines["two"].runtime = old, new
    await promote(world, 1)
    await drain(world, "default")
    await world.ticks(12, seconds=10.0)
    assert holders(world, V1) == ["two"]
    (running,) = [each for each in world.view.stored["two"].targets if str(each.target) == V1]
    assert running.runtime == new
