"""A client of the bus whose reading loop meets what nats-py does not handle: it is used again within seconds."""

import asyncio
import os
import signal

import pytest

from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from testbed.servers import NatsServer, running

MALFORMED = b"NATS/1.0 200 \xff\r\n\r\n"
"""Headers whose status nats-py decodes as UTF-8."""


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    with running(NatsServer(tmp_path_factory.mktemp("nats"))) as server:
        yield server


@pytest.fixture
async def console(nats_server):
    """A bus whose `check` sends a ping: its service consumes nothing."""
    bus = Bus(nats_server.settings("console"), "console", SystemClock())
    await bus.connect()
    yield bus
    await bus.stop()


async def test_a_pong_that_comes_after_its_limit_costs_nothing(nats_server, console):
    connected_as = console.client.client_id
    nats_server.process.send_signal(signal.SIGSTOP)
    os.waitpid(nats_server.process.pid, os.WUNTRACED)  # until all its threads have stopped
    try:
        with pytest.raises(TimeoutError):
            await console.check()
    finally:
        nats_server.process.send_signal(signal.SIGCONT)
    for _ in range(2):
        await console.check()
    assert console.client.client_id == connected_as


async def test_a_reading_loop_that_ends_connects_again(nats_server):
    client = await nats_server.connect(reconnect_time_wait=0.1)
    taken = await client.subscribe("_INBOX.taken")
    await client.flush(timeout=5)
    before = client.client_id
    sender = await nats_server.connect()
    sender._transport.write(b"HPUB _INBOX.taken %d %d\r\n%s\r\n" % (len(MALFORMED), len(MALFORMED), MALFORMED))
    await sender.flush(timeout=5)
    async with asyncio.timeout(60):
        while client.client_id == before or not client.is_connected:
            await asyncio.sleep(0.02)
    await sender.publish("_INBOX.taken", b"after")
    assert (await taken.next_msg(timeout=5)).data == b"after"
    await sender.close()
    await client.close()


async def test_a_reading_loop_that_is_cancelled_as_at_the_end_of_a_process_does_not_connect_again(nats_server):
    client = await nats_server.connect()
    await client.flush(timeout=5)
    reading = client._reading_task
    reading.cancel()
    await asyncio.wait([reading])
    assert not client.is_reconnecting
    await client.close()
