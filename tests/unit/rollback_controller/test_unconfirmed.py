"""An alert that nothing confirms: our own probes decide, and are asked again while it is open."""

import asyncio

import pytest

from contracts import facts as cf
from services.rollback_controller.domain.doubt import note_shown
from services.rollback_controller.domain.record import RollbackState
from testbed import factories as f
from tests.kit.fake_bus import Message
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.slow_sides import SLOW, both_slow, codes, started


async def alerted(world, trigger="slow", **about):
    world.publish(world.alert(trigger=trigger, **{"confirmed_by": "none"} | about))
    await asyncio.sleep(1)
    return world.route().active.target


@virtual_time
async def test_callers_alone_roll_nothing_back_however_long_they_go_on():
    world = started()
    for number in range(5):
        kind = cf.AlertUpdated if number else cf.AlertRaised
        for trigger in ("slow", "errors", "empty"):
            assert await alerted(world, trigger, kind=kind) == f.target(7)
        await asyncio.sleep(15)
    assert codes(world) == ["unconfirmed"] * 3, "said once for each alert"
    await world.stop()


@virtual_time
async def test_a_slow_version_is_rolled_back_when_probes_show_it():
    world = started()
    world.probe.times[str(f.target(7))] = SLOW
    assert await alerted(world) == f.target(6)
    await world.stop()


@virtual_time
async def test_an_alert_is_decided_again_once_it_is_confirmed():
    world = started()
    assert await alerted(world) == f.target(7)
    assert await alerted(world, kind=cf.AlertUpdated, confirmed_by="pairs") == f.target(6)
    await world.stop()


@pytest.mark.parametrize("trigger", ["slow", "errors"])
@virtual_time
async def test_an_engine_that_fails_probes_is_rolled_back_by_the_next_update_if_no_death_is_reported(trigger):
    world = started()
    world.probe.unloaded.add(str(f.target(7)))
    raised_at = world.clock.true_time()
    assert await alerted(world, trigger, raised_at=raised_at) == f.target(7)
    assert codes(world) == ["unconfirmed"]
    await asyncio.sleep(14)
    assert await alerted(world, trigger, kind=cf.AlertUpdated, raised_at=raised_at) == f.target(6)
    await world.stop()


@pytest.mark.parametrize("trigger", ["slow", "errors"])
@virtual_time
async def test_an_engine_that_is_killed_for_the_first_time_as_its_probes_are_asked_is_not_rolled_back(trigger):
    """No gateway has reported its death when the alert is decided; it is loaded again after twenty seconds."""
    world = started()
    world.raised_at = world.clock.true_time()
    world.probe.unloaded.add(str(f.target(7)))
    assert await alerted(world, trigger, raised_at=world.raised_at) == f.target(7)
    await asyncio.sleep(14)
    assert await probed(world, 1, trigger, dead_since=world.raised_at) == f.target(7)
    world.probe.unloaded.clear()
    for number in range(2, 8):
        assert await probed(world, number, trigger) == f.target(7)
    await world.stop()


@virtual_time
async def test_the_same_alert_delivered_again_is_no_update_that_knows_of_no_death():
    """The process died before it confirmed the message; what the alert knows is as old as before."""
    world = started()
    world.probe.unloaded.add(str(f.target(7)))
    event = world.publish(world.alert(trigger="errors", confirmed_by="none"))
    (message,) = [message for message in world.log.stored if message.event.id == event.id]
    for _ in range(2):
        await asyncio.sleep(12)
        assert world.route().active.target == f.target(7)
        world.streams.put(Message(message.sequence, message.event, message.stored_at))
        world.bus.deliver()
    await asyncio.sleep(1)
    assert world.route().active.target == f.target(7)
    assert world.probe.asked.count(str(f.target(7))) == 9, "it was decided three times"
    await world.stop()


@virtual_time
async def test_a_version_that_answers_no_probe_in_time_is_as_slow_as_can_be():
    world = started()
    world.probe.hanging.add(str(f.target(7)))
    world.publish(world.alert(confirmed_by="none"))
    await asyncio.sleep(6)
    assert world.route().active.target == f.target(6)
    await world.stop()


@pytest.mark.parametrize("confirmed_by", ["none", "pairs"])
@pytest.mark.parametrize("off_s", [0, 600, -600])
@virtual_time
async def test_both_slow_on_hardware_of_their_own_is_held_for_a_minute_by_the_clock_of_the_bus(confirmed_by, off_s):
    world = both_slow(apart=True, slice_ratio=0.0)
    world.clock.jump(off_s)
    raised_at = world.clock.true_time()
    assert await alerted(world, raised_at=raised_at, confirmed_by=confirmed_by) == f.target(7)
    await asyncio.sleep(70)
    update = {"kind": cf.AlertUpdated, "raised_at": raised_at, "confirmed_by": confirmed_by}
    assert await alerted(world, **update) == f.target(6)
    await world.stop()


@pytest.mark.parametrize("confirmed_by", ["none", "pairs"])
@virtual_time
async def test_both_slow_on_one_machine_moves_traffic_at_once(confirmed_by):
    """The version may be what slows the machine."""
    world = both_slow(apart=False)
    assert await alerted(world, raised_at=world.clock.true_time(), confirmed_by=confirmed_by) == f.target(6)
    await world.stop()


@pytest.mark.parametrize(("trigger", "confirmed_by"), [("slow", "callers"), ("errors", "callers"), ("errors", "pairs")])
@virtual_time
async def test_a_confirmed_alert_asks_no_probe_first(trigger, confirmed_by):
    world = started()
    assert await alerted(world, trigger, confirmed_by=confirmed_by) == f.target(6)
    assert world.probe.asked == [str(f.target(6))], "only the one that traffic moves to"
    await world.stop()


@virtual_time
async def test_an_alert_that_is_over_when_its_rollback_may_begin_again_rolls_nothing_back():
    world = started()
    over = {"kind": cf.AlertUpdated, "confirmed_by": "callers", "limit": 0.02}
    assert await alerted(world, "errors") == f.target(7)
    world.probe.times[str(f.target(7))] = SLOW
    assert await alerted(world, "slow", kind=cf.AlertUpdated, value=0.0, limit=0.02) == f.target(7), "not probed"
    await asyncio.sleep(600)
    assert await alerted(world, "errors", **over, value=0.0) == f.target(7)
    assert await alerted(world, "errors", **over, value=0.5) == f.target(6)
    await world.stop()


async def probed(world, number, trigger="slow", **deaths):
    """Publish an alert, or an update of it, 15 s after the one before; return the target that serves then."""
    kind = cf.AlertUpdated if number else cf.AlertRaised
    about = {"raised_at": world.raised_at, "deaths": cf.DeathCounts(deaths=1, holders=1, **deaths)}
    serving = await alerted(world, trigger, kind=kind, **about)
    await asyncio.sleep(14)
    return serving


@pytest.mark.parametrize("trigger", ["slow", "errors"])
@virtual_time
async def test_a_version_whose_engine_died_once_and_answers_is_rolled_back_after_a_minute_of_bad_probes(trigger):
    world = started()
    world.raised_at = world.clock.true_time()
    world.probe.times[str(f.target(7))] = SLOW
    if trigger == "errors":
        world.probe.unloaded.add(str(f.target(7)))
    serving = [await probed(world, number, trigger) for number in range(6)]
    assert (serving[:4], serving[-1]) == ([f.target(7)] * 4, f.target(6))
    await world.stop()


@pytest.mark.parametrize(("pause_s", "jump_s"), [(600, 0), (0, 600), (0, -600)])
@virtual_time
async def test_probes_before_and_after_a_pause_are_no_minute_of_bad_probes(pause_s, jump_s):
    """The monitor stood still, or this process's clock was set: what was in between is unknown."""
    world = started()
    world.raised_at = world.clock.true_time()
    world.probe.times[str(f.target(7))] = SLOW
    assert await probed(world, 0) == f.target(7)
    await asyncio.sleep(pause_s)
    world.clock.jump(jump_s)
    serving = [await probed(world, number) for number in range(1, 7)]
    assert (serving[:4], serving[-1]) == ([f.target(7)] * 4, f.target(6))
    await world.stop()


@virtual_time
async def test_a_version_that_is_killed_between_an_alert_and_its_probes_is_not_rolled_back():
    """Not either after hours: what is good in between begins the minute anew."""
    world = started()
    world.raised_at = world.clock.true_time()
    for number in range(40):
        killed = number % 4 != 3
        (world.probe.unloaded.add if killed else world.probe.unloaded.discard)(str(f.target(7)))
        dead = {"dead_since": world.clock.true_time()} if number % 4 == 1 else {}
        assert await probed(world, number, "errors", **dead) == f.target(7)
    assert codes(world) == ["unconfirmed"]
    await world.stop()


@virtual_time
async def test_an_update_within_the_limit_in_between_begins_the_minute_anew():
    """No probe is asked for it, so that nothing shows what the version did meanwhile."""
    world = started()
    world.raised_at = world.clock.true_time()
    world.probe.unloaded.add(str(f.target(7)))
    for number in range(3):
        assert await probed(world, number, "errors") == f.target(7)
    within = {"kind": cf.AlertUpdated, "value": 0.0, "limit": 0.02, "raised_at": world.raised_at}
    assert await alerted(world, "errors", **within) == f.target(7)
    assert world.state().failing == {}
    serving = [await probed(world, number, "errors") for number in range(3, 9)]
    assert (serving[:4], serving[-1]) == ([f.target(7)] * 4, f.target(6))
    await world.stop()


@virtual_time
async def test_each_death_that_is_known_begins_the_minute_anew():
    """Deaths that follow each other are evidence by whose requests were there, and not by how long they last in all."""
    world = started()
    world.raised_at = world.clock.true_time()
    world.probe.unloaded.add(str(f.target(7)))
    for number in range(20):
        dead = {"dead_since": world.clock.true_time() - f.timedelta(seconds=5)} if number % 2 else {}
        assert await probed(world, number, "errors", **dead) == f.target(7)
    await world.stop()


@pytest.mark.parametrize("off_s", [600, -600])
@virtual_time
async def test_how_long_an_engine_is_dead_is_told_by_the_clock_of_the_bus(off_s):
    world = started()
    world.clock.jump(off_s)
    dead = {"dead_since": world.clock.true_time()}
    world.raised_at = world.clock.true_time()
    world.probe.unloaded.add(str(f.target(7)))
    serving = [await probed(world, number, "errors", **dead) for number in range(6)]
    assert (serving[:4], serving[-1]) == ([f.target(7)] * 4, f.target(6))
    await world.stop()


def test_a_clock_that_is_set_back_does_not_lengthen_the_minute():
    deaths = cf.DeathCounts(deaths=1, holders=1)
    alert = f.fact(cf.AlertRaised, deaths=deaths)
    state = RollbackState(model=f.MODEL, environment="production", failing={alert.alert_id: f.after(3600)})
    shown = note_shown(state, alert, "target", f.after(10))
    assert shown.failing == {alert.alert_id: f.after(10)}
    for at in (20, 20, 30):  # also twice at one moment
        shown = note_shown(shown, alert, "target", f.after(at))
        assert shown.failing == {alert.alert_id: f.after(10)}
