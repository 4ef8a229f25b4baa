"""One order or one model that is broken concerns itself alone: everything else goes on."""

import asyncio

import pytest

from contracts.facts import DeploymentChanged, PromotionRefused, VariantFailed, VariantStaged
from contracts.runtimes import DEFAULT_RUNTIME
from services.server_manager.domain import staging
from services.server_manager.ports import Indexed
from shared.errors import Permanent, Transient
from tests.unit.server_manager.factories import deployable, route, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, World


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.routes.routes["bot"] = route(1, 0)
    return world


def undescribable(world, version, error, model="bot"):
    world.artifacts.undescribable[deployable(version, model).manifest.digest] = error


async def test_a_candidate_that_cannot_be_described_fails_its_staging_and_nothing_else(world):
    undescribable(world, 2, Permanent("malformed_event", "tokenizer_config.json is not text"))
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s1", 2, 1)))
    await world.ticks(2)
    await world.order(traffic_requested("t1", 3, model="cat", release="r3"))
    await world.ticks(8)
    assert [(fact.code, fact.reason) for fact in world.said.facts(VariantFailed)] == [
        ("malformed_event", "tokenizer_config.json is not text")
    ]
    assert len(world.said.facts(DeploymentChanged)) == 1
    assert world.view.stored[DEFAULT_RUNTIME].answers


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("a defect"), "internal_error"), (Transient("object_unreadable", "a defect"), "object_unreadable")],
)
async def test_an_order_that_fails_by_itself_holds_nothing_up_and_is_refused_at_its_deadline(world, error, code):
    undescribable(world, 2, error)
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.order(traffic_requested("t2", 3, model="cat", release="r3"))
    await world.ticks(10)
    assert [fact.route.model for fact in world.said.facts(DeploymentChanged)] == ["cat"]
    assert world.said.facts(PromotionRefused) == []
    world.engine.dead.add(V1)
    await world.ticks(10)
    assert world.engine.loads.count(V1) == 2
    await world.ticks(1, seconds=world.limits.order_deadline_s)
    (refused,) = world.said.facts(PromotionRefused)
    assert (refused.code, "a defect" in refused.reason) == (code, True)


async def test_an_order_that_was_carried_out_is_never_refused_afterwards(world):
    """The process died after it edited the route, and now the target's files cannot be read."""
    await world.order(traffic_requested("t1", 2, epoch=1))
    world.routes.routes["bot"] = route(2, 1, epoch=2, cause_id="t1")
    undescribable(world, 2, Permanent("malformed_event", "no text"))
    await world.ticks(8, seconds=200)
    assert world.said.facts(PromotionRefused) == []
    world.artifacts.undescribable.clear()
    await world.ticks(2)
    assert len(world.said.facts(DeploymentChanged)) == 1


async def test_a_bus_that_is_gone_in_the_middle_refuses_nothing_however_long_it_lasts(world):
    undescribable(world, 2, Transient("bus_unavailable", "gone"))
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(2)  # loaded, and verified
    for _ in range(8):
        with pytest.raises(Transient):
            await world.ticks(1, seconds=200)
        for _ in range(60):
            await asyncio.sleep(0)
    world.artifacts.undescribable.clear()
    await world.ticks(2)
    assert world.said.facts(PromotionRefused) == []
    assert len(world.said.facts(DeploymentChanged)) == 1


@pytest.mark.parametrize("name", ["resnet", "bot.latest.bf16", "bot.v1.bf16.old", "bot.v-1.bf16", "Bot.v1.bf16"])
async def test_a_model_that_somebody_else_loaded_into_the_engine_is_left_alone(world, name):
    world.engine.models[name] = Indexed(ready=True, digest=None, memory_bytes=0)
    await world.ticks(4)
    await world.ticks(4, seconds=60)
    assert name in world.engine.models
    assert {str(loaded.target) for loaded in world.state.record.loaded} == {V0, V1}
    assert world.artifacts.kept == {deployable(version).manifest.digest for version in (0, 1)}


async def test_staging_waits_while_what_must_stay_takes_the_memory_and_another_candidate_goes_first(world):
    """With the lease it would wait for memory, and no other release could be staged."""
    stays = [deployable(version, "cat") for version in (5, 6)]
    for kept in stays:
        folder = await world.artifacts.materialise(kept)
        await world.engine.load(str(kept.target), folder, digest=kept.manifest.digest, memory_bytes=200)
    await world.ticks()
    for event in (stage_requested("s1", 3, 2), stage_requested("s2", 2, 1, release="r2")):
        await world.state.write(lambda record, event=event: staging.enqueue_staging(record, event))
    await world.ticks(3)
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s2"]
    await world.state.write(lambda record: staging.drop_lease(record, "s2"))
    world.routes.routes["cat"] = route(model="cat")
    await world.ticks(8, seconds=10)
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s2", "s1"]
    assert world.said.facts(VariantFailed) == []
