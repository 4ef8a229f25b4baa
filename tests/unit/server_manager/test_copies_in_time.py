"""A version with a copy in virtual time: server-manager dies at any step while one of its Tritons is away."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import facts as cf
from contracts.routes import CanaryShare
from decisions.routes.edits import Changed, roll_back
from services.server_manager.domain.reconcile import production_of
from tests.kit.soak import often
from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.copies import with_copies
from tests.unit.server_manager.endpoint_stories import ACCEPTED, answers, order
from tests.unit.server_manager.factories import deployable, route
from tests.unit.server_manager.fleet_world import MODEL, SETTINGS, FleetWorld, target

SETTLED_S = 60.0 + SETTINGS.linger_s
NAMES = ("default", "two", "three")


def play(story, count, *kills):
    async def run():
        with tempfile.TemporaryDirectory() as folder:
            world = FleetWorld(Path(folder), more=NAMES[1:count])
            world.routes.routes[MODEL] = with_copies(route(1), 2)
            await world.live_through(story, *kills, begins_s=30)

    run_virtual(run())


@settings(max_examples=often(5), deadline=None)
@given(
    kills=st.lists(st.integers(1, 60), max_size=6),
    count=st.sampled_from((2, 3)),
    away_s=st.sampled_from((1.0, 10.0, 130.0, 400.0)),
    name=st.sampled_from(NAMES[:2]),
    keeps=st.booleans(),
)
def test_whenever_it_dies_a_version_is_on_both_and_its_route_was_edited_only_where_a_third_one_took_over(
    kills, count, away_s, name, keeps
):
    async def story(world):
        lost = world.engines[name]
        if not keeps:
            lost.models.clear()
        lost.down = True
        await asyncio.sleep(away_s)
        lost.down = False
        await asyncio.sleep(SETTLED_S)
        now = world.routes.routes[MODEL]
        holders = {engine.endpoint for engine in world.engines.values() if target(1) in engine.models}
        assert holders == set(now.active.endpoints)
        assert len(now.active.endpoints) == 2
        assert target(1) in world.ready()
        moved = [emit.fact.route.epoch for emit in world.log.log if isinstance(emit.fact, cf.DeploymentChanged)]
        assert sorted(moved) == list(range(2, now.epoch + 1)), "each change is published once"
        if count == 2 and not kills:
            assert now.epoch == 2, "one edit, when the copy was loaded"

    play(story, count, *kills)


@settings(max_examples=often(5), deadline=None)
@given(
    kills=st.lists(st.integers(1, 60), max_size=6),
    count=st.sampled_from((2, 3)),
    drained=st.sampled_from(NAMES[:2]),
    away=st.sampled_from((None, *NAMES[:2])),
    restored_s=st.sampled_from((None, 0.5, 5.0, 40.0)),
)
@example([2, 7, 7, 7, 42], 2, "default", None, 0.5)  # the order to drain was delivered again after the one to restore
def test_whenever_it_dies_a_drained_triton_is_empty_in_the_end_and_a_restored_one_has_its_copy(
    kills, count, drained, away, restored_s
):
    async def story(world):
        asked = order(world, drained)
        if away is not None:
            world.engines[away].models.clear()
            world.engines[away].down = True
            await asyncio.sleep(10.0)
            world.engines[away].down = False
        if restored_s is not None:
            await asyncio.sleep(restored_s)
            order(world, drained, drained=False, number=2)
        await asyncio.sleep(2 * SETTLED_S)
        now = world.routes.routes[MODEL]
        holders = {engine.endpoint for engine in world.engines.values() if target(1) in engine.models}
        assert holders == set(now.active.endpoints)
        assert target(1) in world.ready()
        is_empty = restored_s is None and answers(world, asked) == ACCEPTED
        assert len(holders) == (1 if is_empty and count == 2 else 2)
        assert not (is_empty and world.engines[drained].models)

    play(story, count, *kills)


@settings(max_examples=often(4), deadline=None)
@given(
    kills=st.lists(st.integers(1, 80), max_size=4),
    name=st.sampled_from(NAMES[:2]),
    away_s=st.sampled_from((4.0, 40.0)),
    how=st.sampled_from(("silence", "loss", "drain")),
    rolls_back=st.booleans(),
)
def test_after_a_promotion_and_a_rollback_the_two_versions_share_no_triton_that_both_can_do_without(
    kills, name, away_s, how, rolls_back
):
    """Whatever was away, lost what it had, or was drained while the new version was a canary, which is loaded beside a copy."""

    async def story(world):
        await edit(world, route(1, canary=2, weight=0.1))
        await asyncio.sleep(30)
        await disturb(world, world.engines[name], away_s)
        await edit(world, route(2, 1))
        await asyncio.sleep(10)
        if rolls_back:
            await world.routes.edit(MODEL, lambda now: roll_back(now, deployable(2).target, cause_id="rollback"))
        await asyncio.sleep(2 * SETTLED_S + 120.0)
        now = world.routes.routes[MODEL]
        if rolls_back:
            assert (now.active.target.version, len(now.active.endpoints)) == (1, 2)
        else:
            assert not set(now.active.endpoints) & set(now.previous.endpoints)
        for served in filter(None, (now.active, now.previous)):
            holders = {engine.endpoint for engine in world.engines.values() if str(served.target) in engine.models}
            assert holders == set(served.endpoints)

    async def disturb(world, engine, away_s):
        if how == "drain":
            order(world, name)
            await asyncio.sleep(away_s)
            order(world, name, drained=False, number=2)
            return
        if how == "loss":
            engine.models.clear()
        engine.down = True
        await asyncio.sleep(away_s)
        engine.down = False
        await asyncio.sleep(away_s)

    play(story, 2, *kills)


async def edit(world, desired):
    """Let the route be another one, as a traffic order would make it; what it names already stays where it is."""
    named = {str(each.target): each.endpoints for each in production_of(world.routes.routes[MODEL])}

    def placed(served):
        if served is None:
            return None
        return served.model_copy(update={"endpoints": named.get(str(served.target), served.endpoints)})

    def change(now):
        asked = with_copies(desired, 2)
        canary = asked.canary
        if canary is not None:
            canary = CanaryShare(served=placed(canary.served), weight_ratio=canary.weight_ratio)
        return now.model_copy(
            update={
                "epoch": now.epoch + 1,
                "active": placed(asked.active),
                "previous": placed(asked.previous),
                "canary": canary,
            }
        )

    await world.routes.edit(MODEL, lambda now: Changed(change(now), "promote"))
