"""Three NATS servers."""

import asyncio
import contextlib

import httpx
import pytest

from shared.messaging.patience import PatientJetStream
from testbed.cluster import provisioned, running_cluster, watch_isolation
from tests.integration.rollback_process import (
    MODEL,
)

ROUTES = "KV_routes"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        asyncio.run(prepare(servers))
        yield servers


async def prepare(cluster):
    client = await cluster.connect()
    await provisioned(client)
    await client.close()


@pytest.fixture
async def js(cluster):
    client = await cluster.connect()
    yield PatientJetStream(client, timeout=30)
    with contextlib.suppress(OSError):  # its server was killed just now
        await client.close()


@contextlib.asynccontextmanager
async def disturbed(cluster, how, stream=ROUTES):
    """Disturb the server that leads a stream; all three are as before afterwards, also where the block fails."""
    if how == "steps down":
        await cluster.step_down(stream)
        yield
    elif how == "is killed":
        server = await cluster.kill_leader(stream)
        try:
            yield
        finally:
            await cluster.restart(server)
    else:
        async with cut_off(cluster, await cluster.leader(stream)):
            yield


@contextlib.asynccontextmanager
async def cut_off(cluster, server):
    """Cut a server off from the others; a client of it must have gone to another one at the end."""
    client = await server.connect(max_reconnect_attempts=-1)
    try:
        watch_isolation(client)
        cluster.cut_off(server)
        yield
        await until(lambda: client.is_connected and client.connected_url.netloc not in server.url, 60)
    finally:
        cluster.rejoin(server)
        await client.close()
        await cluster.settled()  # the others do without one server, not without two


async def until(condition, within_s):
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


CALLERS = 3


@contextlib.asynccontextmanager
async def asked(gateway):
    """Have callers ask all the time; yield the version of each answer, and fail unless every request was answered."""
    answers, stop = [], asyncio.Event()

    async def call(http: httpx.AsyncClient) -> None:
        while not stop.is_set():
            answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 2})
            assert answer.status_code == 200, answer.text
            answers.append(answer.json()["system_fingerprint"].split(".")[1])
            await asyncio.sleep(0.02)

    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=gateway.headers, timeout=20, trust_env=False
    ) as http:
        calls = asyncio.gather(*(call(http) for _ in range(CALLERS)))
        try:
            yield answers
        finally:
            stop.set()
            await calls
