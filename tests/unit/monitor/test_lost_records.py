"""The monitor's record is lost: it is rebuilt from route, signed policies and log, or an alert says what is not known."""

import asyncio

import pytest

from contracts import facts as cf
from services.monitor.domain import monitoring
from services.monitor.routed import RoutedModels, build_routed_sweeper
from shared.errors import Transient
from shared.provenance.signed_versions import SignedPolicy
from shared.storage.kv import Entry
from testbed import factories as f
from tests.kit.virtual_time import run_virtual
from tests.unit.monitor import factories as m
from tests.unit.monitor.world import KEY, World, batch

UNSIGNED = "It was signed without its policy."
ROUTE = f.route(active=f.served(7), previous=f.served(6), canary=None, history=(f.served(5),), quarantined=(), epoch=12)


class Known:
    """Routes, signed policies and a log of alerts in memory."""

    def __init__(self):
        self.stored = {("production", f.MODEL): ROUTE}
        self.signed = dict.fromkeys((6, 7), m.policy())
        self.past = ()
        self.log_fails = False

    async def models(self, environment):
        return [model for where, model in self.stored if where == environment]

    async def get(self, environment, model):
        route = self.stored.get((environment, model))
        return Entry(route, 1) if route is not None else None

    async def policy(self, _, version):
        return SignedPolicy(f"r-{version}", self.signed[version]) if version in self.signed else UNSIGNED

    async def alerts(self, *_):
        if self.log_fails:
            raise Transient("bus_unavailable", "The log does not answer.")
        return self.past


class Ports:
    """One port that reads as it is told."""

    def __init__(self, read):
        self.read = read


def story(play):
    async def played():
        world, known = World(lateness_s=1.0), Known()
        routed = RoutedModels(world.monitor, known, Ports(known.policy), Ports(known.alerts))
        sweeping = [asyncio.create_task(loop.run()) for loop in (build_routed_sweeper(routed), world.sweeper)]
        try:
            await play(world, known)
        finally:
            for task in sweeping:
                task.cancel()

    run_virtual(played())


async def fail(world, seconds):
    """Have most requests to the active version fail."""
    now_s = world.now_s()
    for second in range(seconds):
        records = [m.failed(now_s + second) if number % 3 else m.record(now_s + second) for number in range(8)]
        await world.monitor.measure(batch(f"b-{now_s}-{second}", records, now_s + second))
        await asyncio.sleep(1)


def raised(world):
    return [(alert.kind, alert.trigger) for alert in world.publisher.of(cf.AlertRaised)]


@pytest.mark.parametrize("log_fails", [False, True])
@pytest.mark.parametrize("telemetry_first", [False, True])
def test_a_lost_record_is_watched_again_by_the_signed_policies(telemetry_first, log_fails):
    async def play(world, known):
        known.log_fails = log_fails
        if telemetry_first:
            await world.monitor.measure(batch("first", [m.record(0.0)], 0.0))
        await asyncio.sleep(6)
        await fail(world, 20)
        assert raised(world) == [("errors", "errors")]
        state = (await world.records.get(KEY)).value
        assert (set(state.policies), state.routed, state.unknown) == ({"6", "7"}, (5, 6, 7), {})
        assert state.policies["7"].release_id == "r-7"

    story(play)


def test_an_alert_says_which_policies_are_not_known_until_they_are():
    async def play(world, known):
        signed = known.signed.pop(6)
        await asyncio.sleep(20)
        (alert,) = world.publisher.of(cf.AlertRaised)
        assert (alert.kind, alert.severity, alert.target) == ("blind", "critical", f.target(7))
        assert (
            f"with them: 6. None of their triggers is watched, and no alert about them starts a rollback. {UNSIGNED}"
            in alert.message
        )
        assert world.publisher.of(cf.AlertResolved) == []
        known.signed[6] = signed
        await asyncio.sleep(10)
        assert [fact.alert_id for fact in world.publisher.of(cf.AlertResolved)] == [alert.alert_id]

    story(play)


@pytest.mark.parametrize("route_first", [False, True])
def test_alerts_of_the_lost_record_are_resolved_and_raised_anew_under_other_ids_while_the_fault_lasts(route_first):
    async def play(world, known):
        if route_first:
            state = monitoring.follow_route(m.watch(versions=()), ROUTE, m.cause(0), world.rules)
            await world.records.create(KEY, state)
        lost = cf.AlertRaised(
            alert_id=f"{f.target(7)}/errors/3",
            kind="errors",
            severity="critical",
            target=f.target(7),
            trigger="errors",
            message="bad",
            raised_at=f.after(-60),
        )
        known.past = (lost,)
        await asyncio.sleep(6)
        assert [fact.alert_id for fact in world.publisher.of(cf.AlertResolved)] == [lost.alert_id]
        await fail(world, 20)
        (again,) = world.publisher.of(cf.AlertRaised)
        assert again.alert_id.startswith(f"{f.target(7)}/errors/2")
        await asyncio.sleep(20)
        assert [fact.alert_id for fact in world.publisher.of(cf.AlertResolved)][:1] == [lost.alert_id]
        assert (await world.records.get(KEY)).value.past_read

    story(play)


def test_a_route_whose_event_never_came_is_followed_after_a_while():
    async def play(world, known):
        await asyncio.sleep(6)
        known.stored["production", f.MODEL] = ROUTE.model_copy(update={"active": f.served(6), "epoch": 13})
        await asyncio.sleep(20)
        assert (await world.records.get(KEY)).value.epoch == 12, "its event may be under way"
        await asyncio.sleep(25)
        state = (await world.records.get(KEY)).value
        assert (state.epoch, set(state.targets)) == (13, {str(f.target(6))})

    story(play)


def test_a_record_that_is_not_lost_reads_nothing():
    async def play(world, known):
        state = monitoring.follow_route(m.watch(), ROUTE, m.cause(0), world.rules)
        await world.records.create(KEY, state.model_copy(update={"past_read": True}))
        known.signed.clear()
        known.log_fails = True
        await asyncio.sleep(20)
        after = (await world.records.get(KEY)).value
        assert (after.unknown, after.past_read, world.publisher.of(cf.AlertRaised)) == ({}, True, [])

    story(play)
