"""A server of the bus that accepts connections and says nothing, as one that stands still: another one is used."""

import socket

import pytest

from clients.cli.connection import StackAddress, connected
from clients.cli.errors import CommandError, Exit
from clients.training.bus import connected as publishing
from clients.training.connection import Connection as TrainingConnection
from shared.messaging.credentials import connect
from testbed.servers import HARNESS


@pytest.fixture
def settings(nats_server, monkeypatch):
    """Settings that name a silent server first; clients keep that order."""
    monkeypatch.setattr("nats.aio.client.shuffle", lambda _servers: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = f"tls://127.0.0.1:{silent.getsockname()[1]},{nats_server.url}"
        yield nats_server.settings().model_copy(update={"nats_url": urls})


async def test_who_tries_each_server_once_is_answered_by_the_other(settings):
    client = await connect(settings, allow_reconnect=False, max_reconnect_attempts=1, connect_timeout=2)
    assert client.is_connected
    await client.close()


async def test_a_command_is_answered_by_the_other(settings):
    async with connected(StackAddress(settings, None, "test")) as client:
        assert client.is_connected


async def test_a_command_without_the_authority_of_the_bus_names_the_variable(nats_server):
    settings = nats_server.settings().model_copy(update={"nats_ca": None, "nats_credentials": None})
    with pytest.raises(CommandError, match="SLIPWAY_NATS_CA") as refused:
        async with connected(StackAddress(settings, None, settings.nats_url)):
            pass
    assert refused.value.code is Exit.UNREACHABLE


async def test_a_publisher_is_answered_by_the_other(settings):
    given = TrainingConnection(
        nats_url=settings.nats_url, nats_credentials=settings.nats_credentials, nats_ca=settings.nats_ca
    )
    async with publishing(given) as publisher:
        assert publisher.name == HARNESS
