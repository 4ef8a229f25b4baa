"""Copies of one version: where they are placed, how they come and go, and which of them is used first."""

import asyncio
import functools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import AlertRaised, DeploymentChanged, VariantFailed, VariantStaged
from services.server_manager.domain import staging
from services.server_manager.domain.declared_copies import find_survivors, plan_copies
from services.server_manager.domain.moves import plan_moves
from services.server_manager.domain.placement import Fleet
from services.server_manager.domain.reconcile import Phase, plan_desired
from services.server_manager.domain.records import Servers
from shared.errors import Transient
from tests.unit.server_manager.copies import (
    FIRST,
    NAMES,
    SECOND,
    THIRD,
    active,
    drain,
    holders,
    limits,
    placed,
    promote,
    with_copies,
)
from tests.unit.server_manager.factories import (
    held,
    route,
    stage_requested,
    traffic_requested,
)
from tests.unit.server_manager.world import V0, V1, V2, World

# -- where they go -------------------------------------------------------------------------------------------------


def test_of_two_tritons_both_serve_a_version_only_while_there_is_none_behind_it():
    alone, pair = with_copies(route(1), 2), with_copies(route(1, 0), 2)
    assert placed(alone, {V1: "default"}, 2) == {V1: ("two",)}
    assert placed(pair, {V1: "default", V0: "two"}, 2) == {V1: (), V0: ()}


def test_of_three_the_active_version_has_the_copy_and_the_previous_one_keeps_a_triton_to_itself():
    pair = with_copies(route(2, 1), 2)
    assert placed(pair, {V2: "three", V1: "default"}, 3) == {V2: ("two",), V1: ()}
    kept = placed(pair, {V2: "three", V1: "default"}, 3, named={V1: ("default", "two")})
    assert kept == {V2: ("two",), V1: ()}, "what the version behind had before goes to the active one"
    assert placed(pair, {V2: "three", V1: "default"}, 4) == {V2: ("two",), V1: ("four",)}


def test_a_copy_stays_where_it_serves_and_leaves_a_lost_endpoint_only_for_one_that_has_memory():
    alone = with_copies(route(1), 2)
    named = {V1: ("default", "three")}
    assert placed(alone, {V1: "default"}, 3, named=named) == {V1: ("three",)}
    lost = {"named": named, "lost": frozenset({"three"})}
    assert placed(alone, {V1: "default"}, 3, **lost) == {V1: ("two",)}
    assert placed(alone, {V1: "default"}, 3, drained=frozenset({"two"}), **lost) == {V1: ("three",)}
    never = {"named": {}, "lost": frozenset({"two"})}
    assert placed(alone, {V1: "default"}, 2, **never) == {V1: ()}, "none is begun on one that is lost"


def test_a_target_that_asks_for_many_copies_takes_none_of_another_one_and_the_second_of_all_come_before_a_third():
    fleet = limits(4, memory_budget_bytes=1000)
    greedy = with_copies(route(1, model="aaa"), 64)
    routes = {"aaa": greedy, "bot": with_copies(route(1), 2)}
    homes = {"aaa.v1.bf16": "default", V1: "two"}
    known = (plan_desired(routes, Servers()), homes)
    serving = {"named": {V1: ("two", "three")}, "copies": {("three", V1): held(1, endpoint="three")}}
    planned = plan_copies(routes, *known, Fleet(fleet, **serving))
    assert planned == {V1: ("three",), "aaa.v1.bf16": ("four", "two")}
    planned = plan_copies(routes, *known, Fleet(replace(fleet, memory_budget_bytes=800)))
    assert {name: len(endpoints) for name, endpoints in planned.items()} == {V1: 1, "aaa.v1.bf16": 1}


@given(
    copies=st.integers(1, 5),
    homes=st.tuples(*[st.sampled_from(NAMES)] * 3),
    fleet=st.builds(limits, st.integers(1, 4), memory_budget_bytes=st.integers(0, 2000)),
    known=st.tuples(st.lists(st.sampled_from(NAMES), max_size=3, unique=True), st.sets(st.sampled_from(NAMES))),
    has_previous=st.booleans(),
)
def test_no_copy_is_where_the_version_behind_is_nor_in_memory_that_a_home_needs(
    copies, homes, fleet, known, has_previous
):
    named, drained = known
    asked = with_copies(route(2, 1 if has_previous else None, canary=0), copies)
    homes = {name: home for name, home in zip((V2, V1, V0), homes, strict=True) if home in fleet.endpoints}
    desired = plan_desired({"bot": asked}, Servers())
    situation = Fleet(fleet, named={V2: tuple(named)}, drained=frozenset(drained))
    planned = plan_copies({"bot": asked}, desired, homes, situation)
    used = {name: {homes[name], *planned.get(name, ())} for name in homes}
    for name, endpoints in planned.items():
        assert len(endpoints) == len(set(endpoints)) < max(copies, 1)
        assert homes[name] not in endpoints
        assert not drained & set(endpoints)
    if has_previous and {V1, V2} <= homes.keys():
        shared = {homes[V2]} & {homes[V1]}
        assert used[V2] & used[V1] == shared
        if shared and copies > 1 and planned[V2]:
            assert planned[V1], "what parts the two comes before a copy of the active one"
    needed = 200 * (len([name for name in homes if name in desired]) + sum(map(len, planned.values())))
    assert needed <= fleet.memory_budget_bytes or not any(planned.values())
    assert planned == plan_copies({"bot": asked}, desired, homes, situation), "the same choice each time"


# -- which one is used ---------------------------------------------------------------------------------------------


def test_a_copy_becomes_the_home_of_what_is_lost_dead_or_drained_where_it_stands():
    ready = {V1: ("two", "three")}
    assert find_survivors({V1: held(1)}, ready, down=(), drained=()) == {}
    assert find_survivors({V1: held(1)}, ready, down={"default"}, drained=()) == {V1: "two"}
    assert find_survivors({V1: held(1)}, ready, down={"default", "two"}, drained=()) == {V1: "three"}
    assert find_survivors({V1: held(1)}, ready, down={"default"}, drained={"two"}) == {V1: "three"}
    assert find_survivors({V1: held(1)}, {V1: ("two",)}, down={"default"}, drained={"two"}) == {V1: "two"}
    assert find_survivors({V1: held(1, Phase.DEAD)}, ready, down=(), drained=()) == {V1: "two"}
    assert find_survivors({V1: held(1)}, ready, down=(), drained={"default"}) == {V1: "two"}
    assert find_survivors({V1: held(1)}, {V1: ("two",)}, down=(), drained={"default", "two"}) == {}
    assert find_survivors({V1: held(1)}, {}, down={"default"}, drained=()) == {}


def moves(served_by, copy_homes, ready, home="default"):
    named = {"endpoints": tuple(f"127.0.0.1:{NAMES.index(name) + 1}" for name in served_by), "copies": 2}
    alone = route(1)
    alone = alone.model_copy(update={"active": alone.active.model_copy(update=named)})
    addresses = {name: f"127.0.0.1:{number}" for number, name in enumerate(NAMES, 1)}
    planned = plan_moves(
        {"bot": alone},
        {V1: held(1, endpoint=home)},
        addresses,
        limits(4),
        copy_homes={V1: copy_homes},
        ready={V1: ready},
    )
    return [move.endpoints for move in planned]


def test_a_route_names_a_copy_once_it_generates_and_keeps_it_while_it_is_away():
    assert moves(["default"], ("two",), ()) == []
    assert moves(["default"], ("two",), ("two",)) == [("default", "two")]
    assert moves(["default", "two"], ("two",), ()) == [], "gateways eject it; no edit is needed"
    assert moves(["default", "two"], ("default",), (), home="two") == []
    assert moves(["two", "default"], (), ()) == [("default",)]


def test_what_leaves_an_endpoint_stays_named_until_what_replaces_it_generates():
    assert moves(["default", "two"], ("three",), ("two",)) == []
    assert moves(["default", "two"], ("three",), ("two", "three")) == [("default", "three")]
    assert moves(["default", "two"], ("three",), ()) == [("default",)], "it is lost: nothing is kept"


# -- the loop ------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, endpoints=("two",))


@pytest.fixture
def three(tmp_path):
    return World(tmp_path, endpoints=("two", "three"))


async def test_a_version_is_loaded_on_both_and_its_route_names_both(world):
    await promote(world, 1)
    assert (active(world).endpoints, active(world).copies) == ((FIRST, SECOND), 2)
    assert holders(world, V1) == ["default", "two"]
    changes = [fact.cause for fact in world.said.facts(DeploymentChanged)]
    assert changes == ["promote", "restore"], "the copy is one move"
    shown = world.view.stored
    assert {name: [str(target.target) for target in each.targets] for name, each in shown.items()} == {
        "default": [V1],
        "two": [V1],
    }
    assert [(each.reserved_bytes, each.copies) for each in shown.values()] == [(200, ())] * 2


@pytest.mark.parametrize("dead", ["default", "two"])
async def test_a_copy_whose_engine_died_is_loaded_again_without_an_edit(world, dead):
    await promote(world, 1)
    epoch, raised = world.routes.routes["bot"].epoch, len(world.said.facts(AlertRaised))
    world.engines[dead].dead.add(V1)
    before = world.engines[dead].loads.count(V1)
    await world.ticks(20)
    assert world.engines[dead].loads.count(V1) == before + 1
    assert (world.routes.routes["bot"].epoch, len(world.said.facts(AlertRaised))) == (epoch, raised)
    assert not world.engines[dead].dead


async def test_a_copy_that_its_route_does_not_name_yet_is_no_home(world):
    """It became the home of a drained target, which the route named, so that target and copy changed places for ever."""
    await promote(world, 1)
    only_first = active(world).model_copy(update={"endpoints": (FIRST,)})
    world.routes.routes["bot"] = world.routes.routes["bot"].model_copy(update={"active": only_first})
    await drain(world, "default")
    await world.ticks(4)
    assert active(world).endpoints == (SECOND,)
    assert (world.manager.executor.held()[V1].endpoint, world.phases()[V1]) == ("two", "ready")


async def test_a_copy_that_does_not_load_leaves_the_route_and_is_tried_after_longer_and_longer_waits(world):
    tries = []

    async def fail(name):
        tries.append(name)
        raise Transient("load_failed", "no memory on the device")

    world.engines["two"].hooks.at["load before"] = fail
    await promote(world, 1)
    await world.ticks(100)
    assert active(world).endpoints == (FIRST,)
    assert 3 <= len(tries) <= 8
    world.engines["two"].hooks.at.clear()
    await world.ticks(70)
    assert active(world).endpoints == (FIRST, SECOND)


@pytest.mark.parametrize("lasts", range(1, 9))
async def test_what_a_drain_loads_where_a_copy_had_failed_is_not_unloaded(world, lasts):
    """The load of the drain answers after so many passes: the copy's waits end at any of them."""
    engine, unloaded, loading = world.engines["two"], [], asyncio.Event()

    async def fail(name):
        raise Transient("load_failed", "no file handle")

    engine.hooks.at["load before"] = fail
    await promote(world, 1)
    await world.ticks(1)

    async def wait(name):
        await loading.wait()

    engine.hooks.at |= {"load before": wait, "unload queued": functools.partial(_note, unloaded)}
    await drain(world, "default")
    for number in range(24):
        if number == lasts:
            loading.set()
        await world.ticks(1, seconds=1.0)
        named = set(active(world).endpoints)
        assert named & {{"default": FIRST, "two": SECOND}[name] for name in holders(world, V1)}, "what it names has it"
    assert (active(world).endpoints, unloaded) == ((SECOND,), [])


async def test_a_copy_makes_way_for_a_staging_and_is_loaded_again_after_it(world):
    await promote(world, 1)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1, weights=600)))
    await world.ticks(4)
    assert active(world).endpoints == (FIRST,)
    assert V1 in world.engines["two"].models, "streams of it may be under way"
    await world.ticks(10, seconds=10.0)
    assert len(world.said.facts(VariantStaged)) == 1
    assert holders(world, V1) == ["default"]
    await world.state.write(lambda record: record.model_copy(update={"lease": None}))
    await world.ticks(10, seconds=10.0)
    assert (active(world).endpoints, holders(world, V1)) == ((FIRST, SECOND), ["default", "two"])


async def test_a_staging_that_fits_in_no_case_leaves_copies_alone(world):
    await promote(world, 1)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1, weights=800)))
    await world.ticks(4)
    (failed,) = world.said.facts(VariantFailed)
    assert failed.code == "insufficient_memory"
    assert failed.reason.startswith("Staging needs 1100 bytes alone, the serving fleet has 1000.")
    await world.ticks(4)
    assert active(world).endpoints == (FIRST, SECOND)


async def test_a_copy_makes_way_for_production_that_has_lost_its_endpoint(three):
    three.limits = replace(
        three.limits, budgets=dict.fromkeys(("default", "two", "three"), 300), memory_budget_bytes=900
    )
    three.start()
    await promote(three, 1)
    await three.order(traffic_requested("c1", 1, model="cat"))
    await three.ticks(8)
    assert three.routes.routes["cat"].active.endpoints == (THIRD,)
    assert active(three).endpoints == (FIRST, SECOND)
    three.engines["three"].down = True
    await three.ticks(40, seconds=5.0)
    assert three.routes.routes["cat"].active.endpoints == (SECOND,)
    assert active(three).endpoints == (FIRST,)


async def _note(seen, value):
    seen.append(value)
