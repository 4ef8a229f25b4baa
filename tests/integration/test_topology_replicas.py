"""Provisioning again with more replicas, on three real servers: records are copied as facts are."""

import asyncio
import contextlib

import nats
import nats.errors
import pytest

from contracts.services import EVENTS
from shared.messaging import topology
from shared.messaging.provision import provision
from testbed.ports import free_port
from testbed.servers import NatsServer, running

MEBIBYTE = 1024**2
SMALL = dict.fromkeys(topology.LIMITS, MEBIBYTE)


class Member(NatsServer):
    """One server of a cluster of three."""

    def __init__(self, folder, number, routes):
        self.name = f"nats-{number}"
        super().__init__(folder)
        config = self.folder / "nats.conf"
        peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        config.write_text(
            f"server_name: n{number}\n{config.read_text()}"
            f'cluster {{ name: three, listen: "127.0.0.1:{routes[number]}", routes: [{peers}] }}\n'
        )


@pytest.fixture
async def cluster(tmp_path):
    routes = [free_port() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(running(Member(tmp_path, number, routes))) for number in range(3)]
        client = await members[0].connect()
        context = client.jetstream(timeout=30)
        async with asyncio.timeout(30):
            while True:  # until the servers have chosen a leader
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await client.jetstream(timeout=1).account_info()
                    break
                await asyncio.sleep(0.1)
        yield context
        await client.close()


async def replicas(cluster):
    """Return how many copies each stream has."""
    return {stream.config.name: stream.config.num_replicas for stream in await cluster.streams_info()}


async def test_buckets_get_the_replicas_that_streams_get_and_never_lose_them(cluster):
    await provision(cluster, replicas=1, limits=SMALL)
    bucket = await cluster.key_value("routes")
    revision = await bucket.create("support-bot", b"{}")
    await provision(cluster, replicas=3, limits=SMALL)
    await provision(cluster, replicas=1, limits=SMALL)
    async with asyncio.timeout(30):
        while (
            copies := await replicas(cluster)
        ).keys() != topology.LIMITS.keys():  # the list leaves out a stream that changes now
            await asyncio.sleep(0.1)
    assert set(copies.values()) == {3}
    assert copies[EVENTS] == 3
    assert (await bucket.get("support-bot")).revision == revision
