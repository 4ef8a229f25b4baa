"""Two runtimes: each target is loaded, served and asked where it belongs, and one that is down stops nothing else."""

import asyncio

import pytest

from contracts.facts import AlertRaised, AlertResolved, PromotionRefused, VariantFailed, VariantStaged
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import Runtime, ServingSettings
from services.server_manager.domain import staging
from services.server_manager.indexes import DOWN_AFTER_S
from services.server_manager.ports import Indexed
from tests.unit.server_manager.factories import deployable, stage_released, stage_requested, traffic_requested
from tests.unit.server_manager.world import V0, V1, V2, World, with_settings

NEXT = ServingSettings(runtime="next")
OLD = Runtime(engine="vllm", engine_version="1", environment_digest="sha256:" + "1" * 64)
NEW = Runtime(engine="vllm", engine_version="2", environment_digest="sha256:" + "2" * 64)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, "next")
    world.engine.runtime, world.engines["next"].runtime = OLD, NEW
    return world


async def promote(world, event_id, version, settings=None, **more):
    event = traffic_requested(event_id, version, **more)
    await world.order(with_settings(event, "target", settings) if settings else event)
    await world.ticks()


async def on_both(world):
    """Let version 2 on the runtime `next` be active, and version 1 on the default one behind it."""
    await promote(world, "t1", 1, fallback=0)
    await promote(world, "t2", 2, NEXT, epoch=world.routes.routes["bot"].epoch)


async def test_each_target_is_loaded_on_its_runtime_and_its_route_names_endpoint_and_runtime(world):
    await on_both(world)
    assert (set(world.engine.models), set(world.engines["next"].models)) == ({V0, V1}, {V2})
    route = world.routes.routes["bot"]
    assert (route.active.endpoints, route.active.runtime) == (("127.0.0.1:2",), NEW)
    assert (route.previous.endpoints, route.previous.runtime) == (("127.0.0.1:1",), OLD)
    stored = world.view.stored
    assert [str(target.target) for target in stored[DEFAULT_RUNTIME].targets] == [V0, V1]
    assert [(str(target.target), target.phase, target.runtime) for target in stored["next"].targets] == [
        (V2, "ready", NEW)
    ]
    assert all(endpoint.answers for endpoint in stored.values())


async def test_what_runs_a_target_is_what_loaded_it_also_after_a_restart_of_the_manager(world):
    await promote(world, "t1", 1, fallback=0)
    world.engine.runtime = NEW  # the file was written again; the engine was not restarted
    world.start()
    await world.ticks()
    running = {str(target.target): target.runtime for target in world.view.stored[DEFAULT_RUNTIME].targets}
    assert running == {V0: OLD, V1: OLD}
    assert world.view.stored[DEFAULT_RUNTIME].runtime == NEW
    world.engine.restart()
    await world.ticks(6)
    running = {str(target.target): target.runtime for target in world.view.stored[DEFAULT_RUNTIME].targets}
    assert running == {V0: NEW, V1: NEW}


async def test_an_endpoint_that_is_down_alerts_for_its_targets_only(world):
    await on_both(world)
    world.engines["next"].down = True
    await world.ticks(2)
    assert world.said.facts(AlertRaised) == []
    await world.ticks(6)
    assert [(alert.kind, str(alert.target)) for alert in world.said.facts(AlertRaised)] == [("engine", V2)]
    assert world.phases()[V1] == "ready"
    assert (world.view.stored[DEFAULT_RUNTIME].answers, world.view.stored["next"].answers) == (True, False)
    world.engines["next"].restart()
    await world.ticks(8)
    assert [str(resolved.target) for resolved in world.said.facts(AlertResolved)] == [V2]
    assert set(world.engines["next"].models) == {V2}


async def test_nothing_is_unloaded_from_an_endpoint_that_has_not_listed_what_it_holds(world):
    digest = deployable(2).manifest.digest
    world.engines["next"].models[V2] = Indexed(ready=True, digest=digest, memory_bytes=200, runtime=NEW)
    world.engines["next"].down = True
    await promote(world, "t1", 1, fallback=0)
    await world.ticks(8, seconds=20.0)
    assert set(world.engines["next"].models) == {V2}
    assert world.artifacts.kept == set()  # copies that it may need are not removed
    world.engines["next"].down = False
    await world.ticks()
    assert set(world.engines["next"].models) == {V2}, "it is listed now, and may have served until a moment ago"
    await world.ticks(8, seconds=20.0)
    assert world.engines["next"].models == {}, "no route needs it"


async def test_an_endpoint_that_hangs_delays_the_others_by_a_moment(world):
    await promote(world, "t1", 1, fallback=0)
    never = asyncio.Event()
    world.engines["next"].hooks.at["index before"] = never.wait
    world.clock.seconds += DOWN_AFTER_S + 1
    await world.manager.run_pass()
    assert world.phases()[V1] == "ready"
    assert not world.view.stored["next"].answers
    never.set()
    await world.ticks()
    assert world.view.stored["next"].answers


async def test_staging_on_an_endpoint_that_is_down_waits_and_lets_others_go_first(world):
    await promote(world, "t1", 1, fallback=0)
    world.engines["next"].down = True
    await world.ticks(6)
    waiting = with_settings(stage_requested("s1", 2, 0), "candidate", NEXT)
    for event in (waiting, stage_requested("s2", 3, 0, release="r2")):
        await world.state.write(lambda record, event=event: staging.enqueue_staging(record, event))
    await world.ticks()
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s2"]


async def test_what_a_silent_endpoint_holds_is_not_counted_on_for_memory(world):
    """Two targets that nothing needs linger: the older one cannot be unloaded now, so the other one is, at once."""
    await promote(world, "t1", 1, fallback=0)
    first = with_settings(stage_requested("s1", 2, 1), "candidate", NEXT)
    for version, event in ((2, first), (4, stage_requested("s2", 4, 1))):
        await world.state.write(lambda record, event=event: staging.enqueue_staging(record, event))
        await world.ticks(3)
        await world.state.write(
            lambda record, version=version: staging.release_staging(record, stage_released(version))
        )
        await world.ticks(1)
    assert (set(world.engine.models), set(world.engines["next"].models)) == ({V0, V1, "bot.v4.bf16"}, {V2})
    world.engines["next"].down = True
    await world.ticks(4)
    await world.state.write(lambda record: staging.enqueue_staging(record, stage_requested("s3", 5, 3, release="r3")))
    await world.ticks(5)
    assert [staged.lease_id for staged in world.said.facts(VariantStaged)] == ["s1", "s2", "s3"]
    assert set(world.engines["next"].models) == {V2}


async def test_an_unknown_runtime_is_refused_with_those_that_there_are(world):
    other = ServingSettings(runtime="other")
    event = with_settings(stage_requested("s1", 2, 0), "candidate", other)
    await world.state.write(lambda record: staging.enqueue_staging(record, event))
    await world.ticks()
    (failed,) = world.said.facts(VariantFailed)
    assert (
        failed.code,
        "bot.v2.bf16: The serving fleet has no runtime other; it has default, next." in failed.reason,
    ) == (
        "runtime_unknown",
        True,
    )
    await promote(world, "t1", 1, other)
    (refused,) = world.said.facts(PromotionRefused)
    assert refused.code == "runtime_unknown"


async def test_a_route_to_a_runtime_that_was_removed_alerts_with_what_is_missing(world, tmp_path):
    await on_both(world)
    del world.engines["next"]
    world.limits = world.limits.__class__(**{**vars(world.limits), "endpoints": {name: name for name in world.engines}})
    world.start()
    await world.ticks(6)
    (alert,) = world.said.facts(AlertRaised)
    assert (alert.kind, str(alert.target)) == ("engine", V2)
    assert "the serving fleet has no runtime next; it has default" in alert.message
    assert world.phases()[V1] == "ready"


async def test_an_index_that_was_asked_before_the_lease_was_lost_counts_for_nothing(world):
    await promote(world, "t1", 1, fallback=0)
    never = asyncio.Event()
    world.engines["next"].hooks.at["index before"] = never.wait
    world.clock.seconds += 1
    await world.manager.run_pass()
    world.supersede()
    await world.manager.run_pass()
    never.set()
    await asyncio.sleep(0)
    assert world.manager.executor.known == frozenset()


async def test_an_engine_that_fails_in_an_unknown_way_is_one_that_does_not_answer(world):
    await promote(world, "t1", 1, fallback=0)

    async def fail():
        raise RuntimeError("no one knows")

    world.engines["next"].hooks.at["index before"] = fail
    await world.ticks(6)
    assert world.phases()[V1] == "ready"
    assert not world.view.stored["next"].answers
