"""A server that is cut off from the others of its cluster: what shows it, and where its clients go."""

import asyncio
import contextlib
import json
from collections import Counter

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.transport import Transport
from nats.js.api import ClusterInfo, PeerInfo, StreamConfig, StreamInfo, StreamState

from shared.messaging.isolation import EVERY_S, SILENT_S, Isolation, is_cut_off
from tests.kit.virtual_time import virtual_time

SECOND = 1_000_000_000


def contacted(*ages_s, offline=False):
    return [PeerInfo(name=f"n{number}", active=int(age * SECOND), offline=offline) for number, age in enumerate(ages_s)]


def cluster(leader, *peers, name="slipway"):
    return ClusterInfo(leader=leader, name=name, replicas=list(peers))


@pytest.mark.parametrize(
    ("answer", "cut_off"),
    [
        (None, False),
        (cluster("own", name=""), False),
        (cluster("own"), False),
        (cluster("other", *contacted(60, 60)), False),
        (cluster("own", *contacted(0.5, 1)), False),
        (cluster("own", *contacted(60, 1)), False),
        (cluster("own", *contacted(6, 60)), True),
        (cluster("own", *contacted(0.1, 0.1, offline=True)), True),
        (cluster("", *contacted(1, 1)), None),
    ],
    ids=["one server", "no name", "one copy", "passed on", "both heard", "one heard", "none", "offline", "election"],
)
def test_a_server_is_cut_off_where_it_leads_and_hears_of_no_other(answer, cut_off):
    assert is_cut_off(answer, "own") is cut_off


# -- a connection to a server that is cut off ------------------------------------------------------------------------

PONG = b"PONG\r\n"
LOST = None
"""What a server answers that reaches no leader: nothing, within the limit of the question."""
FINE = cluster("elsewhere", *contacted(0.1, 0.1))
ALONE = {name: cluster(name, *contacted(60, 60)) for name in ("n0", "n1", "n2")}


class Network(Transport):
    """Three servers without sockets, and the connection of one client to one of them."""

    def __init__(self, name="slipway"):
        self.unreachable, self.tried, self.asked, self.answers = set(), [], 0, {}
        self._cluster, self._at, self._sent = name, "", asyncio.Queue()

    async def ask(self):
        self.asked += 1
        answer = self.answers.get(self._at, FINE)
        if answer is LOST:
            await asyncio.sleep(EVERY_S)
            raise nats.errors.TimeoutError
        config = StreamConfig(name="KV_routes")
        return StreamInfo(config, StreamState(0, 0, 0, 0, 0), cluster=answer)

    async def connect(self, uri, buffer_size, connect_timeout):  # noqa: ARG002 - as nats-py calls it
        self.tried.append((asyncio.get_running_loop().time(), uri.hostname))
        if uri.hostname in self.unreachable:
            raise ConnectionRefusedError
        self._at, self._sent = uri.hostname, asyncio.Queue()
        greeting = {"server_name": uri.hostname, "max_payload": 1024} | (
            {"cluster": self._cluster} if self._cluster else {}
        )
        self._sent.put_nowait(b"INFO " + json.dumps(greeting).encode() + b"\r\n")

    async def connect_tls(self, uri, ssl_context, buffer_size, connect_timeout):
        raise NotImplementedError

    def write(self, payload):
        for _ in range(payload.count(b"PING\r\n")):
            self._sent.put_nowait(PONG)

    def writelines(self, payload):
        self.write(b"".join(payload))

    async def read(self, buffer_size):  # noqa: ARG002 - as nats-py calls it
        return await self._sent.get()

    async def readline(self):
        return await self._sent.get()

    async def drain(self):
        """Return: nothing waits to be sent."""

    async def wait_closed(self):
        """Return: it is closed at once."""

    def close(self):
        """Do nothing: the next connection is another one."""

    def at_eof(self):
        return False

    def __bool__(self):
        return True


@contextlib.asynccontextmanager
async def watched(network, report=None):
    """Let a client connect to n0, and watch whether that is cut off."""
    client = Client()
    client._transport = network
    servers = [f"nats://n{number}:4222" for number in range(3)]
    await client.connect(servers, dont_randomize=True, max_reconnect_attempts=-1, error_cb=drop)
    watching = asyncio.create_task(Isolation(client, network.ask, report).watch())
    assert names(network) == ["n0"]
    try:
        yield client
    finally:
        await client.close()
        await watching


async def drop(_error):
    """Drop the error of a server that cannot be reached."""


def names(network):
    return [name for _, name in network.tried]


@virtual_time
async def test_a_server_that_says_it_is_cut_off_is_left_at_once_for_another_one():
    network = Network()
    async with watched(network) as client:
        network.answers = ALONE | {"n1": FINE, "n2": FINE}
        await asyncio.sleep(EVERY_S + 0.1)
        assert client.is_connected
        assert len(names(network)) == 2
        assert names(network)[1] in {"n1", "n2"}
        assert client._reconnect_to_server_handler is not None
        await asyncio.sleep(60)
        assert len(names(network)) == 2, "the other one is fine"
        assert client._reconnect_to_server_handler is None, "any server will do again"


@virtual_time
async def test_what_is_left_is_reported_where_the_caller_says_and_not_printed(capsys):
    """A command prints JSON, and configures no log."""
    network, reported = Network(), []
    async with watched(network, reported.append):
        network.answers = ALONE | {"n1": FINE, "n2": FINE}
        await asyncio.sleep(EVERY_S + 0.1)
    assert reported == ["the server n0 reaches no other one of its cluster; another one is used"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("answer", [LOST, cluster("", *contacted(1, 1))], ids=["silent", "election"])
@virtual_time
async def test_a_server_that_knows_no_leader_is_left_after_longer_than_an_election(answer):
    network = Network()
    async with watched(network):
        network.answers = {"n0": answer}
        await asyncio.sleep(60)
        (left_s, name) = network.tried[1]
        assert SILENT_S < left_s <= SILENT_S + 2 * EVERY_S
        assert (name in {"n1", "n2"}, len(network.tried)) == (True, 2)


@virtual_time
async def test_a_server_that_answers_after_each_election_is_never_left():
    network = Network()
    async with watched(network):
        for _ in range(20):
            network.answers = {"n0": LOST}
            await asyncio.sleep(SILENT_S - 2 * EVERY_S)
            network.answers = {}
            await asyncio.sleep(2 * EVERY_S)
        assert names(network) == ["n0"]


@virtual_time
async def test_another_one_that_refuses_is_no_reason_to_go_back():
    network = Network()
    async with watched(network) as client:
        network.answers, network.unreachable = {"n0": ALONE["n0"]}, {"n1"}
        await asyncio.sleep(60)
        assert client.connected_url.hostname == "n2"
        assert names(network) in (["n0", "n2"], ["n0", "n1", "n2"])


@virtual_time
async def test_the_one_that_was_left_is_tried_again_once_no_other_one_can_be_reached():
    network = Network()
    async with watched(network) as client:
        network.answers, network.unreachable = {"n0": ALONE["n0"]}, {"n1", "n2"}
        await asyncio.sleep(EVERY_S + 1)
        assert not client.is_connected
        network.answers = {}
        await asyncio.sleep(20)
        assert client.is_connected
        assert client.connected_url.hostname == "n0"
        others = Counter(names(network)[1:-1])
        assert others.keys() == {"n1", "n2"}
        assert set(others.values()) <= {3, 4}, "three tries of each, four where three are as many as its own"


@virtual_time
async def test_where_every_server_says_that_it_is_cut_off_each_of_them_is_tried():
    network = Network()
    async with watched(network):
        network.answers = ALONE
        await asyncio.sleep(120)
        tried = Counter(names(network))
        assert set(tried) == {"n0", "n1", "n2"}
        assert 30 <= tried.total() <= 61, "one each time that it is asked, not without a pause"


@virtual_time
async def test_a_server_without_a_cluster_is_not_asked():
    network = Network(name="")
    async with watched(network):
        network.answers = {"n0": LOST}
        await asyncio.sleep(60)
        assert (network.asked, names(network)) == (0, ["n0"])
