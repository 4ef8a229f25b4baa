"""Provisioning on a real server: what it makes, that it may run again, and that it never resets what is there."""

import asyncio

import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType
from nats.js.errors import NotFoundError

from contracts.facts import CheckpointReady, ReleaseOpened
from contracts.services import DEADLETTER, EVENTS, INBOX, ORDERS, TELEMETRY, durable_name, stream_of
from shared.messaging import topology
from shared.messaging.bus import publish_event
from shared.messaging.provision import provision
from testbed import factories

ADMISSION = durable_name("registry", CheckpointReady)


async def state_of(js):
    """Everything that provisioning decides about, as the server tells it."""
    streams = {stream.config.name: stream.config for stream in await js.streams_info()}
    consumers = {
        (name, consumer.name): consumer.config
        for name in (INBOX, ORDERS, EVENTS, TELEMETRY, DEADLETTER)
        for consumer in await js.consumers_info(name)
    }
    return streams, consumers


async def test_streams_consumers_and_buckets_are_as_declared(js):
    streams, consumers = await state_of(js)
    assert set(streams) == {INBOX, ORDERS, EVENTS, TELEMETRY, DEADLETTER} | {f"KV_{name}" for name in topology.BUCKETS}
    assert set(consumers) == {(stream, config.durable_name) for stream, config in topology.consumers()}
    assert streams[EVENTS].storage == StorageType.FILE
    assert {streams[name].max_age for name in (INBOX, ORDERS, EVENTS)} == {90 * 86400}
    assert streams[TELEMETRY].storage == StorageType.MEMORY
    assert streams[TELEMETRY].max_bytes > 0
    assert {config.max_deliver for config in consumers.values()} == {-1}, (
        "the server must never drop a message silently"
    )
    assert {name: c.max_ack_pending for name, c in consumers.items() if c.max_ack_pending != -1} == {
        (INBOX, ADMISSION): 1
    }


async def test_every_fact_is_stored_where_it_belongs(js):
    for kind in factories.DEFAULTS:
        event = factories.event(kind)
        if stream_of(kind) is None:
            continue
        await publish_event(js, event)
        stored = await js.get_last_msg(stream_of(kind), event.nats_subject)
        assert stored.headers["Nats-Msg-Id"] == event.id
        if stream_of(kind) == EVENTS:
            staged = event.model_copy(update={"environment": "staging", "id": event.id + "-staging"})
            await publish_event(js, staged)
            assert (await js.get_last_msg(EVENTS, staged.nats_subject)).headers["Nats-Msg-Id"] == staged.id


async def test_live_only_facts_are_stored_nowhere(js):
    event = factories.event(next(kind for kind in factories.DEFAULTS if stream_of(kind) is None))
    with pytest.raises(Exception, match=r"(?i)no.*stream|not available"):
        await js.publish(event.nats_subject, b"{}", timeout=2)


async def test_provisioning_again_changes_nothing(js):
    await publish_event(js, factories.event(ReleaseOpened))
    before = await state_of(js)
    await provision(js, dedupe_window_s=2.0)
    await asyncio.gather(*(provision(js, dedupe_window_s=2.0) for _ in range(3)))
    assert await state_of(js) == before
    assert (await js.stream_info(EVENTS)).state.messages == 1


async def test_provisioning_again_keeps_how_far_consumers_are(js):
    durable = durable_name("merger", ReleaseOpened)
    for number in range(5):
        await publish_event(js, factories.event(ReleaseOpened, id=f"e{number}"))
    subscription = await js.pull_subscribe_bind(durable, stream=EVENTS)
    messages = await subscription.fetch(3, timeout=5)
    for message in messages:
        await message.ack_sync()
    await provision(js, dedupe_window_s=2.0)
    rest = await subscription.fetch(5, timeout=5)
    assert [message.metadata.sequence.stream for message in rest] == [4, 5]
    assert all(message.metadata.num_delivered == 1 for message in rest)


async def test_provisioning_keeps_records(js):
    bucket = await js.key_value("releases")
    revision = await bucket.create("support-bot", b"{}")
    await provision(js, dedupe_window_s=2.0)
    entry = await (await js.key_value("releases")).get("support-bot")
    assert (entry.value, entry.revision) == (b"{}", revision)


async def test_lost_consumer_is_made_again_and_sees_the_log_from_its_start(js):
    durable = durable_name("merger", ReleaseOpened)
    await publish_event(js, factories.event(ReleaseOpened))
    await js.delete_consumer(EVENTS, durable)
    with pytest.raises(NotFoundError):
        await js.consumer_info(EVENTS, durable)
    await provision(js, dedupe_window_s=2.0)
    info = await js.consumer_info(EVENTS, durable)
    assert info.num_pending == 1
    assert info.config.deliver_policy == DeliverPolicy.ALL


async def test_settings_that_drifted_are_set_right_without_losing_facts(js):
    await publish_event(js, factories.event(ReleaseOpened))
    drifted = (await js.stream_info(EVENTS)).config
    drifted.max_age = 3600.0
    await js.update_stream(drifted)
    consumer = (await js.consumer_info(INBOX, ADMISSION)).config
    await js.add_consumer(INBOX, ConsumerConfig(**{**vars(consumer), "max_ack_pending": 50}))
    await provision(js, dedupe_window_s=2.0)
    info = await js.stream_info(EVENTS)
    assert (info.config.max_age, info.state.messages) == (90 * 86400, 1)
    assert (await js.consumer_info(INBOX, ADMISSION)).config.max_ack_pending == 1


async def test_an_older_bucket_gets_history_and_a_limit_and_keeps_its_records_and_its_own_settings(js):
    await js.delete_key_value("routes")
    bucket = await js.create_key_value(bucket="routes", history=4, description="by hand")
    revision = await bucket.create("support-bot", b"{}")
    await provision(js, dedupe_window_s=2.0)
    config = (await js.stream_info("KV_routes")).config
    assert (config.max_msgs_per_subject, config.max_bytes) == (16, topology.LIMITS["KV_routes"])
    assert (config.description, config.allow_rollup_hdrs, config.deny_delete) == ("by hand", True, True)
    assert (await bucket.get("support-bot")).revision == revision


async def test_limits_are_never_lowered(js):
    await provision(js, dedupe_window_s=2.0, limits={EVENTS: 8448 * 1024**2, "KV_routes": 256 * 1024**2})
    await provision(js, dedupe_window_s=2.0)
    assert (await js.stream_info(EVENTS)).config.max_bytes == 8448 * 1024**2
    assert (await js.stream_info("KV_routes")).config.max_bytes == 256 * 1024**2


async def test_a_store_that_is_too_small_is_refused_with_what_it_needs(js):
    with pytest.raises(RuntimeError, match=r"max_file_store .* at least"):
        await provision(js, dedupe_window_s=2.0, limits={EVENTS: 64 * 1024**3})


async def test_facts_and_consumers_survive_kill_9(js, nats_server):
    for number in range(20):
        await publish_event(js, factories.event(ReleaseOpened, id=f"e{number}"))
    nats_server.kill()
    nats_server.start()
    client = await nats_server.connect()
    try:
        context = client.jetstream(timeout=10)
        assert (await context.stream_info(EVENTS)).state.messages == 20
        assert (await context.consumer_info(EVENTS, durable_name("merger", ReleaseOpened))).num_pending == 20
        await provision(context, dedupe_window_s=2.0)
        assert (await context.stream_info(EVENTS)).state.messages == 20
    finally:
        await client.close()


async def test_same_event_twice_is_stored_once_within_the_window(js):
    for _ in range(3):
        await publish_event(js, factories.event(ReleaseOpened))
    assert (await js.stream_info(EVENTS)).state.messages == 1
