"""A model on attached servers: its releases wait until a group serves them, and never touch a Triton."""

from pathlib import Path

import pytest

from contracts.attachments import MAX_REPLICAS
from contracts.facts import AlertRaised, AlertResolved, DeploymentChanged, VariantFailed, VariantStaged
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import ServingSettings
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain import staging
from services.server_manager.domain.reconcile import Phase
from tests.kit.fakes_serving import FakeAttached
from tests.unit.server_manager.factories import held, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World, with_settings

BLUE, GREEN = ("http://a", "http://b"), ("http://c",)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.attachments.groups["bot"] = {"blue": BLUE, "green": GREEN}
    return world


def serve(world, urls, *names):
    for url in urls:
        world.servers.names[url] = set(names)


async def stage(world, event):
    await world.state.write(lambda record: staging.enqueue_staging(record, event))
    await world.ticks()


async def promoted(world):
    """Let version 1 be active on green, and version 0 behind it on blue."""
    serve(world, BLUE, V0)
    serve(world, GREEN, V1)
    await world.order(traffic_requested("t1", 1, fallback=0))
    await world.ticks()
    return world.routes.routes["bot"]


async def test_a_release_waits_until_all_replicas_of_a_group_serve_it(world):
    serve(world, BLUE, V0)
    await stage(world, stage_requested(candidate=1, baseline=0, weights=10**12))
    await world.ticks(20, 10.0)
    assert world.said.facts(VariantStaged) == world.said.facts(VariantFailed) == []
    expected = f"{V1} waits until all replicas of an attached group answer by that name, {V0} waits"
    assert world.progress.reports[-1][1].detail == expected
    serve(world, GREEN, V1)
    await world.ticks()
    (staged,) = world.said.facts(VariantStaged)
    assert (staged.candidate.endpoints, staged.baseline.endpoints) == (GREEN, BLUE)
    assert world.engine.loads == []


async def test_others_are_staged_while_it_waits(world):
    serve(world, BLUE, V0)
    await stage(world, stage_requested(candidate=1, baseline=0))
    del world.attachments.groups["bot"]  # the same names on Triton, as another model would have them
    await stage(world, stage_requested("s2", candidate=2, baseline=0, release="r2"))
    assert {str(fact.candidate.target) for fact in world.said.facts(VariantStaged)} == {V1}
    assert world.engine.loads == [V0, V1]


async def test_a_lease_whose_target_is_replaced_before_it_is_ready_waits_again(world):
    serve(world, BLUE, V0)
    serve(world, GREEN, V1)
    world.servers.mute.add(V1)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested(candidate=1, baseline=0)))
    await world.ticks(1)
    serve(world, GREEN, V2)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s2", 2, 0, release="r2")))
    await world.ticks(6)
    assert {str(fact.candidate.target) for fact in world.said.facts(VariantStaged)} == {V2}


async def test_traffic_goes_to_the_addresses_of_the_group_that_serves(world):
    route = await promoted(world)
    assert (route.active.endpoints, route.previous.endpoints) == (GREEN, BLUE)
    assert {name: len(engine.loads) for name, engine in world.engines.items()}[DEFAULT_RUNTIME] == 0


async def test_what_no_server_serves_any_more_is_alerted_about_and_not_loaded_anywhere(world):
    await promoted(world)
    serve(world, BLUE, V2)
    await world.ticks(12)
    assert [alert.kind for alert in world.said.facts(AlertRaised)] == ["standby"]
    assert world.engine.loads == []
    serve(world, BLUE, V0)
    await world.ticks(4)
    assert world.phases()[V0] == "ready"


async def test_other_addresses_of_a_group_are_written_into_the_route(world):
    await promoted(world)
    world.attachments.groups["bot"]["green"] = ("http://d", "http://e")
    serve(world, ("http://d", "http://e"), V1)
    await world.ticks()
    assert world.routes.routes["bot"].active.endpoints == ("http://d", "http://e")
    assert world.said.facts(DeploymentChanged)[-1].cause == "restore"


async def test_a_move_to_as_many_addresses_as_a_group_has_is_published(world):
    await promoted(world)
    urls = tuple(f"http://{'gpu-' * 50}{number}:8000" for number in range(MAX_REPLICAS))
    world.attachments.groups["bot"]["green"] = urls
    serve(world, urls, V1)
    await world.ticks()
    (moved,) = [fact for fact in world.said.facts(DeploymentChanged) if fact.cause == "restore"]
    assert moved.route.active.endpoints == urls


async def test_a_replica_that_is_away_leaves_the_route_as_it_is_and_is_shown(world):
    route = await promoted(world)
    serve(world, BLUE[:1])
    del world.servers.names[GREEN[0]]
    await world.ticks(8)
    assert world.routes.routes["bot"].previous == route.previous
    shown = {name: (at.answers, [str(each.target) for each in at.targets]) for name, at in world.view.stored.items()}
    del shown[DEFAULT_RUNTIME]
    assert shown == {"bot/blue/1": (True, []), "bot/blue/2": (True, [V0]), "bot/green/1": (False, [])}


@pytest.mark.parametrize(("failures", "shown"), [(4, []), (5, [GREEN[0]])])
async def test_a_version_that_its_replicas_do_not_load_again_is_shown_there_as_given_up(world, failures, shown):
    await promoted(world)
    await world.ticks(1)
    serve(world, GREEN)
    failed = held(1, Phase.FAILED, code="load_failed", failures=failures)
    replicas = world.attached.describe({V1: failed}, world.clock.now())
    assert [replica.endpoint for replica in replicas for running in replica.targets if running.given_up] == shown


async def test_all_servers_silent_is_alerted_about_as_of_any_engine(world):
    await promoted(world)
    world.servers.down = True
    await world.ticks(10)
    assert {(alert.kind, str(alert.target)) for alert in world.said.facts(AlertRaised)} >= {("engine", V1)}
    assert world.engine.loads == []


@pytest.mark.parametrize("served", [None, {V2}])
async def test_servers_of_the_active_version_that_are_away_or_replaced_are_alerted_about_while_others_answer(
    world, served
):
    await promoted(world)
    del world.servers.names[GREEN[0]]
    if served is not None:
        world.servers.names[GREEN[0]] = served
    await world.ticks(6)
    assert [(alert.kind, str(alert.target)) for alert in world.said.facts(AlertRaised)] == [("engine", V1)]
    serve(world, GREEN, V1)
    await world.ticks(4)
    assert len(world.said.facts(AlertResolved)) == 1
    assert world.phases()[V1] == "ready"


async def test_a_version_for_a_runtime_that_no_triton_has_is_served_by_attached_servers_without_an_alert(world):
    serve(world, GREEN, V1)
    event = traffic_requested("t1", 1)
    await world.order(with_settings(event, "target", ServingSettings(runtime="elsewhere")))
    await world.ticks(8)
    assert world.routes.routes["bot"].active.serving.runtime == "elsewhere"
    assert "engine" not in [alert.kind for alert in world.said.facts(AlertRaised)]


async def test_after_a_restart_of_the_manager_it_is_checked_again_and_nothing_moves(world):
    route = await promoted(world)
    world.start()
    await world.ticks(6)
    assert world.routes.routes["bot"] == route
    assert world.phases() == {V0: "ready", V1: "ready"}


async def test_after_a_restart_a_version_that_serves_is_ready_though_one_replica_is_away(world):
    serve(world, BLUE, V1)
    await world.order(traffic_requested("t1", 1))
    await world.ticks()
    route = world.routes.routes["bot"]
    del world.servers.names[BLUE[1]]
    world.servers.models.clear()  # what the process knew
    world.start()
    await world.ticks()
    assert world.phases() == {V1: "ready"}
    assert world.routes.routes["bot"] == route


async def test_a_record_that_is_lost_is_no_order_to_serve_it_elsewhere(world):
    route = await promoted(world)
    for restart in (False, True):
        world.attachments.groups = {"bot": {}} if restart else {}  # lost, or not readable
        if restart:
            world.start()
        await world.ticks(8)
        assert world.routes.routes["bot"] == route
        assert world.phases() == {V0: "ready", V1: "ready"}
        assert world.engine.loads == []
    assert world.said.facts(AlertRaised) == []


async def test_a_process_that_does_not_lead_knows_which_models_are_attached(world):
    follower = AttachedModels({}, world.attachments, FakeAttached)
    assert await follower.has("bot")
    assert not await follower.has("other")


async def test_a_model_that_was_never_released_is_detached_without_a_trace(world):
    await world.ticks()
    assert set(world.view.stored) == {DEFAULT_RUNTIME, "bot/blue/1", "bot/blue/2", "bot/green/1"}
    world.attachments.groups.clear()
    await world.ticks()
    assert set(world.view.stored) == {DEFAULT_RUNTIME}


async def test_the_folder_of_adapters_is_that_of_the_record(world):
    world.attachments.adapters["bot"] = "/models/adapters"
    await promoted(world)
    assert world.servers.adapters == Path("/models/adapters")
    del world.attachments.groups["bot"]
    await world.ticks()
    assert world.servers.adapters is None, "a record that is lost loads nothing more"
