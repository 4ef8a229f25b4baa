"""Probes that are asked when requests look slow: an alert that follows is decided by what they showed."""

import asyncio
from datetime import timedelta

import pytest

from contracts import facts as cf
from decisions.probed import TIMED_OUT, ProbedAnswer
from decisions.suspicion import EVERY_S, FRESH_S
from services.rollback_controller.early_probes import ask_sides
from testbed import factories as f
from tests.kit.fakes_rollback import FakeProbe
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.slow_sides import SLOW, TRIGGERS, both_slow, started

ACTIVE, PREVIOUS = f.target(7), f.target(6)


async def watched(world):
    """Let a process ask early, and its engines take 0.6 s to answer a probe."""
    await world.life.close()
    world.asks_early = True
    world.probe.takes_s = 0.6
    world.start()
    await asyncio.sleep(1)
    return world


def slow_requests(world, count=1, version=7, **about):
    world.requests(version, count=count, **{"ttft_ms": 3_000.0, "e2e_ms": 3_040.0} | about)


def asked(world):
    return [world.probe.asked.count(str(target)) for target in (ACTIVE, PREVIOUS)]


async def raised(world, **about):
    """Publish an alert and return the seconds until traffic has moved, 20 if it has not by then."""
    world.publish(world.alert(confirmed_by="none", **about))
    for tenths in range(200):
        if world.route().active.target == PREVIOUS:
            return tenths / 10
        await asyncio.sleep(0.1)
    return 20.0


@virtual_time
async def test_an_alert_after_slow_requests_waits_for_no_probes_of_its_own():
    world = await watched(started())
    world.probe.times[str(ACTIVE)] = SLOW
    slow_requests(world)
    await asyncio.sleep(0.3)
    assert asked(world) == [3, 3]
    taken_s = await raised(world)
    assert 0.8 <= taken_s <= 1.1, "0.3 s are left of the probes, and the version behind is asked once more"
    assert asked(world) == [3, 4]
    await world.stop()


@virtual_time
async def test_the_machine_that_is_slow_for_both_is_found_as_early():
    world = await watched(both_slow(apart=False))
    slow_requests(world)
    await asyncio.sleep(1)
    assert 0.6 <= await raised(world) <= 0.8, "the version behind is asked once more"
    assert asked(world) == [3, 4]
    await world.stop()


@virtual_time
async def test_an_alert_of_another_trigger_does_not_wait_for_probes_that_show_nothing_of_it():
    world = await watched(started())
    slow_requests(world)
    await asyncio.sleep(0.2)
    assert asked(world) == [3, 3]
    world.publish(world.alert(trigger="errors", confirmed_by="none"))
    await asyncio.sleep(0.1)
    assert asked(world) == [6, 6], "the first ones have 0.3 s left"
    await world.stop()


@pytest.mark.parametrize(("kind", "taken_s"), [(cf.AlertRaised, 0.9), (cf.AlertUpdated, 5.0)])
@virtual_time
async def test_a_first_token_is_waited_for_until_it_shows_that_the_version_is_slow(kind, taken_s):
    """The threshold is 0.8 s; an update waits to the end, since it matters whether the version behind answers."""
    world = started()
    world.probe.hanging.add(str(ACTIVE))
    assert taken_s <= await raised(world, kind=kind) <= taken_s + 0.4
    await world.stop()


class Followed(FakeProbe):
    """Counts the probes that are ended before their answer."""

    ended = 0

    async def measure(self, served, *, first_only=False):
        try:
            return await super().measure(served, first_only=first_only)
        except asyncio.CancelledError:
            self.ended += 1
            raise


@virtual_time
async def test_probes_that_are_too_late_end_by_themselves():
    """To cancel an answer that is about to end is a race inside Triton."""
    probe = Followed()
    probe.hanging.add(str(ACTIVE))
    answers = await ask_sides(probe, (f.served(7), f.served(6)), TRIGGERS[0])
    assert answers == [(TIMED_OUT, ProbedAnswer(50.0, 0.0))] * 3
    await asyncio.sleep(6)
    assert probe.ended == 0


@pytest.mark.parametrize("early", [True, False])
@virtual_time
async def test_both_slow_that_is_not_waited_for_still_shows_whether_the_previous_version_answers(early):
    """An alert may be raised when another one has been held for a minute: then a slice decides, if it answers."""
    world = await watched(both_slow(apart=True))
    world.probe.takes_s = 2.0
    if early:
        slow_requests(world)
        await asyncio.sleep(2)
    began_at = world.clock.true_time() - timedelta(seconds=61)
    world.publish(world.alert(confirmed_by="none", raised_at=began_at))
    await asyncio.sleep(8)
    assert world.route().active.target == ACTIVE
    assert [fact.phase for fact in world.log.facts(cf.SliceChanged)] == ["started"]
    await world.stop()


@virtual_time
async def test_probes_that_came_too_early_are_asked_once_more_as_the_suspicion_grows():
    world = await watched(started())
    slow_requests(world)
    await asyncio.sleep(1)
    assert asked(world) == [3, 3]
    world.probe.times[str(ACTIVE)] = SLOW
    for number in range(4):
        slow_requests(world)
        await asyncio.sleep(0.7)
        assert asked(world) == [6, 6], f"after {number + 2} slow requests"
    assert await raised(world) <= 0.8
    await world.stop()


@virtual_time
async def test_probes_without_an_alert_roll_nothing_back():
    world = await watched(started())
    world.probe.times[str(ACTIVE)] = SLOW
    for _ in range(60):
        slow_requests(world)
        await asyncio.sleep(1)
    assert world.route().active.target == ACTIVE
    assert asked(world)[0] <= 3 * 2 * (60 / EVERY_S + 1)
    await world.stop()


@pytest.mark.parametrize("change", ["recovered", "gone", "old", "moved", "update"])
@virtual_time
async def test_an_alert_is_decided_by_probes_of_its_own(change):
    """Where the early ones do not show the version, met errors, are old, of other endpoints, or it is an update."""
    world = await watched(started())
    slow = {str(ACTIVE): SLOW}
    world.probe.times |= {} if change == "recovered" else slow
    if change == "gone":
        world.probe.unloaded.add(str(ACTIVE))
    slow_requests(world)
    await asyncio.sleep(FRESH_S + 1 if change == "old" else 3)
    world.probe.unloaded.clear()
    world.probe.times.clear()
    world.probe.times |= slow if change == "recovered" else {}
    if change == "moved":
        elsewhere = f.served(7, endpoints=("127.0.0.1:9",))
        world.routes.set("production", world.route().model_copy(update={"active": elsewhere}))
    about = {"kind": cf.AlertUpdated} if change == "update" else {}
    taken_s = await raised(world, **about)
    assert asked(world)[0] == 6
    assert (taken_s < 20) is (change == "recovered")
    await world.stop()


@virtual_time
async def test_what_a_drill_a_manual_trigger_or_another_target_shows_is_not_probed():
    world = await watched(started())
    slow_requests(world, ttft_ms=100.0, e2e_ms=140.0)
    slow_requests(world, version=5)
    slow_requests(world, slice="s-1")
    slow_requests(world, drill="d-1")
    slow_requests(world, environment="staging")
    await asyncio.sleep(3)
    assert asked(world) == [0, 0]
    await world.stop()


@virtual_time
async def test_a_bus_that_fails_early_probes_leaves_the_alert_to_its_own():
    world = await watched(started())
    world.probe.times[str(ACTIVE)] = SLOW
    world.routes.lost = True
    slow_requests(world)
    await asyncio.sleep(1)
    assert asked(world) == [0, 0]
    world.routes.lost = False
    assert await raised(world) < 5
    assert asked(world) == [3, 4]
    await world.stop()
