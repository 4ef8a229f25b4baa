"""Serving settings: each target is loaded with those of its own version, from the records, as often as it is loaded."""

import pytest

from contracts.facts import StageRequested, TrafficRequested
from contracts.vocabulary import ServingSettings
from services.server_manager.domain import staging
from tests.unit.server_manager.factories import deployable, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World, with_settings

HERMES = ServingSettings(tool_parser="hermes", context_tokens=4096)
PYTHONIC = ServingSettings(tool_parser="pythonic", template_options={"enable_thinking": False})


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def order(event_id, version, settings, *, epoch=0):
    event = traffic_requested(event_id, version, epoch=epoch)
    assert isinstance(event.data, TrafficRequested)
    return with_settings(event, "target", settings)


async def test_after_a_restart_the_targets_of_a_route_are_loaded_with_their_own_settings(world):
    await world.order(order("t1", 1, HERMES))
    await world.ticks()
    await world.order(order("t2", 2, PYTHONIC, epoch=world.routes.routes["bot"].epoch))
    await world.ticks()
    world.engine.models.clear()
    world.engine.serving.clear()
    world.start()
    await world.ticks()
    assert world.engine.serving == {V1: HERMES, V2: PYTHONIC}


async def test_a_candidate_is_staged_with_its_settings_beside_a_baseline_without(world):
    event = with_settings(stage_requested(candidate=1, baseline=0), "candidate", HERMES)
    assert isinstance(event.data, StageRequested)
    await world.state.write(lambda record: staging.enqueue_staging(record, event))
    await world.ticks()
    assert world.engine.serving == {V1: HERMES, V0: None}
    assert deployable(0).serving is None
