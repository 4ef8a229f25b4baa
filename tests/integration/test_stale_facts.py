"""Old facts on a real bus: an alert or order of last month, said anew or delivered again, changes nothing."""

import asyncio
import contextlib
import uuid
from datetime import timedelta

import pytest

from clients.cli.commands.orders import await_answer, order, publish_order
from clients.cli.output import CommandError
from contracts import facts as f
from contracts.drills import Drill
from contracts.envelope import Event
from contracts.routes import Route
from contracts.services import SERVICES, durable_name, stream_of
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.rollback_controller.adapters.probes import RememberedProbe
from services.rollback_controller.app import build
from services.rollback_controller.controller import SERVICE
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.settings import RollbackControllerSettings
from services.rollback_controller.states import RollbackStates
from shared.messaging.bus import Bus, publish_event
from shared.messaging.bus_clock import BusClock
from shared.messaging.provision import provision
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.services import stored_facts, wait_for_fact
from tests.kit.wiring import Unwired

MONTH = timedelta(days=30)
SERVING = {"canary": None, "quarantined": (k.target(4),)}


class Shifted:
    """The machine's clock, so much later."""

    def __init__(self, ahead=timedelta()):
        self.ahead = ahead

    def now(self):
        return SystemClock().now() + self.ahead

    def monotonic(self):
        return SystemClock().monotonic()


class Answers:
    """A target behind the route that generates; the real one is tested with Triton."""

    async def answers(self, _served, _least=1):
        return None


@contextlib.asynccontextmanager
async def controller(bus_settings, ahead=timedelta(), *, by_bus=False):
    clock = Shifted(ahead)
    bus = Bus(bus_settings, SERVICE, clock)
    await bus.connect()
    if by_bus:
        clock = by = BusClock(clock, lambda: bus.js, "rollbacks")
        await by.try_comparing()
    bucket = Bucket(bus.js, "rollbacks", RollbackState)
    states = RollbackStates(RecordStore("rollbacks", bucket, bus, service=SERVICE))
    built = build(
        bus,
        states=states,
        routes=KvRoutes(lambda: bus.js),
        drills=KvDrills(lambda: bus.js),
        alerts=LoggedAlerts(lambda: bus.js),
        probe=RememberedProbe(Answers(), clock),
        traffic=Unwired(),
        proofs=Unwired(),
        teams=lambda: (),
        settings=RollbackControllerSettings(production_drills="*"),
        clock=clock,
    )
    await bus.broker.start()
    try:
        yield built
    finally:
        await bus.stop()


async def publish(js, fact, *, at=timedelta(), event_id=None):
    event = Event[type(fact)](
        id=event_id or str(uuid.uuid4()),
        source=k.source_for(type(fact)),
        type=fact.TYPE,
        subject=k.MODEL,
        time=SystemClock().now() + at,
        correlationid="r-7",
        data=fact,
    )
    await publish_event(js, event)
    return event


async def handled(js):
    """Wait until the controller has dealt with everything that was said so far."""
    async with asyncio.timeout(60):
        for fact, environment in SERVICES[SERVICE].reads:
            stream, durable = stream_of(fact), durable_name(SERVICE, fact, environment)
            while (info := await js.consumer_info(stream, durable)).num_pending or info.num_ack_pending:
                await asyncio.sleep(0.05)


async def serve(js, **changes):
    bucket = Bucket(js, "routes", Route)
    entry = await bucket.get(k.MODEL)
    route = k.route(**(SERVING | changes))
    if entry is None:
        await bucket.create(k.MODEL, route)
    else:
        await bucket.update(k.MODEL, route, entry.revision)
    return route


async def route_of(js):
    return (await Bucket(js, "routes", Route).get(k.MODEL)).value


async def learn(js):
    await publish(js, k.fact(f.ReleaseOpened, version=7, policy=k.policy(triggers=(k.trigger(),))))
    bucket = Bucket(js, "rollbacks", RollbackState)
    async with asyncio.timeout(30):
        while not (entry := await bucket.get(f"production.{k.MODEL}")) or not entry.value.triggers:
            await asyncio.sleep(0.05)


def alert(kind=f.AlertRaised, number=1, target=None):
    target = target or k.target(7)
    return k.fact(kind, alert_id=f"{target}/slow/{number}", target=target, trigger="slow-first-token")


def orders():
    """One order of each kind that a person can give to the controller, without expiry and epoch."""
    return (
        f.RollbackOrdered(reason="rude"),
        f.RollbackOrdered(reason="rude", failed=k.target(7)),
        f.SuspensionDecided(reason="it was the network", target=k.target(5), decision="return", at_once=True),
        f.DrillOrdered(
            reason="drill",
            target=k.target(7),
            fault=f.DrillFault(delay_ms=100),
            share_ratio=1.0,
            expires_at=SystemClock().now() - MONTH + timedelta(minutes=5),
            environment="production",
        ),
    )


async def test_an_alert_and_orders_of_last_month_change_nothing_and_orders_are_answered(js, bus_settings):
    async with controller(bus_settings):
        await learn(js)
        before = await serve(js)
        await publish(js, alert(), at=-MONTH)
        await publish(js, alert(f.AlertUpdated), at=-MONTH)
        published = [await publish(js, order, at=-MONTH) for order in orders()]
        failed = await wait_for_fact(js, f.RollbackFailed)
        refused = await wait_for_fact(js, f.OrderRefused, count=3)
        await handled(js)
    assert await route_of(js) == before
    assert await stored_facts(js, f.RollbackStarted) == []
    assert await Bucket(js, "drills", Drill).get(f"production.{k.MODEL}") is None
    assert {event.data.code for event in failed + refused} == {"order_expired"}
    assert {event.data.cause_id for event in failed} | {event.data.order_id for event in refused} == {
        event.id for event in published
    }


async def test_an_order_for_another_epoch_changes_nothing_and_is_answered(js, bus_settings):
    async with controller(bus_settings):
        before = await serve(js)
        stale = [order.model_copy(update={"epoch": before.epoch - 1}) for order in orders()[:3]]
        for order in stale:
            await publish(js, order)
        refused = await wait_for_fact(js, f.OrderRefused, count=2)
        failed = await wait_for_fact(js, f.RollbackFailed)
        await handled(js)
        assert await route_of(js) == before
        assert {event.data.code for event in failed + refused} == {"stale_epoch"}
        await publish(js, orders()[1].model_copy(update={"epoch": before.epoch}))
        await wait_for_fact(js, f.DeploymentChanged)
    assert (await route_of(js)).active.target == k.target(6)


async def test_the_command_line_sees_why_its_order_was_refused(js, bus_settings):
    decided = f.SuspensionDecided(reason="slow", target=k.target(5), decision="confirm", epoch=3)
    given = order("ada", k.MODEL, None, decided)
    async with controller(bus_settings):
        await serve(js)
        after = await publish_order(js, given)
        await publish_event(js, order("eve", k.MODEL, None, decided))
        await wait_for_fact(js, f.OrderRefused, count=2)
    with pytest.raises(CommandError, match="stale_epoch"):
        await await_answer(js, given, after, 0.0)  # though another order was refused after it
    another = order("ada", k.MODEL, None, decided)
    with pytest.raises(CommandError, match="not answered"):
        await await_answer(js, another, after, 0.0)  # another order's answer is not this one's


async def test_an_order_that_no_registry_handles_is_no_success(js):
    """No registry runs here: the order waits in its stream until it expires."""
    given = order("ada", k.MODEL, "r-7", f.ReleaseHeld(release_id="r-7", paused=True))
    after = await publish_order(js, given)
    unhandled = rf"order {given.id} was published and not answered within 0.3 s: .* `slipway ps`"
    with pytest.raises(CommandError, match=unhandled):
        await await_answer(js, given, after, 0.3)
    accepted = f.OrderAccepted(
        order_id=given.id,
        order_type=given.type,
    )
    await publish(js, accepted)
    assert await await_answer(js, given, after, 0.3) == accepted


@pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(minutes=-20)])
async def test_a_controller_whose_clock_is_wrong_decides_by_the_clock_of_the_bus(js, bus_settings, ahead):
    """By its own clock, which is ahead, every alert and every order would be too old."""
    async with controller(bus_settings, ahead, by_bus=True):
        await learn(js)
        await serve(js)
        await publish(js, alert())
        (changed,) = await wait_for_fact(js, f.DeploymentChanged)
        assert abs(changed.data.at - SystemClock().now()) < timedelta(minutes=1)
        await publish(
            js, f.SuspensionDecided(reason="it was the network", target=k.target(7), decision="return", at_once=True)
        )
        await wait_for_fact(js, f.DeploymentChanged, count=2)
    assert await stored_facts(js, f.OrderRefused) == []


async def test_consumers_that_are_lost_a_month_later_bring_everything_again_and_nothing_comes_of_it(js, bus_settings):
    """The target serves again meanwhile, and the controller's own record is lost as well."""
    async with controller(bus_settings):
        await learn(js)
        await serve(js)
        await publish(js, alert())
        await wait_for_fact(js, f.DeploymentChanged)
        await publish(
            js, f.SuspensionDecided(reason="it was the network", target=k.target(7), decision="return", at_once=True)
        )
        await wait_for_fact(js, f.DeploymentChanged, count=2)
        ends = SystemClock().now() + timedelta(minutes=30)
        await publish(js, orders()[-1].model_copy(update={"expires_at": ends}))
        await handled(js)
    await (await js.key_value("rollbacks")).purge(f"production.{k.MODEL}")
    before = await serve(js, epoch=40, active=k.served(7), cause_id="later")
    counts = [len(await stored_facts(js, kind)) for kind in (f.RollbackStarted, f.DeploymentChanged)]
    drill = await Bucket(js, "drills", Drill).get(f"production.{k.MODEL}")
    for fact, environment in SERVICES[SERVICE].reads:
        await js.delete_consumer(stream_of(fact), durable_name(SERVICE, fact, environment))
    await provision(js, dedupe_window_s=2.0)
    async with controller(bus_settings, ahead=MONTH) as again:
        await handled(js)
        await again.sweep(("production", k.MODEL))
    assert await route_of(js) == before
    assert [len(await stored_facts(js, kind)) for kind in (f.RollbackStarted, f.DeploymentChanged)] == counts
    assert await Bucket(js, "drills", Drill).get(f"production.{k.MODEL}") == drill
    assert {event.data.code for event in await stored_facts(js, f.OrderRefused)} == {"order_expired"}
