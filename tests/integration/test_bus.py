"""The delivery rules on a real NATS server."""

import asyncio
import dataclasses
import json

import pytest

from clients.cli.events import dead_letters as deadletters
from contracts.envelope import CONTENT_TYPE, Event, plain
from contracts.facts import AlertRaised, VariantFailed, VariantRequested, WorkAbandoned
from contracts.services import EVENTS, durable_name
from contracts.vocabulary import canonical_json
from shared.errors import Permanent
from shared.messaging.bus import Bus, publish_event
from shared.messaging.provision import provision
from shared.messaging.topology import consumer
from shared.runtime.clock import SystemClock
from tests.integration.bus_process import facts, failed_fact, requested, running_bus
from tests.kit.conformance_bus import SERVICE, BusConformance


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{not json", "malformed_event"),
        (b"[1]", "malformed_event"),
        (b"\xff\xfe", "malformed_event"),
        (canonical_json({**plain(requested("x")), "type": "slipway.variant.requested.v7"}), "unknown_event_version"),
        (canonical_json({**plain(requested("x")), "subject": "other-bot"}), "subject_mismatch"),
        (canonical_json({**plain(requested("x")), "subject": "../etc"}), "invalid_model_name"),
        (canonical_json({k: v for k, v in plain(requested("x")).items() if k != "data"}), "malformed_event"),
    ],
)
async def test_bad_input_is_dead_lettered_with_its_code_and_the_service_goes_on(js, bus_settings, body, code):
    unread = []

    async def handler(event):
        return failed_fact()

    async with running_bus(bus_settings, handler, lambda event, _error: unread.append(event)):
        await js.publish(
            "slipway.variant.requested.v1.support-bot.registry", body, headers={"content-type": CONTENT_TYPE}
        )
        await publish_event(js, requested("good"))
        await facts(js, VariantFailed)
        (letter,) = await deadletters.list_all(js)
        assert letter.code == code
        assert letter.body == body
        assert unread == [], "only the inbox answers what could not be parsed"


async def test_requeued_dead_letter_is_handled_again(js, bus_settings):
    fixed = False

    async def handler(event):
        if not fixed:
            raise Permanent("engine_failed", "it broke")
        return failed_fact()

    async with running_bus(bus_settings, handler):
        await publish_event(js, requested("e1"))
        await facts(js, WorkAbandoned)
        (letter,) = await deadletters.list_all(js)
        fixed = True
        await deadletters.requeue(js, letter, "adam")
        await facts(js, VariantFailed)
        assert await deadletters.list_all(js) == []


async def test_a_slow_message_delays_none_of_those_that_other_workers_can_take(js, bus_settings):
    first_came, go_on, handled = asyncio.Event(), asyncio.Event(), asyncio.Queue()
    at_once, most = 0, 0

    async def handler(event):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if event.id == "slow":
            first_came.set()
            await go_on.wait()
        at_once -= 1
        handled.put_nowait(event.id)

    bus = Bus(bus_settings, "quantiser", SystemClock())
    bus.on(VariantRequested, max_workers=3)(handler)
    names = [f"quick-{number}" for number in range(12)]
    for name in ("slow", *names):
        await publish_event(js, requested(name))
    await bus.broker.start()
    try:
        async with asyncio.timeout(10):
            await first_came.wait()
            assert sorted([await handled.get() for _ in names]) == sorted(names)
            go_on.set()
            assert await handled.get() == "slow"
    finally:
        await bus.broker.stop()
    assert most <= 3


class World:
    """The bus of a service on a real server, with its streams."""

    def __init__(self, js, settings) -> None:
        self.js = js
        self.settings = settings
        self.bus = Bus(settings, SERVICE, SystemClock())
        self.ack_wait_s = 2.0

    async def shorten_ack_wait(self):
        stream, config = consumer(SERVICE, AlertRaised)
        await self.js.add_consumer(stream, dataclasses.replace(config, ack_wait=self.ack_wait_s))

    async def kill(self):
        """Cut the connection: the process can neither acknowledge nor return a message any more."""
        await self.bus.client.close()
        self.bus = Bus(self.settings, SERVICE, SystemClock())

    async def start(self):
        await self.bus.broker.start()

    async def put(self, event):
        """Store an event without the id that the server would find a duplicate by."""
        await self.js.publish(event.nats_subject, canonical_json(plain(event)))

    async def facts(self, kind):
        subscription = await self.js.subscribe("slipway.>", stream=EVENTS, ordered_consumer=True)
        events = []
        for _ in range((await self.js.stream_info(EVENTS)).state.messages):
            message = await subscription.next_msg(timeout=5)
            if json.loads(message.data)["type"] == kind.TYPE:
                events.append(Event[kind].model_validate_json(message.data))
        await subscription.unsubscribe()
        return events

    async def dead_letters(self):
        return [letter.code for letter in await deadletters.list_all(self.js)]

    async def unacknowledged(self):
        left = 0
        for durable, consumption in self.bus.consumptions.items():
            info = await self.js.consumer_info(consumption.stream, durable)
            left += info.num_pending + info.num_ack_pending
        return left


class TestBus(BusConformance):
    @pytest.fixture
    async def world(self, js, bus_settings):
        world = World(js, bus_settings)
        await world.shorten_ack_wait()
        yield world
        await world.bus.broker.stop()


async def test_service_whose_consumer_is_deleted_as_it_begins_to_consume_waits_for_it(js, bus_settings):
    """It was found a moment before; the client tried to make it, which only the provisioner may, and the service ended."""

    async def handler(event):
        return failed_fact()

    key = bus_settings.nats_credentials.with_name("quantiser.nk")
    bus = Bus(bus_settings.model_copy(update={"nats_credentials": key}), "quantiser", SystemClock())
    bus.on(VariantRequested)(handler)
    await bus.connect()
    assert await bus.find_missing_consumer() is None
    await js.delete_consumer(EVENTS, durable_name("quantiser", VariantRequested))
    try:
        await bus.broker.start()
        assert "consumer not found" in str(await bus.find_missing_consumer()), "the service made none"
        await provision(js)
        await publish_event(js, requested("after"))
        assert len(await facts(js, VariantFailed)) == 1
    finally:
        await bus.stop()


async def test_service_whose_consumer_is_gone_asks_for_messages_at_a_slow_pace(js, bus_settings):
    async def handler(event):
        return failed_fact()

    bus = Bus(bus_settings, "quantiser", SystemClock())
    bus.on(VariantRequested)(handler)
    client = await bus.connect()
    await bus.broker.start()
    try:
        await js.delete_consumer(EVENTS, durable_name("quantiser", VariantRequested))
        received = client.stats["in_msgs"]
        while client.stats["in_msgs"] < received + 3:  # the end of the pull under way, then refusals
            await asyncio.sleep(0.05)
        sent = client.stats["out_msgs"]
        await asyncio.sleep(1.0)  # a pace is a number of messages within a time
        assert client.stats["out_msgs"] - sent < 50
        await provision(js)
        await publish_event(js, requested("after"))
        assert len(await facts(js, VariantFailed)) == 1
    finally:
        await bus.stop()
