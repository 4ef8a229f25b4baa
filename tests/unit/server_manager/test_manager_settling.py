"""An order whose answer fails at its deadline: it is refused only if traffic did not move, and only by the holder."""

import pytest

from contracts.facts import DeploymentChanged, PromotionRefused
from services.server_manager.domain.staging import finish_release
from services.server_manager.ports import LeaseLost
from tests.kit.fakes_serving import FakeArtifacts, FakeRoutes
from tests.unit.server_manager.factories import deployable, release_finished, route, traffic_requested
from tests.unit.server_manager.test_manager import World


class DisturbedArtifacts(FakeArtifacts):
    """Something happens while the files of a target are read."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.meanwhile = lambda: None

    async def describe(self, target):
        self.meanwhile()
        return await super().describe(target)


class RolledBackRoutes(FakeRoutes):
    """An edit is rolled back as soon as it is written."""

    rolls_back = False

    async def edit(self, model, change):
        edit = await super().edit(model, change)
        if self.rolls_back:
            self.routes[model] = route(1, 0, epoch=3, cause_id="rb")
        return edit


class EndingArtifacts(FakeArtifacts):
    """The release ends while the files of a target are read."""

    def __init__(self, folder, state) -> None:
        super().__init__(folder)
        self.state = state

    async def describe(self, target):
        await self.state.write(lambda record: finish_release(record, release_finished()))
        return await super().describe(target)


async def test_an_order_whose_release_ends_while_it_is_carried_out_edits_no_route(tmp_path):
    """Nothing would end the share of traffic, or the shadow, of a release that has ended."""
    world = World(tmp_path)
    world.routes.routes["bot"] = route(1, 0)
    world.artifacts = EndingArtifacts(tmp_path, world.state)
    world.start()
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(8)
    assert world.state.record.orders == ()
    assert world.routes.routes["bot"] == route(1, 0)
    assert world.said.facts(DeploymentChanged) == []


@pytest.fixture
async def world(tmp_path):
    """Version 2 is ordered and ready, its files cannot be read, and its deadline is ten seconds away."""
    world = World(tmp_path)
    world.routes = RolledBackRoutes()
    world.routes.routes["bot"] = route(1, 0)
    world.artifacts = DisturbedArtifacts(tmp_path)
    world.start()
    world.artifacts.undescribable[deployable(2).manifest.digest] = ValueError("a defect")
    await world.order(traffic_requested("t1", 2, epoch=1))
    await world.ticks(8)
    await world.ticks(1, seconds=world.limits.order_deadline_s - 18)
    assert world.said.emits == []
    return world


async def test_an_order_whose_traffic_moved_is_not_refused_because_its_answer_does_not_fit(world):
    world.artifacts.undescribable.clear()
    bucket = world.state.bucket
    limit, bucket.limit_bytes = bucket.limit_bytes, len(bucket.data["main"][1]) + 500
    await world.ticks(2, seconds=20)
    assert world.routes.routes["bot"].cause_id == "t1"
    assert world.said.emits == []
    bucket.limit_bytes = limit
    await world.ticks(2)
    assert len(world.said.facts(DeploymentChanged)) == 1
    assert world.said.facts(PromotionRefused) == []


async def test_an_order_that_another_process_has_carried_out_meanwhile_is_not_refused(world):
    def carried_out():
        world.routes.routes["bot"] = route(2, 1, epoch=2, cause_id="t1")

    world.artifacts.meanwhile = carried_out
    await world.ticks(2, seconds=20)
    assert world.said.facts(PromotionRefused) == []


async def test_an_order_whose_traffic_moved_and_was_rolled_back_at_once_is_not_refused_for_its_answer(world):
    world.artifacts.undescribable.clear()
    world.state.bucket.limit_bytes = len(world.state.bucket.data["main"][1]) + 500
    world.routes.rolls_back = True
    await world.ticks(1, seconds=20)
    assert world.routes.routes["bot"].cause_id == "rb"
    assert world.said.emits == []


async def test_a_process_that_lost_the_lease_meanwhile_refuses_nothing(world):
    world.artifacts.meanwhile = world.supersede
    with pytest.raises(LeaseLost):
        await world.ticks(1, seconds=20)
    assert len(world.state.record.orders) == 1
    assert world.said.emits == []


async def test_an_order_is_refused_at_its_deadline_if_none_of_this_happened(world):
    await world.ticks(1, seconds=20)
    (refused,) = world.said.facts(PromotionRefused)
    assert refused.code == "internal_error"
