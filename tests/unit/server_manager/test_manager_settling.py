"""An order whose answer fails at its deadline: it is refused only if traffic did not move, and only by the holder."""

import pytest

from contracts.facts import DeploymentChanged, PromotionRefused
from decisions.routes.edits import roll_back
from services.server_manager.domain.staging import finish_release
from services.server_manager.ports import LeaseLost
from tests.kit.fakes_serving import FakeArtifacts, FakeRoutes
from tests.unit.server_manager.factories import deployable, release_finished, route, traffic_requested
from tests.unit.server_manager.world import World


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


class EndingRoutes(FakeRoutes):
    """A release ends just before the route is edited for it; the process may die just after."""

    ending, dies = None, False

    async def edit(self, model, change):
        if self.ending is not None:
            state, self.ending = self.ending, None
            await state.write(lambda record: finish_release(record, release_finished(seconds=0)))
        edit = await super().edit(model, change)
        if self.dies:
            self.dies = False
            raise RuntimeError("killed")
        return edit


async def begin(tmp_path, weight, *, dies=False):
    """Order a share of traffic, or a shadow, whose release ends as its route is edited."""
    world = World(tmp_path)
    world.routes = EndingRoutes()
    world.routes.routes["bot"] = route(1, 0)
    world.start()
    world.routes.ending, world.routes.dies = world.state, dies
    await world.order(traffic_requested("t1", 2, epoch=1, weight=weight))
    await world.ticks(8)
    assert world.routes.ending is None
    return world


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.1])
async def test_a_trial_that_begins_as_its_release_ends_is_ended(tmp_path, weight, dies):
    world = await begin(tmp_path, weight, dies=dies)
    await world.ticks(3, seconds=10)
    edited = world.routes.routes["bot"]
    assert (edited.shadowed, edited.canary is None or edited.canary.weight_ratio == 0.0) == (None, True)
    assert edited.active == route(1, 0).active
    (changed,) = world.said.facts(DeploymentChanged)
    assert (changed.cause, changed.route) == ("abort", edited)
    assert world.state.record.orders == ()
    before = edited
    await world.ticks(3, seconds=10)
    assert world.routes.routes["bot"] == before


async def test_a_trial_of_a_release_that_ended_is_left_to_the_rollback_controller_first(tmp_path):
    """It quarantines the candidate, which server-manager does not."""
    world = await begin(tmp_path, 0.0)
    begun = world.routes.routes["bot"]
    assert begun.shadowed is not None
    ended = roll_back(begun, begun.shadowed.target, cause_id="rb").route
    world.routes.routes["bot"] = ended
    await world.ticks(3, seconds=10)
    assert world.routes.routes["bot"] == ended
    assert world.state.record.orders == ()


async def test_a_promotion_that_was_carried_out_as_its_release_ended_is_published(tmp_path):
    world = await begin(tmp_path, 1.0)
    await world.ticks(3, seconds=10)
    (changed,) = world.said.facts(DeploymentChanged)
    assert (changed.cause, changed.route.active.target.version) == ("promote", 2)
    assert world.state.record.orders == ()


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
