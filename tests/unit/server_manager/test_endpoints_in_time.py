"""Two endpoints of one runtime in virtual time: server-manager dies at any step while one of them is away and comes back."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import facts as cf
from tests.kit.soak import often
from tests.unit.server_manager.endpoint_stories import SETTLED_S, check_served, play
from tests.unit.server_manager.factories import traffic_requested
from tests.unit.server_manager.fleet_world import MODEL, target

SILENT_LIMIT_S = 120.0


@settings(max_examples=often(6), deadline=None)
@given(
    kills=st.lists(st.integers(1, 60), max_size=6),
    away_s=st.sampled_from((10.0, SILENT_LIMIT_S, SILENT_LIMIT_S + 10, 400.0)),
    name=st.sampled_from(("default", "triton-2")),
    keeps=st.booleans(),
)
def test_whenever_it_dies_what_serves_is_where_its_route_says_in_the_end(kills, away_s, name, keeps):
    async def story(world):
        engine = world.engines[name]
        if not keeps:
            engine.models.clear()
        engine.down = True
        await asyncio.sleep(away_s)
        engine.down = False
        await asyncio.sleep(SETTLED_S)
        check_served(world)
        moved = [emit.fact for emit in world.log.log if isinstance(emit.fact, cf.DeploymentChanged)]
        assert len({fact.route.epoch for fact in moved}) == len(moved), "each change is published once"
        published = {fact.route.epoch for fact in moved}
        assert published == set(range(2, world.routes.routes[MODEL].epoch + 1))

    play(story, *kills)


@pytest.mark.parametrize("suspended", [False, True])
def test_a_model_whose_endpoint_stays_away_serves_again_and_gets_its_next_version_apart(suspended):
    async def story(world):
        first = world.engines["default"]
        if not suspended:
            first.models.clear()
        first.down = True
        await asyncio.sleep(SILENT_LIMIT_S + 20)
        second = world.engines["triton-2"].endpoint
        assert world.routes.routes[MODEL].active.endpoints == (second,)
        first.down = False
        await asyncio.sleep(SETTLED_S)
        check_served(world)
        world.publish(traffic_requested("t2", 2, epoch=world.routes.routes[MODEL].epoch))
        await asyncio.sleep(SETTLED_S)
        now = world.routes.routes[MODEL]
        assert (str(now.active.target), now.active.endpoints) == (target(2), (first.endpoint,))
        assert now.previous.endpoints == (second,)

    play(story)
