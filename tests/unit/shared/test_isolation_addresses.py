"""A server that is cut off and has several addresses: its pod's, and that of the Service before all servers."""

import asyncio
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server
from nats.js.api import ClusterInfo, PeerInfo, StreamConfig, StreamInfo, StreamState

from shared.messaging.isolation import Isolation
from tests.kit.virtual_time import virtual_time

PODS = {"n0:4222": "n0", "n1:4222": "n1", "n2:4222": "n2"}
SERVICE_AND_PODS = {"service:4222": "n0", **PODS}
RUNS = range(20)
"""Which address of several is the next one is random, from a seed (`tests/kit/run/chance.py`)."""


class Connection:
    """A client of three servers, all of which accept a connection, first of n0; notes the servers that it uses."""

    is_connected, is_closed = True, False

    def __init__(self, server_of, cut_off):
        self.cut_off, self.used, self._at = cut_off, ["n0"], next(iter(server_of))
        self._server_of = server_of
        self._reconnect_to_server_handler = None
        self._pool = [Server(urlparse(f"nats://{address}")) for address in server_of]

    def cut_off_the_present_one(self):
        self.cut_off = self.used[-1]

    @property
    def connected_url(self):
        return urlparse(f"nats://{self._at}")

    @property
    def _server_info(self):
        return {"server_name": self._server_of[self._at], "cluster": "slipway"}

    async def force_reconnect(self):
        server, pause_s = self._reconnect_to_server_handler(self._pool, self._server_info)
        await asyncio.sleep(pause_s)
        self._at = server.uri.netloc
        self.used.append(self._server_of[self._at])

    async def ask(self):
        own = self._server_of[self._at]
        unheard = own == self.cut_off
        peers = [PeerInfo(name=name, active=60 * 10**9 if unheard else 0) for name in ("other", "third")]
        answer = ClusterInfo(leader=own, name="slipway", replicas=peers)
        return StreamInfo(StreamConfig(name="KV_routes"), StreamState(0, 0, 0, 0, 0), cluster=answer)


async def watch(connection, *steps):
    """Watch a connection; take a step after half a minute, and go on for as long."""
    watching = asyncio.create_task(Isolation(connection, connection.ask).watch())
    await asyncio.sleep(30)
    for step in steps:
        step()
        await asyncio.sleep(30)
    connection.is_closed = True
    await watching


@pytest.mark.parametrize("run", RUNS)
@virtual_time
async def test_a_server_that_was_left_is_tried_once_more_for_each_further_address_at_most(run):
    connection = Connection(SERVICE_AND_PODS, cut_off="n0")
    await watch(connection)
    assert connection.used[-1] in {"n1", "n2"}
    assert connection.used.count("n0") <= 2, (run, connection.used)


@virtual_time
async def test_a_server_that_was_left_counts_as_any_other_again_after_one_that_is_not_cut_off():
    seen = set()
    for _ in range(50):
        connection = Connection(PODS, cut_off="n0")
        await watch(connection, connection.cut_off_the_present_one)
        assert connection.used[1] != "n0"
        seen.add(connection.used[2])
    assert seen == {"n0", "n1", "n2"}
