"""Silence is the target's failure only if it answered no other request: a flood of valid requests makes others wait."""

import pytest

from shared.errors import Transient
from testbed import factories as f
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import World

QUEUED = Transient("no_first_token", "generated nothing for 60 s", silent_s=60.0)
PREEMPTED = Transient("engine_dead", "fell silent for 20 s", silent_s=20.0)
DEAD = Transient("engine_dead", "EngineDeadError")


def world(error, endpoints=("a:1",)):
    return World(
        f.route(canary=None, active=f.served(7, endpoints=endpoints)), engine=FakeEngine(poison={"wait": error})
    )


async def parsed(world, word, **about):
    await world.chat(messages=[{"role": "user", "content": word}], **about)
    return world.records[-1].error, world.records[-1].caused_by


@pytest.mark.parametrize(("error", "just"), [(QUEUED, 29.0), (PREEMPTED, 9.0)])
async def test_silence_while_others_are_answered_is_no_evidence_against_the_target(error, just):
    gateway = world(error)
    await parsed(gateway, "others")
    await gateway.clock.pause(just)
    assert await parsed(gateway, "wait") == (error.code, "infrastructure")


@pytest.mark.parametrize(("error", "long"), [(QUEUED, 31.0), (PREEMPTED, 11.0)])
async def test_silence_without_any_other_answer_is_the_targets(error, long):
    """Half of the time is enough: the streams that one dead engine leaves behind did not end in the same moment."""
    gateway = world(error)
    assert await parsed(gateway, "wait") == (error.code, "target")
    await parsed(gateway, "others")
    await gateway.clock.pause(long)
    assert await parsed(gateway, "wait") == (error.code, "target")


async def test_a_death_that_the_engine_reports_is_the_targets_whatever_was_answered_before():
    gateway = world(DEAD)
    await parsed(gateway, "others")
    assert await parsed(gateway, "wait") == ("engine_dead", "target")


async def test_what_another_target_gives_excuses_nothing():
    gateway = world(QUEUED)
    await parsed(gateway, "others", model=f"{f.MODEL}@v6")
    assert gateway.records[-1].target == f.target(6)
    assert await parsed(gateway, "wait") == ("no_first_token", "target")


async def test_what_another_endpoint_gives_excuses_nothing():
    gateway = world(QUEUED)
    gateway.checks.note_delta(f.target(7), "b:1", gateway.clock.monotonic())
    assert await parsed(gateway, "wait") == ("no_first_token", "target")


async def test_what_is_remembered_of_targets_is_bounded():
    checks = world(QUEUED).checks
    for number in range(3000):
        checks.note_delta(f.target(7), f"a:{number}", 0.0)
    assert len(checks._last_delta_s) <= 1000
