"""Two gateways before a real Triton: a body that kills an engine at one of them reaches no other version at the other."""

import asyncio

import httpx
import pytest

from contracts.routes import Route
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from testbed.triton import TritonServer
from tests.integration.gateway_process import SWITCHES, put_route, telemetry

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as triton:
        yield {1: load_toy(triton, "toy", 1), 2: load_toy(triton, "toy", 2, **SWITCHES)}


@pytest.fixture
def gateways(nats_server, js, tmp_path):
    one, two = (Gateway(tmp_path / n, connection(nats_server, None, tmp_path / n)) for n in ("one", "two"))
    with running(one), running(two):
        yield one, two


async def ask(gateway, model: str, prompt: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=gateway.headers, timeout=20) as http:
        return await http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 2})


async def test_a_body_that_killed_an_engine_is_refused_for_other_versions_by_every_gateway(js, toy, gateways):
    one, two = gateways
    for gateway in gateways:
        await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2], previous=toy[1]))
    assert (await ask(one, "toy@v2", "hello")).status_code == 200
    assert (await ask(one, "toy@v2", "DEADTEXT now")).status_code in (500, 502, 503)
    async with asyncio.timeout(60):
        while (refused := await ask(two, "toy@v1", "DEADTEXT now")).status_code != 503:
            assert refused.status_code == 200, refused.text
            await asyncio.sleep(0.05)
    assert refused.json()["error"]["code"] == "body_refused"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert (await ask(two, "toy@v1", "hello")).status_code == 200, "another body is answered"
    records, _ = await telemetry(js, 2)
    assert [record.engine_died for record in records if record.error] == ["meanwhile"]
