"""A standby that is not ready, pass by pass: one alert, kept over restarts, resolved when the standby is ready again."""

import pytest

from contracts.facts import AlertRaised, AlertResolved, SuspensionJudged
from contracts.routes import Suspended
from services.server_manager.domain.reconcile import Phase
from shared.errors import Transient
from tests.unit.server_manager.factories import START, deployable, route, served
from tests.unit.server_manager.world import V1, V2, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def raised_alerts(world):
    return [alert.alert_id for alert in world.said.facts(AlertRaised)]


def resolved(world):
    return [alert.message for alert in world.said.facts(AlertResolved)]


def keep_from_loading(world, version, reason="no space"):
    world.artifacts.broken[deployable(version).manifest.digest] = Transient("disk_full", reason)


async def test_a_previous_that_heals_within_a_moment_is_not_spoken_of(world):
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    world.engine.dead.add(V1)
    await world.ticks(12)
    assert world.engine.loads.count(V1) == 2
    assert raised_alerts(world) == []


async def test_a_dead_previous_that_cannot_be_loaded_is_said_and_resolved_when_it_is_back(world):
    world.routes.routes["bot"] = route(2, 1)
    await world.ticks()
    world.engine.dead.add(V1)
    keep_from_loading(world, 1)
    await world.ticks(20)
    (raised,) = world.said.facts(AlertRaised)
    assert (raised.alert_id, raised.kind, raised.severity) == ("standby-bot", "standby", "warning")
    assert (raised.target, raised.runbook) == (deployable(2).target, "docs/runbooks/standby.md")
    assert raised.message.startswith("Automatic rollback of bot is disarmed: bot.v1.bf16 ")
    assert resolved(world) == []
    world.artifacts.broken.clear()
    await world.ticks(10, seconds=10)
    assert resolved(world) == ["Automatic rollback of bot is armed: bot.v1.bf16 generates."]
    assert world.state.record.alerts == ()


async def test_a_first_release_with_nothing_behind_it_is_alerted_once_over_restarts_until_there_is_something(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks(4)
    assert raised_alerts(world) == []
    await world.ticks(30)
    assert raised_alerts(world) == ["standby-bot"]
    for _ in range(3):
        world.start()
        await world.ticks(10)
    assert raised_alerts(world) == ["standby-bot"]
    assert resolved(world) == []
    world.routes.routes["bot"] = route(2, 1, epoch=2)
    await world.ticks()
    assert len(resolved(world)) == 1


async def test_a_replica_that_takes_over_begins_its_own_count(world):
    world.routes.routes["bot"] = route(1)
    await world.ticks(4)
    for _ in range(30):
        world.lease.set("another")
        await world.ticks(1)
    world.lease.set("")
    await world.ticks(4)
    assert raised_alerts(world) == []
    await world.ticks(3)
    assert raised_alerts(world) == ["standby-bot"]


async def suspended_and_dead(world, error):
    """Version 2 is suspended while version 1 serves; its engine dies, and loads of it end with an error from then on."""
    suspended = Suspended(served=served(2), cause="slow", since=START)
    world.routes.routes["bot"] = route(1, 0, suspended=(suspended,))
    await world.ticks(6)
    assert world.phases()[V2] is Phase.READY
    world.engine.dead.add(V2)
    world.artifacts.broken[deployable(2).manifest.digest] = error
    await world.ticks(30, seconds=10)


async def test_a_suspended_version_that_does_not_load_again_is_confirmed_once(world):
    await suspended_and_dead(world, Transient("load_failed", "the tokenizer is damaged"))
    (verdict,) = world.said.facts(SuspensionJudged)
    assert (verdict.target, verdict.since, verdict.verdict) == (deployable(2).target, START, "confirmed")
    assert (verdict.reason, verdict.pairs.total) == (f"{V2} does not load again: the tokenizer is damaged", 0)


async def test_what_the_machine_lacks_confirms_nothing(world):
    await suspended_and_dead(world, Transient("disk_full", "no space"))
    assert world.said.facts(SuspensionJudged) == []


async def test_while_the_version_that_serves_does_not_generate_either_nothing_is_confirmed(world):
    world.artifacts.broken[deployable(1).manifest.digest] = Transient("load_failed", "the driver is gone")
    suspended = Suspended(served=served(2), cause="slow", since=START)
    world.routes.routes["bot"] = route(1, suspended=(suspended,))
    world.artifacts.broken[deployable(2).manifest.digest] = Transient("load_failed", "the driver is gone")
    await world.ticks(30, seconds=10)
    assert world.said.facts(SuspensionJudged) == []
