"""Bodies that were in flight when an engine died: refused elsewhere, whoever sends them, by every gateway."""

import asyncio

from shared.errors import Transient
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import OTHER, OTHER_KEY, OWN_KEYS, World

DEAD = Transient("engine_dead", "the engine is dead")
KILL = {"messages": [{"role": "user", "content": "kill"}]}
NEW, OLD = str(f.target(7)), str(f.target(6))


class Dying(FakeEngine):
    """Engines that die of what holds `kill`, and are loaded again at once."""

    error = DEAD

    async def send(self, endpoint, target, request):
        if b"kill" in request.body:
            self.calls.append((endpoint, str(target), ""))
            raise self.error
        async for piece in super().send(endpoint, target, request):
            yield piece


def route(version=7, *, endpoints=("a:1",), **changes):
    behind = f.served(13 - version, endpoints=("b:1",))
    return f.route(canary=None, active=f.served(version, endpoints=endpoints), previous=behind, history=(), **changes)


async def killed(**about):
    """Return a gateway whose engine died of a body."""
    world = World(route(**about), engine=Dying(), keys=(*OWN_KEYS, OTHER_KEY))
    await world.ask(2, headers=OTHER)
    assert (await world.chat(headers=OTHER, **KILL)).status_code == 502
    await world.bans.settle()
    return world


async def roll_back(world, epoch=13):
    await world.table.apply(f.MODEL, route(6, epoch=epoch), epoch)


async def test_what_was_in_flight_at_a_death_is_refused_on_other_versions_for_a_minute():
    world = await killed()
    await roll_back(world)
    refused = await world.chat(headers=OTHER, **KILL)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "body_refused")
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    assert (await world.chat(headers=OTHER)).status_code == 200, "other requests are answered"
    assert world.sent_to(OLD) == 1
    await world.clock.pause(60.0)
    await world.chat(headers=OTHER, **KILL)
    assert world.sent_to(OLD) > 1


async def test_where_a_version_has_several_replicas_the_others_do_not_get_it_either():
    world = await killed(endpoints=("a:1", "c:1"))
    assert (await world.chat(headers=OTHER, **KILL)).status_code == 503
    single = await killed()
    assert (await single.chat(headers=OTHER, **KILL)).status_code == 502, "the replica that died may have it"


async def test_what_may_go_to_the_replica_that_died_of_it_goes_to_no_other_version():
    world = await killed()
    world.engine.error = Transient("engine_failed", "not this time")
    assert (await world.chat(headers=OTHER, **KILL)).status_code == 502
    assert world.sent_to(OLD) == 0
    other = {"messages": [{"role": "user", "content": "another kill"}]}
    await world.chat(headers=OTHER, **other)
    assert world.sent_to(OLD) > 0, "another body is tried there"


async def test_a_body_that_killed_two_versions_is_refused_everywhere_for_ten_minutes():
    world = await killed()
    await roll_back(world)
    await world.clock.pause(60.0)
    await world.ask(1, headers=OTHER)
    assert (await world.chat(headers=OTHER, **KILL)).status_code == 502
    for _ in range(9):
        assert (await world.chat(headers=OTHER, **KILL)).status_code == 503
        await world.clock.pause(60.0)
    await world.clock.pause(60.0)
    assert (await world.chat(headers=OTHER, **KILL)).status_code == 502


async def test_other_gateways_are_told_and_refuse_it():
    world = await killed()
    report = world.bans.reports.get_nowait()
    assert (report.target, len(report.bodies)) == (f.target(7), 1)
    other = World(route(6), engine=Dying(), keys=(*OWN_KEYS, OTHER_KEY))
    other.bans.take(report)
    assert (await other.chat(headers=OTHER, **KILL)).status_code == 503
    assert (await other.chat(headers=OTHER)).status_code == 200


async def test_what_meets_an_engine_that_is_dead_already_killed_nothing():
    world = await killed()
    world.engine.poison = {"hello": DEAD}
    assert (await world.chat(headers=OTHER)).status_code == 502
    world.engine.poison = {}
    await roll_back(world)
    assert (await world.chat(headers=OTHER)).status_code == 200
    died = [record.engine_died for record in world.records if record.error == "engine_dead"]
    assert died == ["meanwhile", "before"]


async def test_all_that_were_in_flight_are_refused_and_telemetry_names_their_bodies():
    world = World(route(), engine=Dying(), keys=(*OWN_KEYS, OTHER_KEY))
    await world.ask(1, headers=OTHER)
    gate = world.engine.gate = asyncio.Event()
    waiting = asyncio.ensure_future(world.chat(headers=OTHER, stream=True))
    for _ in range(50):
        await asyncio.sleep(0)
    await world.chat(headers=OTHER, **KILL)
    gate.set()
    await waiting
    await world.bans.settle()
    assert len(world.bans.reports.get_nowait().bodies) == 2
    assert [len(record.body) for record in world.records if record.error] == [12]


async def test_requests_of_a_key_that_is_no_evidence_say_so():
    world = World(route(), keys=(*OWN_KEYS, OTHER_KEY.model_copy(update={"evidence": False})))
    await world.ask(1, headers=OTHER)
    assert [record.is_evidence for record in world.records] == [False]


async def test_requests_that_name_a_version_say_so():
    world = World(route())
    await world.chat()
    await world.chat(model="support-bot@v7")
    assert [record.pinned for record in world.records] == [False, True]


async def test_once_deaths_count_no_more_no_digest_is_computed():
    world = await killed()
    assert not world.bans.is_empty
    await world.clock.pause(600.0)
    assert world.bans.is_empty
