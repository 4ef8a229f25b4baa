"""How long a command waits for a consumer: 30 s in a cluster, else its own time limit."""

import asyncio

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from clients.cli.connection import CommandClient
from clients.cli.reading import subscribe
from shared.messaging.patience import PatientJetStream
from tests.kit.virtual_time import virtual_time


class Silent(JetStreamContext):
    """A bus that answers nothing, as to a user who may not read."""

    async def add_consumer(self, _stream, _config, timeout):
        await asyncio.sleep(timeout)
        raise nats.errors.TimeoutError


@pytest.mark.parametrize(("server", "limit_s", "waits_s"), [({}, 2.0, 2), ({"cluster": "slipway"}, 2.0, 30)])
@virtual_time
async def test_only_in_a_cluster_is_an_election_awaited(server, limit_s, waits_s):
    client = Client()
    client._server_info = server
    with pytest.raises(nats.errors.TimeoutError):
        await subscribe(Silent(client, timeout=limit_s), "EVENTS", "a.>")
    assert round(asyncio.get_running_loop().time()) == waits_s


@pytest.mark.parametrize(("server", "kind"), [({}, JetStreamContext), ({"cluster": "slipway"}, PatientJetStream)])
def test_other_reads_are_asked_again_in_a_cluster_too(server, kind):
    client = CommandClient()
    client._server_info = server
    assert type(client.jetstream(timeout=2.0)) is kind
