"""A key that is withdrawn while its service runs: the bus cuts that service off, which says so, and nobody else."""

import asyncio
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from deploy.identity.key_folder import KeyFolder
from shared.messaging.bus import Bus
from shared.messaging.provision import provision
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_with_retries
from testbed.servers import NatsServer, running


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    keys = KeyFolder(tmp_path_factory.mktemp("withdrawn") / "keys")
    keys.prepare(["127.0.0.1"], datetime.now(UTC))
    with running(NatsServer(tmp_path_factory.mktemp("nats"), keys)) as server:
        yield server


@pytest.fixture
async def connected(nats_server):
    """Return a function that connects a service to the bus, as its process does."""
    client = await nats_server.connect()
    await provision(client.jetstream(timeout=10))
    await client.close()
    buses: list[Bus] = []

    async def connect(service: str) -> Bus:
        bus = Bus(nats_server.settings(service), service, SystemClock())
        await bus.connect()
        buses.append(bus)
        return bus

    yield connect
    for bus in buses:
        if bus.client.is_connected:
            await bus.stop()


async def test_a_service_whose_key_is_retired_is_cut_off_and_says_what_to_do(nats_server, connected):
    monitor, registry = await connected("monitor"), await connected("registry")
    connection = monitor.client.client_id
    nats_server.keys.rotate("registry")
    nats_server.reload()
    await registry.check()  # both of its keys are accepted
    nats_server.keys.retire("registry")
    with capture_logs() as logs:
        nats_server.reload()
        async with asyncio.timeout(60):
            while not [each for each in logs if each["event"] == "not permitted"]:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2.5)  # its client tries again each second, and that is not said again
        with pytest.raises(ConnectionError, match="does not accept the key of registry any more") as refused:
            await registry.check()
    (line,) = [each for each in logs if each["event"] == "not permitted"]
    assert line["log_level"] == "error"
    assert line["reason"] == str(refused.value)
    assert "credentials/registry.nk" in line["reason"]
    assert not registry.client.is_connected
    await registry.client.close()
    await monitor.check()
    assert monitor.client.client_id == connection, "another service was disconnected"
    await (await connected("registry")).check()  # with the newest key, after a restart


async def test_reading_the_keys_again_disconnects_nobody(nats_server, connected):
    services = [await connected(name) for name in ("monitor", "gateway", "merger")]
    before = [bus.client.client_id for bus in services]
    for _ in range(3):
        nats_server.reload()
        for bus in services:
            await bus.check()
    assert [bus.client.client_id for bus in services] == before
    assert [bus.client.stats["reconnects"] for bus in services] == [0, 0, 0]


async def test_a_service_that_starts_before_the_bus_has_read_its_new_key_is_ready_once_it_has(nats_server, connected):
    await connected("quantiser")  # with the key before
    nats_server.keys.rotate("quantiser")
    bus = Bus(nats_server.settings("quantiser"), "quantiser", SystemClock())
    with capture_logs() as logs:
        connecting = asyncio.create_task(connect_with_retries(bus))
        async with asyncio.timeout(20):
            while not [each for each in logs if each["event"] == "not permitted"]:
                await asyncio.sleep(0.05)
        nats_server.reload()
        async with asyncio.timeout(20):
            await connecting
    await bus.check()
    await bus.stop()
