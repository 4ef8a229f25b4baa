"""Streams that have reached their limit on a real server: publishers are told, records are still written."""

import asyncio
import contextlib

import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import ServiceUnavailableError
from prometheus_client import generate_latest

from clients.cli.doctor.servers import ask_bus
from contracts import facts as f
from contracts.policy import MetricGate
from contracts.routes import Route
from contracts.services import DEADLETTER, EVENTS, INBOX
from services.registry.admissions import rejection
from services.rollback_controller.adapters.kv import KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.rollback_controller.adapters.probes import RememberedProbe
from services.rollback_controller.controller import SERVICE, Controller
from services.rollback_controller.domain.record import RollbackState, Rules
from services.rollback_controller.states import KnownPolicies, RollbackStates
from shared.errors import Permanent, Transient
from shared.messaging import topology
from shared.messaging.bus import Bus, Received, publish_event
from shared.messaging.provision import provision
from shared.messaging.publishing import PUBLISH_TIMEOUT_S
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.servers import NatsServer, connection, running
from testbed.services import stored_facts
from tests.kit.fakes_rollback import FakeProofs

KIBIBYTE = 1024
SMALL = dict.fromkeys(topology.LIMITS, 64 * KIBIBYTE)
LARGER = {**SMALL, EVENTS: 128 * KIBIBYTE}
CLOCK = SystemClock()


class Answers:
    """A target behind the route that generates; the real one is tested with Triton."""

    async def answers(self, _served, _least=1):
        return None


@pytest.fixture
def nats_server(tmp_path):
    """A server whose store holds what streams and buckets may take, and no more."""
    server = NatsServer(tmp_path)
    config = server.folder / "nats.conf"
    limit = topology.file_bytes(LARGER)
    config.write_text(config.read_text().replace("max_file_store: 16GB", f"max_file_store: {limit}"))
    with running(server):
        yield server


@pytest.fixture
async def js(nats_server):
    client = await nats_server.connect()
    context = client.jetstream(timeout=10)
    await provision(context, limits=SMALL)
    yield context
    await client.close()


@pytest.fixture
async def bus(bus_settings):
    started = Bus(bus_settings, SERVICE, CLOCK)
    await started.connect()
    yield started
    await started.stop()


async def refuse(js):
    """Let the event log refuse what it has no space for, as a full disk does."""
    config = (await js.stream_info(EVENTS)).config
    await js.update_stream(StreamConfig(**{**vars(config), "discard": DiscardPolicy.NEW}))


async def fill(js):
    """Publish to every stream on disk more than it takes."""
    for stream, subject in (
        (EVENTS, "slipway.alert.raised.v1.other.monitor"),
        (INBOX, "slipway.checkpoint.ready.v1.other.paula"),
        (DEADLETTER, "slipway.deadletter.merger"),
    ):
        if (await js.stream_info(stream)).config.discard == DiscardPolicy.OLD:  # takes the newest, whatever happens
            for _ in range(80):
                await js.publish(subject, b"x" * KIBIBYTE, stream=stream)
            continue
        for size in (8 * KIBIBYTE, 1):
            with contextlib.suppress(ServiceUnavailableError):
                for _ in range(2000):
                    await js.publish(subject, b"x" * size, stream=stream)
                pytest.fail(f"{stream} has no limit")


def alert():
    raised = k.fact(f.AlertRaised, target=k.target(7), trigger="slow-first-token")
    return k.event(raised, id="alert-1", time=CLOCK.now())


def controller_on(bus):
    bucket = Bucket(bus.js, "rollbacks", RollbackState)
    states = RollbackStates(RecordStore("rollbacks", bucket, bus, service=SERVICE))
    routes, probe, rules = KvRoutes(lambda: bus.js), RememberedProbe(Answers(), CLOCK), Rules()
    return Controller(
        states=states,
        routes=routes,
        alerts=LoggedAlerts(lambda: bus.js),
        probe=probe,
        clock=CLOCK,
        rules=rules,
        teams=lambda: (),
        policies=KnownPolicies(states, FakeProofs()),
    )


async def test_a_publisher_is_told_at_once_that_the_stream_is_full(js):
    await refuse(js)
    await fill(js)
    async with asyncio.timeout(PUBLISH_TIMEOUT_S / 2):
        with pytest.raises(Transient) as caught:
            await publish_event(js, k.event(f.ReleaseOpened))
    assert caught.value.code == "stream_full"


async def test_full_streams_keep_no_rollback_from_being_carried_out(js, bus):
    controller = controller_on(bus)
    await controller.record_policy(
        k.event(k.fact(f.ReleaseOpened, version=7, policy=k.policy(triggers=(k.trigger(),))))
    )
    routes = Bucket(js, "routes", Route)
    await routes.create(k.MODEL, k.route(canary=None))
    await refuse(js)
    await fill(js)
    await controller.handle_alert(alert(), Received(1, CLOCK.now()))
    route = (await routes.get(k.MODEL)).value
    assert (route.active.target, route.epoch) == (k.target(6), 13)
    with pytest.raises(Transient, match="stream_full"):
        await controller.sweep(("production", k.MODEL))
    assert (await routes.get(k.MODEL)).value == route, "the same switch is made once"
    assert not await stored_facts(js, f.DeploymentChanged)
    await provision(js, limits=LARGER)
    await controller.sweep(("production", k.MODEL))
    await controller.sweep(("production", k.MODEL))
    assert [event.data.route for event in await stored_facts(js, f.DeploymentChanged)] == [route]
    assert len(await stored_facts(js, f.RollbackStarted)) == 1


async def test_doctor_names_the_streams_that_are_full(js, nats_server, tmp_path):
    await fill(js)
    findings = await asyncio.to_thread(ask_bus, connection(nats_server, None, tmp_path))
    (finding,) = (each for each in findings if each.check == "bus disk")
    assert finding.state == "warning"
    assert {name for name in topology.LIMITS if f"{name} holds" in finding.detail} >= {EVENTS, INBOX, DEADLETTER}


async def receive_behind_an_unreadable_one(js, bus_settings, subject):
    """Publish an unreadable announcement and a readable one; return the bus whose handler got the latter within 20 s."""
    bus, handled = Bus(bus_settings, "registry", CLOCK), asyncio.Queue()

    async def handler(event):
        await handled.put(event.id)

    bus.on(f.CheckpointReady, failure=lambda _event, error: rejection(error))(handler)
    await bus.broker.start()
    try:
        await js.publish(subject, b"{not json")
        await publish_event(js, k.event(f.CheckpointReady, id="readable"))
        async with asyncio.timeout(20):
            assert await handled.get() == "readable"
    finally:
        await bus.broker.stop()
    return bus


async def test_an_unreadable_announcement_and_a_full_dead_letter_stream_stop_no_other_announcement(js, bus_settings):
    await fill(js)
    await provision(js, limits=LARGER)
    letters = await js.stream_info(DEADLETTER)
    refusing = {"discard": DiscardPolicy.NEW, "max_msgs": letters.state.messages}
    await js.update_stream(StreamConfig(**{**vars(letters.config), **refusing}))
    await js.purge_stream(INBOX)
    bus = await receive_behind_an_unreadable_one(js, bus_settings, f"{f.CheckpointReady.TYPE}.{k.MODEL}.paula")
    assert [event.data.code for event in await stored_facts(js, f.CheckpointRejected)] == ["malformed_event"]
    assert b'outcome="dead_letter_refused"' in generate_latest(bus.metrics)


async def test_a_full_dead_letter_stream_drops_its_oldest_and_stops_nothing(js, bus_settings):
    await fill(js)
    await js.purge_stream(INBOX)
    await receive_behind_an_unreadable_one(js, bus_settings, f"{f.CheckpointReady.TYPE}.NO-MODEL.paula")
    last = await js.get_last_msg(DEADLETTER, "slipway.deadletter._.registry")
    assert last.headers["Slipway-Code"] == "malformed_event"


async def test_no_number_of_announcements_keeps_an_order_out(js):
    await fill(js)
    for kind in (f.RollbackOrdered, f.ReleaseCancelled, f.ApprovalGranted, f.SuspensionDecided, f.DrillOrdered):
        await publish_event(js, k.event(kind))
    with pytest.raises(Transient, match="stream_full"):
        await publish_event(js, k.event(f.CheckpointReady))


async def test_no_number_of_orders_keeps_an_order_out(js):
    for number in range(200):
        await js.publish("slipway.drill.ordered.v1.other.paula", b"x" * KIBIBYTE, headers={"Nats-Msg-Id": str(number)})
    await publish_event(js, k.event(f.RollbackOrdered))


async def test_a_message_that_is_too_large_is_not_stored_and_its_publisher_gets_an_error(js):
    policy = k.policy(gates=tuple(MetricGate(metric="ttft_ms", max_value=float(limit)) for limit in range(4000)))
    event = k.event(k.fact(f.CheckpointReady, policy=policy))
    with pytest.raises(Permanent) as caught:
        await publish_event(js, event)
    assert caught.value.code == "too_large"
    assert (await js.stream_info(INBOX)).state.messages == 0
