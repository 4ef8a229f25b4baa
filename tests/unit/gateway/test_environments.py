"""Staging apart from production, on fakes."""

import asyncio

import pytest

from contracts.routes import Route
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.requests import read_environment
from services.gateway.routing.tables import RouteTable
from testbed.factories import MODEL, route, served
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import STAGING, World, only_active


def rehearsal(version=9):
    return Route(model=MODEL, active=served(version), previous=served(7))


@pytest.mark.parametrize(
    ("values", "environment"), [([], "production"), (["production"], "production"), (["staging"], "staging")]
)
def test_the_two_environments(values, environment):
    assert read_environment(values) == environment


@pytest.mark.parametrize("values", [[""], ["Staging"], ["stage"], ["staging, production"], ["staging", "staging"]])
def test_anything_else_is_said_to_be_wrong(values):
    with pytest.raises(RequestRejected) as caught:
        read_environment(values)
    assert caught.value.problem.status == 400
    assert ", ".join(values) in caught.value.problem.message
    assert "must be production or staging" in caught.value.problem.message


async def test_each_environment_answers_from_its_own_route():
    world = World(only_active(), staging=[rehearsal()])
    assert (await world.chat()).headers["x-slipway-version"] == "support-bot.v7.int8"
    assert (await world.chat(STAGING)).headers["x-slipway-version"] == "support-bot.v9.int8"
    named = await world.chat({"x-slipway-environment": "production"})
    assert named.headers["x-slipway-version"] == "support-bot.v7.int8"
    assert [record.environment for record in world.records] == ["production", "staging", "production"]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [(MODEL, 404, "model_not_found"), ("parked", 503, "no_serving_target"), ("parked@v7", 404, "model_not_found")],
)
async def test_staging_never_falls_back_to_production(model, status, code):
    world = World(only_active(), route(model="parked"), staging=[Route(model="parked")])
    answer = await world.chat(STAGING, model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (world.engine.calls, world.records) == ([], [])
    assert world.metric("slipway_gateway_rejected_total") == [
        f'slipway_gateway_rejected_total{{environment="staging",status="{status}"}} 1.0'
    ]


async def test_production_never_sees_what_is_staged():
    world = World(staging=[rehearsal()])
    assert (await world.chat()).status_code == 404
    assert (await world.http.get("/v1/models")).json()["data"] == []


async def test_another_environment_is_refused_before_any_route_is_looked_at():
    world = World(only_active(), staging=[rehearsal()])
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = await world.http.post(path, json={}, headers={"x-slipway-environment": "test"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-slipway-environment"
        assert answer.headers["x-request-id"]
    for path in ("/v1/models", f"/v1/models/{MODEL}"):
        answer = await world.http.get(path, headers={"x-slipway-environment": "test"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-slipway-environment")
    assert world.engine.calls == []
    assert world.metric("slipway_gateway_rejected_total") == [
        'slipway_gateway_rejected_total{environment="unknown",status="400"} 4.0'
    ]


async def test_models_are_listed_by_environment():
    world = World(only_active(), staging=[rehearsal()])
    listed = [card["id"] for card in (await world.http.get("/v1/models")).json()["data"]]
    staged = [card["id"] for card in (await world.http.get("/v1/models", headers=STAGING)).json()["data"]]
    assert listed == [MODEL, f"{MODEL}@v7", f"{MODEL}@v6"]
    assert staged == [MODEL, f"{MODEL}@v9", f"{MODEL}@v7"]
    path = f"/v1/models/{MODEL}@v9"
    assert (await world.http.get(path)).status_code == 404
    assert (await world.http.get(path, headers=STAGING)).status_code == 200


async def test_staging_is_not_counted_as_production():
    world = World(only_active(), staging=[rehearsal(7)])
    for _ in range(3):
        await world.chat(STAGING)
    await world.chat()
    for name in ("requests_total", "output_tokens_total", "ttft_seconds_count", "itl_seconds_count"):
        lines = world.metric(f"slipway_gateway_{name}")
        counts = {("staging" if 'environment="staging"' in line else "production"): line.split()[-1] for line in lines}
        tokens = 3.0 if name == "output_tokens_total" else 1.0
        assert counts == {"staging": str(3 * tokens), "production": str(tokens)}, lines


async def test_many_requests_in_staging_reject_none_in_production():
    gate = asyncio.Event()
    world = World(only_active(), staging=[rehearsal()], engine=FakeEngine(gate=gate), max_in_flight=1)
    staged = asyncio.ensure_future(world.chat(STAGING))
    while not world.engine.calls:
        await asyncio.sleep(0)
    assert world.metric("slipway_gateway_in_flight{") == [
        'slipway_gateway_in_flight{environment="production"} 0.0',
        'slipway_gateway_in_flight{environment="staging"} 1.0',
    ]
    assert (await world.chat(STAGING)).status_code == 429
    first = asyncio.ensure_future(world.chat())
    async with asyncio.timeout(5):
        while len(world.engine.calls) < 2:
            await asyncio.sleep(0)
    gate.set()
    assert [(await pending).status_code for pending in (staged, first)] == [200, 200]


async def test_what_is_staged_is_no_reason_to_be_ready():
    world = World(staging=[rehearsal()])
    world.connected = False
    answer = await world.admin.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["staging"]) == (503, "1")


async def test_a_table_without_a_file_takes_changes_all_the_same():
    table = RouteTable({}, None, "staging")
    await table.apply(MODEL, rehearsal(), 1)
    assert table.get(MODEL) == rehearsal()
