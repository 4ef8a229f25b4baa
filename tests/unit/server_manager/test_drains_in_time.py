"""Endpoints that an administrator drains, in virtual time: server-manager dies at any step, and other things happen."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as cf
from services.server_manager.domain import drains
from services.server_manager.domain.placement import Fleet
from services.server_manager.domain.reconcile import Limits, Phase
from services.server_manager.domain.records import EndpointOrder, Servers
from shared.errors import Transient
from tests.kit.soak import often
from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.endpoint_stories import ACCEPTED, SETTLED_S, answers, check_served, order, order_of, play
from tests.unit.server_manager.factories import START, route, traffic_requested
from tests.unit.server_manager.fleet_world import MODEL, SETTINGS, FleetWorld, target

FIRST, SECOND = "default", "triton-2"
EMPTY_S = SETTLED_S + SETTINGS.linger_s


def test_a_drained_endpoint_is_empty_in_the_end_and_each_route_is_edited_once_its_target_generates():
    async def story(world):
        second = world.engines[SECOND]
        asked = order(world, FIRST)
        await asyncio.sleep(5)  # a load takes 3 s
        assert answers(world, asked) == ACCEPTED
        assert target(1) in world.engine.models, "it serves until the linger time has passed"
        await asyncio.sleep(EMPTY_S)
        assert (set(world.engine.models), set(second.models)) == (set(), {target(0), target(1)})
        check_served(world)
        (moved,) = [emit.fact for emit in world.log.log if isinstance(emit.fact, cf.DeploymentChanged)]
        assert (moved.route.active.endpoints, moved.route.moves) == ((second.endpoint,), 1)
        assert not [emit for emit in world.log.log if isinstance(emit.fact, cf.AlertRaised)]
        world.publish(traffic_requested("t2", 2, epoch=1))  # ordered before the move
        await asyncio.sleep(SETTLED_S)
        assert world.routes.routes[MODEL].active.endpoints == (second.endpoint,), "it takes nothing new"
        order(world, FIRST, drained=False, number=2)
        await asyncio.sleep(5)
        world.publish(traffic_requested("t3", 3, epoch=world.routes.routes[MODEL].epoch))
        await asyncio.sleep(SETTLED_S)
        assert world.routes.routes[MODEL].active.endpoints == (world.engine.endpoint,)

    play(story)


@settings(max_examples=often(6), deadline=None)
@given(
    kills=st.lists(st.integers(1, 60), max_size=6),
    name=st.sampled_from((FIRST, SECOND)),
    away_s=st.sampled_from((0.0, 10.0, 200.0)),
    other=st.booleans(),
    restored_s=st.sampled_from((None, 0.5, 2.5, 4.0, 15.0)),
)
def test_whenever_it_dies_and_whichever_endpoint_is_away_what_serves_is_where_its_route_says(
    kills, name, away_s, other, restored_s
):
    async def story(world):
        asked = order(world, name)
        if restored_s is not None:
            await asyncio.sleep(restored_s)
            order(world, name, drained=False, number=2)
        if away_s:
            away = world.engines[SECOND if (name == FIRST) == other else FIRST]
            await asyncio.sleep(1.0)
            away.models.clear()
            away.down = True
            await asyncio.sleep(away_s)
            away.down = False
        await asyncio.sleep(EMPTY_S + 60)
        check_served(world)
        assert len(world.answers(asked)) == 1
        if restored_s is None and answers(world, asked) == ACCEPTED:
            assert world.engines[name].models == {}
        moved = [emit.fact for emit in world.log.log if isinstance(emit.fact, cf.DeploymentChanged)]
        assert {fact.route.epoch for fact in moved} == set(range(2, world.routes.routes[MODEL].epoch + 1))
        assert len({fact.route.epoch for fact in moved}) == len(moved), "each change is published once"

    play(story, *kills)


@pytest.mark.parametrize(
    ("endpoint", "code", "reason"),
    [
        ("triton-9", "malformed_event", "The fleet has no endpoint triton-9; it has default, triton-2."),
        (SECOND, "insufficient_memory", "is the last endpoint of the runtime default that answers"),
    ],
)
def test_an_unknown_endpoint_and_the_last_one_are_not_drained(endpoint, code, reason):
    async def story(world):
        order(world, FIRST)
        await asyncio.sleep(EMPTY_S)
        refused = order(world, endpoint, number=2)
        await asyncio.sleep(5)
        assert answers(world, refused) == {(cf.OrderRefused, code)}
        assert reason in world.answers(refused)[0].reason
        check_served(world)

    play(story)


@pytest.mark.parametrize(
    ("given_s", "stored_s", "is_late"), [(-1, -1, True), (1, -1, False), (-1, 1, False), (1, 1, False)]
)
def test_an_order_is_late_only_if_it_is_earlier_by_the_clocks_of_sender_and_bus(given_s, stored_s, is_late):
    def stamped(drained, given_s, stored_s):
        return EndpointOrder(event=order_of(FIRST, drained, given_s), received_at=START + timedelta(seconds=stored_s))

    drained = stamped(True, 0, 0)
    record = drains.answer_endpoint_order(
        drains.enqueue_endpoint_order(Servers(), drained), drained.order_id, carried_out=True
    )
    fleet = Fleet(Limits(0, 0, endpoints={FIRST: "default"}), answering={FIRST, SECOND})
    restore = stamped(False, given_s, stored_s)
    refusal = drains.assess_endpoint_order(restore, record, {}, fleet, START)
    assert (refusal is not None and refusal.code == "superseded") == is_late


def test_a_target_that_does_not_load_elsewhere_stays_where_it_is_without_an_alert_and_is_tried_again():
    async def story(world):
        second, tries = world.engines[SECOND], []

        async def fail(name):
            tries.append(name)
            raise Transient("load_failed", "no memory on the device")

        second.hooks.at["load before"] = fail
        order(world, FIRST)
        await asyncio.sleep(100)
        assert target(1) in world.engine.models
        assert world.routes.routes[MODEL].active.endpoints == (world.engine.endpoint,)
        assert 2 <= len(tries) <= 8
        assert set(tries) == {target(1)}
        assert not [emit for emit in world.log.log if isinstance(emit.fact, cf.AlertRaised)]
        assert "could not be loaded elsewhere" in world.process.manager._drains.waits[FIRST]
        del second.hooks.at["load before"]
        await asyncio.sleep(EMPTY_S + 60)
        assert world.engine.models == {}
        check_served(world)

    play(story)


def test_a_target_that_did_not_load_elsewhere_is_not_loaded_beside_the_next_one():
    async def story(world):
        world.publish(traffic_requested("c1", 1, model="cat"))
        await asyncio.sleep(SETTLED_S)
        other, tries = "cat.v1.bf16", []
        assert {target(1), other} <= set(world.engine.models)

        async def load(name):
            tries.append(name)
            await asyncio.sleep(40.0 if name == other else 1.0)
            if name == target(1):
                raise Transient("load_failed", "no memory on the device")

        world.engines[SECOND].hooks.at["load queued"] = load
        order(world, FIRST)
        for _ in range(100):
            await asyncio.sleep(1.0)
            replicas = world.process.manager.executor.others().values()
            assert sum(replica.phase is Phase.LOADING for replica in replicas) <= 1
        assert (tries.count(other), tries.count(target(1)) >= 2) == (1, True)
        del world.engines[SECOND].hooks.at["load queued"]
        await asyncio.sleep(EMPTY_S + 60)
        assert world.engine.models == {}

    play(story)


def loaded_elsewhere(world, endpoint=SECOND):
    """Return an event that is set once version 1 was loaded on an endpoint that does not serve it."""
    loaded = asyncio.Event()

    async def note(name):
        if name == target(1):
            loaded.set()

    world.engines[endpoint].hooks.at["load after"] = note
    return loaded


def waits(world):
    return world.process.manager._drains.waits.get(FIRST, "")


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_that_waits_for_its_route_says_so_and_is_loaded_again_where_it_vanishes(restarts):
    async def story(world):
        second, loaded = world.engines[SECOND], loaded_elsewhere(world)
        order(world, FIRST)
        await loaded.wait()
        world.spoil_route()
        await asyncio.sleep(30)
        assert f"{target(1)} generates on {SECOND}" in waits(world)
        if restarts:
            second.restart()
            await asyncio.sleep(5)
        await asyncio.sleep(30)
        assert target(1) in world.engine.models, "its route names it"
        world.spoil_route()
        await asyncio.sleep(EMPTY_S)
        assert world.engine.models == {}
        assert second.loads.count(target(1)) == 1 + restarts
        assert waits(world) == ""
        check_served(world)

    play(story)


def test_what_was_loaded_on_an_endpoint_that_is_lost_before_the_route_names_it_is_loaded_on_a_third_one(tmp_path):
    async def run():
        world = FleetWorld(tmp_path, more=(SECOND, "triton-3"))
        second, third = world.engines[SECOND], world.engines["triton-3"]
        world.routes.routes[MODEL] = route(1)
        third.down = True
        world.start()
        await asyncio.sleep(20)
        loaded = loaded_elsewhere(world)
        order(world, FIRST)
        await loaded.wait()
        world.spoil_route()
        await asyncio.sleep(1)
        second.models.clear()
        second.down, third.down = True, False
        world.spoil_route()
        await asyncio.sleep(60)
        assert f"{target(1)} generates on {SECOND}" in waits(world)
        assert "does not answer" in waits(world)
        assert third.models == {}
        await asyncio.sleep(60 + EMPTY_S)
        assert (set(world.engine.models), set(third.models)) == (set(), {target(1)})
        second.down = False
        await asyncio.sleep(SETTLED_S)
        assert world.routes.routes[MODEL].active.endpoints == (third.endpoint,)
        await world.stop()
        assert world.violations == []

    run_virtual(run())


def test_production_on_an_endpoint_that_is_removed_without_a_drain_is_loaded_on_the_one_that_is_left(tmp_path):
    async def run():
        world = FleetWorld(tmp_path, more=(SECOND,))
        second = route(1, 0).previous.model_copy(update={"endpoints": (world.engines[SECOND].endpoint,)})
        world.routes.routes[MODEL] = route(1).model_copy(update={"previous": second})
        first_life = world.start()
        await asyncio.sleep(20)
        assert set(world.engines[SECOND].models) == {target(0)}
        await first_life.life.close()
        world.processes.remove(first_life)
        del world.engines[SECOND]
        world.settings = world.settings.model_copy(update={"endpoints": {}})
        world.start()
        await asyncio.sleep(EMPTY_S)
        check_served(world)
        assert world.routes.routes[MODEL].previous.endpoints == (world.engine.endpoint,)
        await world.stop()
        assert world.violations == []

    run_virtual(run())
