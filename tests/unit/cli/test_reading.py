"""How long a command waits for a consumer: 30 s in a cluster, else its own time limit."""

import asyncio
from types import SimpleNamespace

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from clients.cli.connection import CommandClient
from clients.cli.reading import read_messages, subscribe
from shared.errors import Transient
from shared.messaging.patience import PatientJetStream
from tests.kit.virtual_time import virtual_time


class Administrator(Client):
    """A connection that may publish everything."""

    async def request(self, *_arguments, **_options):
        return SimpleNamespace(data=b'{"data": {}}')


class Silent(JetStreamContext):
    """A bus that answers nothing, as to a user who may not read."""

    async def _api_request(self, _subject, _request, timeout):
        await asyncio.sleep(timeout)
        raise nats.errors.TimeoutError


@pytest.mark.parametrize(("server", "limit_s", "waits_s"), [({}, 2.0, 2), ({"cluster": "slipway"}, 2.0, 30)])
@virtual_time
async def test_only_in_a_cluster_is_an_election_awaited(server, limit_s, waits_s):
    client = Administrator()
    client._server_info = server
    with pytest.raises(nats.errors.TimeoutError):
        await subscribe(Silent(client, timeout=limit_s), "EVENTS", "a.>")
    assert round(asyncio.get_running_loop().time()) == waits_s


@pytest.mark.parametrize(("server", "kind"), [({}, JetStreamContext), ({"cluster": "slipway"}, PatientJetStream)])
def test_other_reads_are_asked_again_in_a_cluster_too(server, kind):
    client = CommandClient()
    client._server_info = server
    assert type(client.jetstream(timeout=2.0)) is kind


class Leaving(JetStreamContext):
    """A bus whose server ends after it made a consumer: what is asked of that one is lost, the next one has a message."""

    made = 0

    async def _api_request(self, _subject, _request, _timeout):
        self.made += 1
        return {"num_pending": 1}

    async def pull_subscribe_bind(self, **_names):
        return Pull(is_lost=self.made == 1)

    async def delete_consumer(self, *_names):
        raise nats.errors.TimeoutError


class Pull:
    """What one consumer is asked for."""

    _consumer = "cli"

    def __init__(self, *, is_lost):
        self._is_lost = is_lost

    async def fetch(self, _batch, timeout):
        if self._is_lost:
            await asyncio.sleep(timeout)
            raise nats.errors.TimeoutError
        return [SimpleNamespace(metadata=SimpleNamespace(num_pending=0))]

    async def unsubscribe(self):
        return None


@virtual_time
async def test_messages_whose_consumer_was_lost_with_its_server_are_read_again_in_a_cluster():
    client = Administrator()
    client._server_info = {"cluster": "slipway"}
    assert len(await read_messages(Leaving(client), "EVENTS", "a.>")) == 1
    client._server_info = {}
    with pytest.raises(Transient, match="stopped answering"):
        await read_messages(Leaving(client), "EVENTS", "a.>")
    assert round(asyncio.get_running_loop().time()) == 10, "5 s of each"
