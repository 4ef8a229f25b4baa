"""Two endpoints of one runtime: active and previous stand apart, and the death of one leaves the other as it is."""

from dataclasses import replace

import pytest

from contracts.facts import (
    AlertResolved,
    DeploymentChanged,
    PromotionRefused,
    VariantFailed,
    VariantStaged,
)
from decisions.routes.edits import roll_back
from services.server_manager.domain import staging
from services.server_manager.ports import LeaseLost
from tests.kit.records import raising
from tests.unit.server_manager.factories import deployable, stage_released, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World

V3 = str(deployable(3).target)
FIRST, SECOND = "127.0.0.1:1", "127.0.0.1:2"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, endpoints=("triton-2",))


async def promote(world, event_id, version, **more):
    epoch = world.routes.routes["bot"].epoch if "bot" in world.routes.routes else 0
    await world.order(traffic_requested(event_id, version, epoch=epoch, **more))
    await world.ticks()


def holding(world):
    return set(world.engine.models), set(world.engines["triton-2"].models)


def routed(world):
    route = world.routes.routes["bot"]
    return route.active.endpoints[0], route.previous.endpoints[0] if route.previous else None


async def test_active_and_previous_stand_apart_from_version_to_version_and_after_a_rollback(world):
    await promote(world, "t1", 1, fallback=0)
    assert (holding(world), routed(world)) == (({V1}, {V0}), (FIRST, SECOND))
    await promote(world, "t2", 2)
    assert (holding(world), routed(world)) == (({V1}, {V0, V2}), (SECOND, FIRST))
    await world.ticks(4, seconds=20.0)
    assert holding(world) == ({V1}, {V2}), "what nothing needs is unloaded"
    await promote(world, "t3", 3, weight=0.1)
    assert holding(world) == ({V1, V3}, {V2}), "a canary is not where the active one is"
    await promote(world, "t4", 3)
    assert routed(world) == (FIRST, SECOND)
    edit = await world.routes.edit("bot", lambda route: roll_back(route, deployable(3).target, cause_id="r"))
    await world.ticks()
    assert routed(world) == (SECOND, FIRST)
    assert edit.route.previous.target == deployable(1).target
    await world.ticks(4, seconds=20.0)
    assert holding(world) == ({V1}, {V2})


async def test_a_candidate_is_staged_apart_and_takes_traffic_where_it_was_staged(world):
    await promote(world, "t1", 1, fallback=0)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks()
    (staged,) = world.said.facts(VariantStaged)
    assert (staged.candidate.endpoints, staged.baseline.endpoints) == ((SECOND,), (FIRST,))
    await world.state.write(lambda record: staging.release_staging(record, stage_released(2)))
    await promote(world, "t2", 2)
    assert routed(world) == (SECOND, FIRST)
    assert world.engines["triton-2"].loads.count(V2) == 1


async def test_an_order_that_fits_nowhere_is_refused_with_what_each_endpoint_has_free(world):
    await promote(world, "t1", 1, fallback=0)
    await promote(world, "t2", 2, weights=700)
    (refused,) = world.said.facts(PromotionRefused)
    assert refused.code == "insufficient_memory"
    assert refused.reason == (
        f"Serving {V2} beside production needs 1200 bytes of memory, there are 1000. Of the endpoints, default and "
        "triton-2 share 1000 bytes with 600 free."
    )
    big = stage_requested("s1", 3, 1, weights=700)
    await world.state.write(lambda record: staging.enqueue_staging(record, big))
    await world.ticks()
    (failed,) = world.said.facts(VariantFailed)
    assert failed.code == "insufficient_memory"
    assert "default and triton-2 share 1000 bytes with 600 free" in failed.reason


async def test_others_see_each_endpoint_with_what_it_holds_and_reserves(world):
    await promote(world, "t1", 1, fallback=0)
    first, second = world.view.stored["default"], world.view.stored["triton-2"]
    assert (first.name, first.endpoint, first.reserved_bytes) == ("default", FIRST, 200)
    assert (second.name, second.endpoint, second.memory_budget_bytes) == ("default", SECOND, 1000)
    assert [str(target.target) for target in second.targets] == [V0]


async def lose(world, name, *, suspended=False):
    """Let an endpoint be silent for longer than the limit; what is suspended keeps what it holds."""
    world.engines[name].down = True
    if not suspended:
        world.engines[name].models.clear()
    await world.ticks(8)
    world.clock.seconds += world.limits.silent_limit_s
    await world.ticks(8)


async def test_production_of_an_endpoint_that_stays_away_is_served_by_the_other_one(world):
    await promote(world, "t1", 1, fallback=0)
    epoch = world.routes.routes["bot"].epoch
    world.engines["default"].down = True
    await world.ticks(20)
    assert (world.routes.routes["bot"].epoch, routed(world)) == (epoch, (FIRST, SECOND)), "it may come back"
    await lose(world, "default")
    assert routed(world) == (SECOND, SECOND)
    assert world.routes.routes["bot"].epoch == epoch + 1
    assert set(world.engines["triton-2"].models) == {V0, V1}
    (moved,) = [fact for fact in world.said.facts(DeploymentChanged) if fact.cause == "restore"]
    assert moved.route == world.routes.routes["bot"]
    assert [str(fact.target) for fact in world.said.facts(AlertResolved)] == [V1]
    world.engines["default"].restart()
    await world.ticks(8)
    assert routed(world) == (SECOND, SECOND), "what is loaded stays where it is"
    await promote(world, "t2", 2)
    assert routed(world) == (FIRST, SECOND), "the next version is apart again"


async def test_nothing_is_moved_where_its_memory_is_not_free(world):
    await promote(world, "t1", 1, fallback=0)
    await world.order(traffic_requested("c1", 1, model="cat", weights=350))  # 450 of 1000, beside 2 x 200
    await world.ticks()
    on_first = [model for model in ("bot", "cat") if world.routes.routes[model].active.endpoints == (FIRST,)]
    before = {model: world.routes.routes[model] for model in on_first}
    await lose(world, "default", suspended=True)
    assert {model: world.routes.routes[model] for model in on_first} == before
    world.engines["default"].down = False
    await world.ticks(6)
    assert world.engines["default"].models.keys() >= {V1}


async def test_a_copy_of_a_model_without_a_route_is_not_unloaded_though_its_target_generates_for_a_staging(world):
    await promote(world, "t1", 1, fallback=0)
    await lose(world, "default", suspended=True)
    world.engines["default"].down = False
    world.routes.routes.clear()
    world.forget_routes()
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks(8)
    assert world.said.facts(VariantStaged)
    assert V1 in world.engine.models, "gateways may still send to either by their last route"
    assert V1 in world.engines["triton-2"].models


async def test_what_fits_only_without_a_copy_on_a_silent_endpoint_waits_and_what_is_smaller_is_granted(world):
    await promote(world, "t1", 1, fallback=0)
    await lose(world, "default", suspended=True)
    assert [name for _, name in world.manager.executor.copies()] == [V1]
    for event in (stage_requested("s1", 3, 1, weights=400), stage_requested("s2", 2, 1)):  # 500 and 200 of 1000
        await world.state.write(lambda record, event=event: staging.enqueue_staging(record, event))
    await world.ticks(8)
    assert [lease.lease_id for lease in world.state.record.waiting] == ["s1"], "production and the copy take 600"
    (staged,) = world.said.facts(VariantStaged)
    assert staged.lease_id == "s2"
    world.engines["default"].down = False
    await world.state.write(lambda record: staging.release_staging(record, stage_released(2)))
    await world.ticks(8, seconds=8.0)
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s2", "s1"]


def give_memory_of_its_own(world):
    """Let each of both endpoints have 500 bytes: two targets."""
    world.limits = replace(world.limits, budgets={"default": 500, "triton-2": 500})
    world.start()


async def test_a_staging_that_fits_once_a_lost_endpoint_is_back_waits_for_it(world):
    give_memory_of_its_own(world)
    await promote(world, "t1", 1, fallback=0)
    world.engines["default"].down = True
    await world.ticks(12)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks(8)
    await lose(world, "default")
    assert routed(world) == (SECOND, SECOND), "nothing is left there for a third"
    await world.ticks(10, seconds=60.0)
    assert world.said.facts(VariantFailed) == []
    world.engines["default"].restart()
    await world.ticks(8)
    assert [str(staged.candidate.target) for staged in world.said.facts(VariantStaged)] == [V2]


async def test_a_promotion_that_fits_once_a_lost_endpoint_is_back_waits_for_it_until_its_deadline(world):
    give_memory_of_its_own(world)
    await promote(world, "t1", 1, fallback=0)
    await lose(world, "default")
    await promote(world, "t2", 2)
    await world.ticks(8, seconds=60.0)
    assert world.said.facts(PromotionRefused) == []
    world.engines["default"].restart()
    await world.ticks(8)
    assert str(world.routes.routes["bot"].active.target) == V2
    world.engines["default"].models.clear()
    await lose(world, "default")
    await promote(world, "t3", 3)
    await world.ticks(12, seconds=60.0)
    (refused,) = world.said.facts(PromotionRefused)
    assert refused.code == "load_failed"


async def test_what_fits_on_no_endpoint_is_refused_at_once_though_one_is_lost(world):
    give_memory_of_its_own(world)
    await promote(world, "t1", 1, fallback=0)
    await lose(world, "default")
    await promote(world, "t2", 2, weights=401)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 3, 1, weights=401)))
    await world.ticks()
    assert [refused.code for refused in world.said.facts(PromotionRefused)] == ["insufficient_memory"]
    assert [failed.code for failed in world.said.facts(VariantFailed)] == ["insufficient_memory"]


async def test_a_state_is_dated_from_when_it_began_whoever_leads_and_one_that_obeys_another_process_is_fenced(world):
    await promote(world, "t1", 1, fallback=0)
    second, engine = world.view.stored["triton-2"], world.engines["triton-2"]
    assert second.state == "serving"
    engine.models[V0] = replace(engine.models[V0], measured_bytes=150)
    await world.ticks()
    world.start()
    await world.ticks()
    now = world.view.stored["triton-2"]
    assert (now.state, now.since) == ("serving", second.since), "another process leads; the state is as old as it was"
    (held,) = now.targets
    assert (held.memory_bytes, held.measured_bytes) == (200, 150)
    began = world.clock.now()
    engine.down = True
    await world.ticks()
    silent = world.view.stored["triton-2"]
    assert silent.state == "silent"
    assert began < silent.since < world.clock.now()
    engine.down, engine.hooks.at["index before"] = False, raising(LeaseLost("another process has a higher term"))
    await world.ticks()
    assert world.view.stored["triton-2"].state == "fenced"
    assert world.view.stored["default"].state == "serving"
    engine.hooks.at.clear()
    await world.ticks()
    assert world.view.stored["triton-2"].state == "serving"
