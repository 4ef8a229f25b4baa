"""The gateway while things break: the bus, Triton, a stub, an engine."""

import asyncio

import httpx
import openai
import pytest

from contracts.routes import Route
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.gateway import Gateway, load_toy, order
from testbed.servers import connection, running, wait_until
from tests.integration.gateway_process import SWITCHES, put_route, telemetry

pytestmark = pytest.mark.real


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    settings = {"inter_token_s": 2, "first_token_s": 5}
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), **settings)) as process:
        yield process


@pytest.fixture
async def asdk(gateway):
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture
def target(triton):
    served = load_toy(triton, "toy", 1, token_delay_ms="10", **SWITCHES)
    yield served
    order(triton, "toy.v1.bf16", "unload")


@pytest.fixture
def targets(triton, target):
    yield target, load_toy(triton, "toy", 2)
    order(triton, "toy.v2.bf16", "unload")


async def ask(asdk, prompt="x", tokens=2):
    return await asdk.completions.create(model="toy", prompt=prompt, max_tokens=tokens)


async def test_the_bus_may_go_and_come_back(js, gateway, asdk, targets, nats_server):
    target, second = targets
    await put_route(js, gateway, Route(model="toy", epoch=1, active=target))
    await ask(asdk)
    nats_server.kill()
    try:
        await asyncio.to_thread(wait_until, lambda: "not connected" in gateway.get("/readyz").text, what="noticing")
        await ask(asdk)
        # A gateway that starts now knows the routes from its file.
        gateway.stop()
        gateway.start()
        checks = gateway.get("/readyz").json()["checks"]
        assert (checks["bus"], checks["routes"]) == ("not connected", "1 (saved)")
        await ask(asdk)
    finally:
        nats_server.start()
    await put_route(js, gateway, Route(model="toy", epoch=2, active=second, previous=target))
    assert (await ask(asdk)).system_fingerprint.startswith("fp_toy.v2.")
    # A stream in memory does not outlive its server: telemetry says that it waits, and comes when there is one again.
    await asyncio.to_thread(
        wait_until, lambda: gateway.get("/readyz").json()["checks"]["telemetry"] != "ok", what="telemetry waiting"
    )
    await provision(js, dedupe_window_s=2.0)
    records, _ = await telemetry(js, 2)
    assert [record.target.version for record in records] == [1, 2]


async def test_a_bus_that_restarts_under_load_costs_no_request(js, gateway, asdk, targets, nats_server):
    target, second = targets
    await put_route(js, gateway, Route(model="toy", epoch=1, active=target))
    stop = asyncio.Event()
    answered = []

    async def load() -> None:
        while not stop.is_set():
            answered.append((await ask(asdk)).system_fingerprint[:9])

    loads = asyncio.gather(*(load() for _ in range(3)))
    try:
        await asyncio.to_thread(nats_server.kill)
        # On the main thread: a child dies with the thread that forked it.
        nats_server.start()
        # A connection of its own: the fixture's may not have noticed yet, and what it sends would be lost.
        client = await nats_server.connect()
        await put_route(client.jetstream(), gateway, Route(model="toy", epoch=2, active=second, previous=target))
        await client.close()
        answered.append((await ask(asdk)).system_fingerprint[:9])  # those of the load may all have begun before
    finally:
        stop.set()
        await loads
    assert {"fp_toy.v1", "fp_toy.v2"} <= set(answered)


async def test_a_killed_stub_ends_the_stream_with_an_error(js, gateway, asdk, target, triton):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=target))
    stream = await asdk.completions.create(model="toy", prompt="Once", max_tokens=1500, stream=True)
    await anext(stream)
    triton.kill_stub("toy.v1.bf16")
    with pytest.raises(openai.APIError) as caught:
        async for _ in stream:
            pass
    assert caught.value.code in ("engine_dead", "endpoint_unreachable"), "Triton itself may die of it, though rarely"
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(asdk)
    assert caught.value.status_code in (502, 503, 504)
    records, _ = await telemetry(js, 2)
    assert [record.error is not None for record in records] == [True, True]
    if not triton.revive():
        order(triton, "toy.v1.bf16", "unload")
    order(triton, "toy.v1.bf16", "load")
    assert (await ask(asdk)).choices


async def test_an_unreadable_route_hides_no_other(js, gateway, asdk, target):
    bucket = await js.key_value("routes")
    await bucket.put("broken", b'{"model": 5}')
    await put_route(js, gateway, Route(model="toy", epoch=1, active=target))
    assert (await ask(asdk)).choices
    async with httpx.AsyncClient(headers=gateway.headers) as http:
        assert (await http.get(gateway.base_url + "/v1/models/broken")).status_code == 404
    assert (await Bucket(js, "routes", Route).get("toy")).value.epoch == 1
