"""Gateway and rollback-controller before a bus that comes and goes, or holds everything back: a rollback happens once."""

import asyncio
import contextlib

import httpx
import pytest

from contracts import facts as f
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from testbed.services import running_service, stored_facts, wait_for_fact
from testbed.triton import TritonServer
from tests.integration.test_rollback_controller import (
    MODEL,
    MODULE,
    QUICK,
    alert,
    learn,
    publish,
    put_route,
    route_of,
    target,
)
from tests.kit.relay import relaying

pytestmark = pytest.mark.real
CALLERS = 3


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as triton:
        yield {version: load_toy(triton, MODEL, version) for version in (1, 2)}


@pytest.fixture
def relay(nats_server):
    with relaying(nats_server.port) as between:
        yield between


@pytest.fixture
def gateway(nats_server, js, bus_settings, relay, tmp_path):
    """A gateway, and a controller beside it; both reach the bus through the relay only."""
    url = f"tls://127.0.0.1:{relay.port}"
    settings = connection(nats_server, None, tmp_path / "gateway", nats_url=url)
    behind = bus_settings.model_copy(update={"nats_url": url})
    with running(Gateway(tmp_path, settings)) as process, running_service(MODULE, behind, **QUICK):
        yield process


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


async def start(js, toy, gateway):
    await learn(js, 1, 2)
    await put_route(js, toy)
    await asyncio.to_thread(
        wait_until, lambda: gateway.get(f"/v1/models/{MODEL}@v2").status_code == 200, what="the route"
    )


async def assert_rolled_back_once(js):
    (done,) = await wait_for_fact(js, f.RollbackCompleted, timeout_s=60)
    (started,) = await stored_facts(js, f.RollbackStarted)
    assert started.data.rollback_id == done.data.rollback_id
    route = await route_of(js)
    assert (route.active.target, route.epoch) == (target(1), 8)
    assert len(await stored_facts(js, f.DeploymentChanged)) == 1


async def test_while_the_network_flaps_no_request_fails_and_a_rollback_happens_once(js, toy, gateway, relay):
    await start(js, toy, gateway)
    stop = asyncio.Event()

    async def flap() -> None:
        while not stop.is_set():
            relay.cut()
            await asyncio.sleep(0.3)
            relay.reconnect()
            await asyncio.sleep(1.0)

    async with asked(gateway) as answers:
        flapping = asyncio.create_task(flap())
        try:
            await publish(js, alert())
            async with asyncio.timeout(60):
                while answers[-1:] != ["v1"]:
                    await asyncio.sleep(0.05)
        finally:
            stop.set()
            await flapping
        await assert_rolled_back_once(js)
    assert answers.index("v1") > 0
    assert "v2" not in answers[-CALLERS:]


async def test_a_bus_that_holds_everything_back_for_ten_seconds_delays_the_rollback_and_nothing_else(
    js, toy, gateway, relay
):
    await start(js, toy, gateway)
    async with asked(gateway) as answers:
        relay.hold()
        held = len(answers)
        await publish(js, alert())
        await asyncio.sleep(10)
        assert len(answers) > held + 50, "requests go on"
        assert set(answers[held:]) == {"v2"}
        relay.release()
        async with asyncio.timeout(30):
            while answers[-1:] != ["v1"]:
                await asyncio.sleep(0.05)
        await assert_rolled_back_once(js)
