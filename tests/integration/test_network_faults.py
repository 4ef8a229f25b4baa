"""Gateway and rollback-controller before a bus or a Triton that comes and goes, or stands still: a rollback happens once."""

import asyncio

import httpx
import pytest

from contracts import facts as f
from contracts.routes import Route
from shared.storage.kv import Bucket
from testbed.gateway import Gateway, load_toy
from testbed.relay import relaying
from testbed.servers import connection, running, wait_until
from testbed.services import running_service, stored_facts, wait_for_fact
from testbed.triton import TritonServer
from tests.integration.nats_cluster import CALLERS, asked
from tests.integration.rollback_process import (
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

pytestmark = pytest.mark.real
FIRST_TOKEN_S = 3.0


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as triton:
        yield {version: load_toy(triton, MODEL, version) for version in (1, 2)}


@pytest.fixture
def relay(nats_server):
    with relaying(nats_server.port) as between:
        yield between


@pytest.fixture
def standing_still(toy):
    """A relay before the Triton of version 2, and that version as it is reached through it."""
    _, _, port = toy[2].endpoints[0].rpartition(":")
    with relaying(int(port)) as between:
        yield between, toy[2].model_copy(update={"endpoints": (f"127.0.0.1:{between.port}",)})


@pytest.fixture
def gateway(nats_server, js, bus_settings, relay, tmp_path):
    """A gateway, and a controller beside it; both reach the bus through the relay only."""
    url = f"tls://127.0.0.1:{relay.port}"
    settings = connection(nats_server, None, tmp_path / "gateway", nats_url=url)
    behind = bus_settings.model_copy(update={"nats_url": url})
    with (
        running(Gateway(tmp_path, settings, first_token_s=FIRST_TOKEN_S)) as process,
        running_service(MODULE, behind, **QUICK),
    ):
        yield process


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
        await asyncio.sleep(10)  # the time is what is tested
        assert len(answers) > held + 50, "requests go on"
        assert set(answers[held:]) == {"v2"}
        relay.release()
        async with asyncio.timeout(30):
            while answers[-1:] != ["v1"]:
                await asyncio.sleep(0.05)
        await assert_rolled_back_once(js)


async def ask(gateway, model: str) -> tuple[int, str]:
    """Return the status of a request, and the version that answered it or the code of its error."""
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=gateway.headers, timeout=20) as http:
        answer = await http.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 2})
    body = answer.json()
    return answer.status_code, body["system_fingerprint"].split(".")[1] if answer.is_success else body["error"]["code"]


@pytest.mark.full
async def test_a_triton_that_stands_still_ends_its_requests_by_their_limit_and_a_rollback_does_not_wait_for_it(
    js, toy, gateway, standing_still
):
    relay, second = standing_still
    await start(js, {**toy, 2: second}, gateway)
    assert await ask(gateway, MODEL) == (200, "v2")
    relay.hold()
    waiting = [asyncio.create_task(ask(gateway, MODEL)) for _ in range(CALLERS)]
    assert await asyncio.gather(*waiting) == [(504, "no_first_token")] * CALLERS
    waiting = [asyncio.create_task(ask(gateway, f"{MODEL}@v2")) for _ in range(CALLERS)]
    in_flight = 'slipway_gateway_in_flight{environment="production"}'
    await asyncio.to_thread(wait_until, lambda: gateway.metric(in_flight) == CALLERS, what="requests held")
    await publish(js, alert())
    async with asyncio.timeout(5):
        while (await ask(gateway, MODEL))[1] != "v1":
            await asyncio.sleep(0.05)
    assert {await ask(gateway, MODEL) for _ in range(20)} == {(200, "v1")}
    assert await asyncio.gather(*waiting) == [(504, "no_first_token")] * CALLERS
    await assert_rolled_back_once(js)
    relay.release()
    routes = Bucket(js, "routes", Route)
    entry = await routes.get(MODEL)
    await routes.update(MODEL, Route(model=MODEL, epoch=9, active=second, previous=toy[1]), entry.revision)
    async with asyncio.timeout(5):
        while await ask(gateway, MODEL) != (200, "v2"):
            await asyncio.sleep(0.05)
    assert {await ask(gateway, MODEL) for _ in range(20)} == {(200, "v2")}, "what is reachable again serves at once"
