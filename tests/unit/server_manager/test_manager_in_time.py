"""The manager as a process in virtual time: killed at its steps, among failures of everything, it answers once."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import facts as cf
from contracts.vocabulary import ServingSettings
from services.server_manager.domain.reconcile import plan_production
from shared.errors import Transient
from tests.kit.records import event_id
from tests.kit.soak import often
from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.factories import (
    deployable,
    release_finished,
    stage_released,
    stage_requested,
    traffic_requested,
)
from tests.unit.server_manager.fleet_world import FleetWorld, target
from tests.unit.server_manager.world import with_settings

NEXT = ServingSettings(runtime="next")


async def one_promotion(world):
    """A version is promoted, and nothing else happens."""
    world.publish(traffic_requested("t1", 1))


async def play(story, *kills):
    with tempfile.TemporaryDirectory() as folder:
        world = FleetWorld(Path(folder))
        running = [asyncio.create_task(world.keep_running(*kills)), asyncio.create_task(world.watch())]
        await asyncio.sleep(0)
        await story(world)
        await asyncio.sleep(12)
        busy = world.processes[0].life.steps[:] if world.processes else []
        await asyncio.sleep(18)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        ready = world.ready()
        await world.stop()
        assert world.violations == []
        assert world.deaths == len(kills)
        return world, ready, busy


def outcome(world, ready):
    """Return the end of it all, without times and the alerts about the outage of the process itself."""
    record = world.record()
    return {
        "ready": ready,
        "routes": {model: (route.epoch, route.cause_id) for model, route in world.routes.routes.items()},
        "answers": {event.id: [type(fact).__name__ for fact in world.answers(event)] for event in world.published},
        "open": (record.orders, record.waiting, record.lease and record.lease.state, record.outbox),
        "unacknowledged": world.streams.unacknowledged(),
    }


QUIET = ("FaultyRecords.get", "FakeLead.hold", "FakeLead.confirm", "EngineClient.index", "FakeRoutes.all", "keep_only")


def steps_that_change(steps):
    """Return the numbers of the steps that write, publish, load, unload, fetch or probe, before and after each."""
    return [number for number, name in enumerate(steps, start=1) if not name.endswith(QUIET)]


def test_killed_at_every_step_of_a_promotion_that_changes_something_it_ends_like_one_that_lived():
    world, ready, steps = run_virtual(play(one_promotion))
    expected, numbers = outcome(world, ready), steps_that_change(steps)
    assert any(steps[number - 1] == "after SlowLog.publish" for number in numbers)
    for kill_at in numbers:
        world, ready, _ = run_virtual(play(one_promotion, kill_at))
        assert outcome(world, ready) == expected, f"killed at step {kill_at}: {steps[kill_at - 1]}"


# -- whatever comes ---------------------------------------------------------------------------------------------------


def promoted(world, version):
    route = world.stored_routes().get("bot")
    epoch = route.epoch if route is not None else 0
    world.publish(traffic_requested(f"t-{len(world.published)}", version, epoch=epoch, release=f"r{version}"))


def staged(world, version):
    world.publish(stage_requested(f"s-{len(world.published)}", version, 0, release=f"r{version}"))


def unstaged(world, version):
    world.publish(stage_released(version, release=f"r{version}", seconds=len(world.published)))


def finished(world, version):
    world.publish(release_finished(f"r{version}"))


def rolled_back(world, _version):
    world.roll_back()


def restarted(world, _version):
    world.engine.restart()


def down(world, _version):
    world.engine.down = not world.engine.down


def ordered_on_next(world, version):
    """A version whose settings name the second runtime: another one than the same number on the first."""
    route = world.stored_routes().get("bot")
    event = traffic_requested(
        f"t-{len(world.published)}", version + 3, epoch=route.epoch if route else 0, release=f"r{version + 3}"
    )
    world.publish(with_settings(event, "target", NEXT))


def staged_on_next(world, version):
    event = stage_requested(f"s-{len(world.published)}", version + 3, 0, release=f"r{version + 3}")
    world.publish(with_settings(event, "candidate", NEXT))


def next_down(world, _version):
    world.engines["next"].down = not world.engines["next"].down


def next_restarted(world, _version):
    world.engines["next"].restart()


def next_hangs(world, _version):
    world.engines["next"].hanging = not world.engines["next"].hanging


def dead(world, version):
    if target(version) in world.engine.models:
        world.engine.dead.add(target(version))


def mute(world, version):
    if target(version) in world.engine.models:
        world.engine.mute.add(target(version))


def endless(world, version):
    world.engine.endless ^= {target(version)}


def broken(world, version):
    digest = deployable(version).manifest.digest
    if world.artifacts.broken.pop(digest, None) is None:
        world.artifacts.broken[digest] = Transient("store_unavailable", "no")


def bus_lost(world, _version):
    world.lose_bus(not world.bucket.lost)


def log_full(world, _version):
    if not world.bucket.lost:
        world.log.failing = None if world.log.failing else Transient("stream_full", "full")


def routes_lost(world, _version):
    world.spoilt.clear()
    world.routes.routes.clear()


def routes_deleted(world, _version):
    """The bucket does not exist for a while."""
    world.routes.bucket.deleted = not world.routes.bucket.deleted


def routes_silent(world, _version):
    """The bucket of the routes does not answer for a while, the others do."""
    if not world.bucket.lost:
        world.routes.bucket.lost = not world.routes.bucket.lost


def route_spoilt(world, _version):
    world.spoil_route()


def answer_lost(world, version):
    """A write happens, and its writer never learns of it."""
    (world.bucket if version == 1 else world.routes.bucket).lose_next_answer()


def log_silent(world, _version):
    world.log.silent = not world.log.silent


def paused(world, version):
    if world.processes:
        world.process.pause(5.0 * version, with_clock=version == 2)


def clock_jumped(world, version):
    if world.processes:
        world.process.clock.jump({1: 7200.0, 2: -7200.0, 3: 60.0}[version])


def everything_forgotten(world, _version):
    """The routes are lost, the file beside the models too, and the processes that knew them die."""
    world.forgotten = world.known_routes()
    world.spoilt.clear()
    world.routes.routes.clear()
    world.memory.routes.clear()
    for process in world.processes:
        process.life.kill()


def superseded(world, _version):
    """Another process takes the lease, and gives it up without having done anything."""
    world.lease.set("another")
    asyncio.get_running_loop().call_later(5.0, lambda: world.lease.set(""))


MOVES = [
    promoted, promoted, promoted, staged, staged, unstaged, finished, rolled_back, restarted, down, dead, mute, endless,
    broken, bus_lost, log_full, routes_lost, everything_forgotten, superseded,
    ordered_on_next, staged_on_next, staged_on_next, next_down, next_restarted, next_hangs,
    routes_deleted, routes_silent, route_spoilt, answer_lost, answer_lost, log_silent, paused, clock_jumped,
]  # fmt: skip


async def whatever(moves, kills):
    with tempfile.TemporaryDirectory() as folder:
        world = FleetWorld(Path(folder), "next")
        running = [asyncio.create_task(world.keep_running(*kills)), asyncio.create_task(world.watch())]
        await asyncio.sleep(0)
        running.append(asyncio.create_task(world.keep_running()))
        for move, version, delay_s in moves:
            move(world, version)
            await asyncio.sleep(delay_s)
        world.lose_bus(lost=False)
        world.routes.bucket.deleted = world.log.silent = False
        for model in list(world.spoilt):
            world.routes.routes[model] = world.spoilt.pop(model)
        for engine in world.engines.values():
            engine.down = engine.hanging = False
        world.engine.endless.clear()
        world.artifacts.broken.clear()
        await asyncio.sleep(900)
        ready = world.ready()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await world.stop()
        return world, ready


def open_staging(record):
    """Return the ids of the staging orders that may wait: those behind one whose targets are staged."""
    if record.lease is None:
        return set()
    assert record.lease.state == "staged"
    return {lease.lease_id for lease in record.waiting}


@settings(max_examples=often(2))
@example([(promoted, 3, 0.0), (promoted, 2, 0.0), (promoted, 1, 0.0)], [1])
@example(
    [
        (promoted, 1, 0.0),
        (log_silent, 1, 8.0),
        (superseded, 1, 0.0),
        (everything_forgotten, 1, 2.0),
        (superseded, 1, 8.0),
    ],
    [],
)
@example([(promoted, 1, 8.0), (route_spoilt, 1, 0.0), (routes_lost, 1, 0.0)], [])
@given(
    st.lists(
        st.tuples(st.sampled_from(MOVES), st.integers(1, 3), st.sampled_from([0.0, 0.5, 2.0, 8.0, 40.0])), max_size=12
    ),
    st.lists(st.integers(1, 300), max_size=2),
)
def test_whatever_comes_orders_are_answered_once_and_what_serves_stays_loaded(moves, kills):
    world, ready = run_virtual(whatever(moves, kills))
    assert world.violations == []
    assert world.streams.unacknowledged() == []
    assert set(plan_production(world.known_routes())) <= ready
    record = world.record()
    assert (record.orders, record.outbox) == ((), ())
    still_open = open_staging(record)
    assert {lease.lease_id for lease in record.waiting} == still_open
    finished_releases = {
        event.data.release_id for event in world.published if isinstance(event.data, cf.ReleaseFinished)
    }
    unstaged_releases = {event.data.release_id for event in world.published if isinstance(event.data, cf.StageReleased)}
    for event in world.published:
        facts = world.answers(event)
        made_way = [type(fact) for fact in facts] == [cf.VariantStaged, cf.VariantFailed]
        if made_way:
            assert facts[1].code == "endpoint_unreachable"
            assert event.data.candidate.serving == NEXT
        answers = 1 if made_way else len(facts)
        if isinstance(event.data, cf.TrafficRequested):
            assert answers == 1 or (answers == 0 and event.data.release_id in finished_releases), event.id
        if isinstance(event.data, cf.StageRequested):
            ended = event.data.release_id in finished_releases | unstaged_releases
            assert answers == 1 or (answers == 0 and (ended or event.id in still_open)), event.id
    ids = [event_id(emit) for emit in world.log.log]
    assert len(ids) == len(set(ids)), "nothing is published twice"
