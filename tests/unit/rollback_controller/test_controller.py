"""The controller as a whole, in virtual time, on fakes: each branch, and what it says about it."""

import asyncio
from collections import Counter

import pytest

from contracts import facts as cf
from services.rollback_controller.domain.record import VERSIONS_KEPT
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.world import World


def started(**settings) -> World:
    world = World(**settings)
    world.serve()
    world.open_releases(6, 7)
    world.start()
    return world


@virtual_time
async def test_an_alert_moves_traffic_at_once_and_live_requests_verify_it():
    world = started()
    await asyncio.sleep(1)
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(0.1)
    route = world.route()
    assert (route.active.target, route.quarantined, route.epoch) == (f.target(6), (), 13)
    (suspended,) = route.suspended
    assert (suspended.served, suspended.cause) == (f.served(7), "slow")
    world.requests(6)
    await asyncio.sleep(0.1)
    (changed,), (done,) = world.log.facts(cf.DeploymentChanged), world.log.facts(cf.RollbackCompleted)
    assert (changed.route, changed.cause) == (route, "rollback")
    assert (done.verdict, done.failed, done.to, done.mode) == ("pass", f.target(7), f.target(6), "automatic")
    world.check()
    await world.stop()


@virtual_time
async def test_from_an_alert_to_the_route_the_bus_is_read_once_and_written_twice():
    world = started()
    await asyncio.sleep(1.5)
    before = len(world.life.steps)
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(0.1)
    steps = world.life.steps[before:]
    until = Counter(steps[: steps.index("after FakeRoutes.put") + 1])
    asked = {name: until[f"after {name}"] for name in ("FakeRoutes.get", "MemoryRecords.get", "FakeLog.resolved_since")}
    assert asked == {"FakeRoutes.get": 1, "MemoryRecords.get": 1, "FakeLog.resolved_since": 1}
    assert (until["after MemoryRecords.update"], until["after FakeRoutes.put"]) == (1, 1)
    await world.stop()


@virtual_time
async def test_what_answers_nothing_is_left_for_a_suspended_version_that_generates_if_none_behind_it_does():
    world = started()
    await asyncio.sleep(1)
    world.publish(world.alert(), event_id="a-1")
    await asyncio.sleep(30)
    world.probe.unloaded.add(str(f.target(5)))
    dead = {"target": f.target(6), "trigger": None, "answers_nothing": True, "alert_id": "dead"}
    world.publish(world.alert(**dead), event_id="a-2")
    await asyncio.sleep(1)
    route = world.route()
    assert (route.active.target, [entry.served.target for entry in route.suspended]) == (f.target(7), [f.target(6)])
    world.check()
    await world.stop()


@virtual_time
async def test_without_traffic_a_probe_ends_the_verification_and_the_switch_stays():
    world = started()
    world.publish(world.alert())
    await asyncio.sleep(29)
    assert world.log.facts(cf.RollbackCompleted) == []
    await asyncio.sleep(3)
    (done,) = world.log.facts(cf.RollbackCompleted)
    assert done.verdict == "inconclusive"
    assert world.route().active.target == f.target(6)
    await world.stop()


@virtual_time
async def test_a_fallback_that_dies_after_the_switch_fails_the_verification():
    world = started()
    world.publish(world.alert())
    await asyncio.sleep(1)
    world.probe.unloaded.add(str(f.target(6)))
    await asyncio.sleep(40)
    (done,) = world.log.facts(cf.RollbackCompleted)
    assert done.verdict == "fail"
    await world.stop()


@pytest.mark.parametrize("state", ["unloaded", "hanging"])
@virtual_time
async def test_a_previous_target_that_does_not_generate_keeps_traffic_until_it_does(state):
    world = started()
    ill = getattr(world.probe, state)
    ill.add(str(f.target(6)))
    world.publish(world.alert())
    await asyncio.sleep(8)
    (failed,) = world.log.facts(cf.RollbackFailed)
    assert failed.code == "previous_not_ready"
    assert str(f.target(6)) in failed.reason or "no token" in failed.reason
    assert world.route().active.target == f.target(7)
    ill.clear()
    for _ in range(3):  # the alert lasts, and is updated every 5 s
        world.publish(world.alert(kind=cf.AlertUpdated))
        await asyncio.sleep(5)
    assert world.route().active.target == f.target(6)
    assert len(world.log.facts(cf.DeploymentChanged)) == 1
    world.check()
    await world.stop()


@virtual_time
async def test_a_previous_target_that_stays_unready_is_one_attempt_however_long_the_alert_lasts():
    """Each update started a rollback that failed: the log was flooded, and earlier rollbacks left the record."""
    world = started()
    world.probe.unloaded.add(str(f.target(6)))
    world.publish(world.alert())
    for _ in range(240):
        await asyncio.sleep(5)
        world.publish(world.alert(kind=cf.AlertUpdated))
    assert [fact.code for fact in world.log.facts(cf.RollbackFailed)] == ["previous_not_ready"]
    assert (len(world.log.facts(cf.RollbackStarted)), len(world.state().rollbacks)) == (0, 0)
    world.publish(world.alert(number=2))
    await asyncio.sleep(5)
    assert len(world.log.facts(cf.RollbackFailed)) == 2, "another alert is another attempt"
    world.probe.unloaded.clear()
    world.publish(world.alert(kind=cf.AlertUpdated))
    await asyncio.sleep(1)
    assert world.route().active.target == f.target(6)
    assert len(world.log.facts(cf.RollbackStarted)) == 1
    world.check()
    await world.stop()


@pytest.mark.parametrize(
    "about",
    [{"trigger": "refusals"}, {"trigger": "unheard-of"}, {"trigger": None}, {"version": 5}, {"version": 6}],
)
@virtual_time
async def test_what_no_automatic_trigger_of_what_serves_asks_for_changes_nothing(about):
    world = started()
    before = world.route()
    world.publish(world.alert(**about))
    await asyncio.sleep(60)
    assert world.route() == before
    assert world.published() == []
    await world.stop()


@pytest.mark.parametrize("sender", ["registry", "server-manager", "rollback-controller", "ada"])
@pytest.mark.parametrize("about", [{}, {"trigger": None, "answers_nothing": True}])
@virtual_time
async def test_an_alert_that_moves_traffic_and_that_the_monitor_did_not_raise_moves_nothing(sender, about):
    world = started()
    before = world.route()
    world.publish(world.alert(**about), sender=sender)
    await asyncio.sleep(1)
    assert world.route() == before
    assert [code for _, code in world.streams.dead_letters] == ["sender_mismatch"]
    await world.stop()


@virtual_time
async def test_a_stale_alert_and_a_resolved_one_change_nothing():
    world = started()
    before = world.route()
    world.publish(world.alert(), at_s=-901)
    world.publish(world.alert(number=2), event_id="a-2")
    world.log.append(f.event(world.alert(number=2, kind=cf.AlertResolved), id="a-2-over"))
    await asyncio.sleep(60)
    assert world.route() == before
    assert world.published() == []
    await world.stop()


@virtual_time
async def test_an_order_goes_further_back_and_one_that_is_void_is_answered():
    world = started()
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7), to_version=9))
    await asyncio.sleep(1)
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7), to_version=5))
    await asyncio.sleep(1)
    world.publish(cf.RollbackOrdered(reason="again", failed=f.target(7)))
    world.publish(cf.RollbackOrdered(reason="old", failed=f.target(5)), at_s=-901)
    world.publish(cf.RollbackOrdered(reason="unclear"))
    world.publish(cf.RollbackOrdered(reason="other epoch", failed=f.target(5), epoch=12))
    await asyncio.sleep(1)
    codes = [failed.code for failed in world.log.facts(cf.RollbackFailed)]
    assert codes == ["no_previous_target", "not_in_traffic", "order_expired", "stale_epoch"]
    assert [refused.code for refused in world.log.facts(cf.OrderRefused)] == ["not_in_traffic"]
    assert world.route().active.target == f.target(5)
    await world.stop()


@virtual_time
async def test_an_order_that_was_refused_is_not_carried_out_when_it_comes_again():
    world = World()
    world.serve(5, 7)
    world.start()
    world.log.unanswered = 1
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7)))
    await asyncio.sleep(0.1)
    assert len(world.streams.unacknowledged()) == 1, "the answer of the log was lost"
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(5)))
    await asyncio.sleep(60)
    assert world.route().active.target == f.target(7)
    assert [failed.code for failed in world.log.facts(cf.RollbackFailed)] == ["not_in_traffic"]
    assert world.streams.unacknowledged() == []
    world.check_ends()
    await world.stop()


@virtual_time
async def test_an_order_that_expires_while_the_bucket_is_silent_is_not_carried_out():
    world = started()
    world.routes.lost = True
    until = world.clock.now() + f.timedelta(seconds=30)
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7), expires_at=until))
    await asyncio.sleep(60)
    world.routes.lost = False
    await asyncio.sleep(60)
    (failed,) = world.log.facts(cf.RollbackFailed)
    assert failed.code == "order_expired"
    assert world.route().active.target == f.target(7)
    await world.stop()


@virtual_time
async def test_a_canary_beside_which_both_are_bad_is_away_for_a_minute_and_stays_the_canary():
    world = World()
    world.serve(6, 5, canary=7)
    world.open_releases(7)
    world.start()
    both = {"verdict": "inconclusive", "reason": "both", "take_away": True}
    for requests in (9, 90):
        world.publish(cf.CanaryAssessed(target=f.target(7), weight_ratio=0.2, requests=requests, **both))
        await asyncio.sleep(10)
    (changed,) = world.log.facts(cf.DeploymentChanged)
    assert (changed.cause, changed.route, changed.route.canary.weight_ratio) == ("judge", world.route(), 0.2)
    assert 45.0 < (world.route().canary.away_until - world.clock.now()).total_seconds() < 60.0
    await world.stop()


@virtual_time
async def test_a_log_that_hangs_keeps_no_rollback_from_being_carried_out():
    world = World()
    world.serve(6, 5, canary=7)
    world.open_releases(6, 7, triggers=(f.trigger(name="slow"), f.trigger(name="errors", metric="error_ratio")))
    world.start()
    await asyncio.sleep(1)
    world.log.silent_s = 53.0  # five tries of ten seconds, and the waits between them
    world.publish(world.alert(7))
    await asyncio.sleep(0.5)
    assert world.route().canary.weight_ratio == 0.0
    world.publish(world.alert(6, trigger="errors"))
    await asyncio.sleep(0.5)
    assert world.route().active.target == f.target(5), "although the facts of the first rollback still wait"
    world.log.silent_s = 0.0
    await asyncio.sleep(120)
    kinds = [kind for kind, _ in world.published()]
    assert kinds.count(cf.DeploymentChanged.TYPE) == kinds.count(cf.RollbackStarted.TYPE) == 2
    world.check()
    await world.stop()


@virtual_time
async def test_requests_count_once_however_often_they_come_while_the_log_is_full():
    world = started()
    await asyncio.sleep(1)
    world.log.full = True
    world.publish(world.alert())
    await asyncio.sleep(0.1)
    world.requests(count=2)
    await asyncio.sleep(20)
    (rollback,) = world.state().rollbacks
    assert (rollback.phase, rollback.good, rollback.bad) == ("switched", 2, 0)
    world.log.full = False
    await world.stop()


@virtual_time
async def test_a_route_that_keeps_changing_only_delays_a_rollback():
    world = started()
    await asyncio.sleep(1)
    world.routes.conflicts = 60
    world.publish(world.alert())
    await asyncio.sleep(0.1)
    assert world.route().active.target == f.target(7)
    await asyncio.sleep(5)
    assert world.route().active.target == f.target(6)
    world.check()
    await world.stop()


@virtual_time
async def test_an_alert_that_comes_before_the_policy_of_its_version_is_kept():
    world = World()
    world.serve()
    world.start()
    world.publish(world.alert())
    await asyncio.sleep(20)
    assert world.published() == []
    world.open_releases(7)
    await asyncio.sleep(30)
    assert world.route().active.target == f.target(6)
    assert world.streams.unacknowledged() == []
    await world.stop()


@virtual_time
async def test_an_alert_without_a_trigger_waits_for_no_policy():
    world = World()
    world.serve()
    world.start()
    world.publish(world.alert(trigger=None))
    await asyncio.sleep(0.1)
    assert world.streams.unacknowledged() == []
    await world.stop()


@virtual_time
async def test_the_policy_of_what_serves_is_kept_however_many_versions_were_released_since():
    world = World()
    world.serve(2, 1, history=())
    world.start()
    world.open_releases(*range(1, 100))
    await asyncio.sleep(1)
    assert len(world.state().triggers) == VERSIONS_KEPT
    world.publish(world.alert(2))
    await asyncio.sleep(0.1)
    assert world.route().active.target == f.target(1)
    assert world.streams.unacknowledged() == []
    await world.stop()


@virtual_time
async def test_an_alert_about_a_version_whose_policy_never_comes_is_given_up_when_it_is_old():
    world = World()
    before = world.serve()
    world.start()
    world.publish(world.alert())
    await asyncio.sleep(1000)
    assert world.streams.unacknowledged() == []
    assert world.route() == before
    await world.stop()
