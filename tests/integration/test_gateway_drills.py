"""Drills and staging at the gateway, on a real Triton (toy engine) and a real bus."""

import asyncio
from datetime import UTC, datetime

import openai
import pytest

from contracts.routes import Route
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from tests.integration.gateway_process import HELLO, checks, put_drill, put_route, telemetry

pytestmark = pytest.mark.real
STAGING = {"x-slipway-environment": "staging"}


@pytest.fixture(scope="module")
def toy(triton):
    """Targets 1 and 2, two milliseconds a token."""
    return {version: load_toy(triton, "toy", version, token_delay_ms="2") for version in (1, 2)}


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        yield process


@pytest.fixture
async def asdk(gateway):
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


async def ask(asdk, *, tokens=24, **more):
    """Chat, and return text, output tokens and headers."""
    raw = await asdk.chat.completions.with_raw_response.create(
        model="toy", messages=HELLO, max_tokens=tokens, temperature=0, **more
    )
    answer = raw.parse()
    return answer.choices[0].message.content, answer.usage.completion_tokens, raw.headers


async def test_staging_is_answered_from_its_own_route_only(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(asdk, extra_headers=STAGING)
    assert caught.value.code == "model_not_found"
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2], previous=toy[1]), "staging-routes")

    assert (await ask(asdk))[2]["x-slipway-version"] == "toy.v1.bf16"
    assert (await ask(asdk, extra_headers=STAGING))[2]["x-slipway-version"] == "toy.v2.bf16"
    assert [model.id async for model in asdk.models.list()] == ["toy", "toy@v1"]
    staged = [model.id async for model in asdk.models.list(extra_headers=STAGING)]
    assert staged == ["toy", "toy@v2", "toy@v1"]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(asdk, extra_headers={"x-slipway-environment": "stagign"})
    assert "must be production or staging" in caught.value.message

    for environment, version in (("production", 1), ("staging", 2)):
        records, _ = await telemetry(js, 1, environment)
        assert [(record.environment, record.target.version) for record in records] == [(environment, version)]
        labels = f'environment="{environment}",outcome="ok",target="toy.v{version}.bf16"'
        assert gateway.metric(f"slipway_gateway_requests_total{{{labels}}}") == 1.0
    # A rollback in staging: the next request is answered by the fallback, production does not notice.
    await put_route(
        js, gateway, Route(model="toy", epoch=2, active=toy[1], quarantined=(toy[2].target,)), "staging-routes"
    )
    while (await ask(asdk, extra_headers=STAGING))[2]["x-slipway-version"] != "toy.v1.bf16":
        await asyncio.sleep(0.01)


async def test_what_is_staged_is_never_saved(js, gateway, toy, nats_server):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2]), "staging-routes")
    nats_server.kill()
    try:
        gateway.stop()
        gateway.start()
        assert (checks(gateway)["routes"], checks(gateway)["staging"]) == ("1 (saved)", "0")
    finally:
        nats_server.start()
    await asyncio.to_thread(wait_until, lambda: checks(gateway)["staging"] == "1", what="knowing the staged route")


async def test_a_drill_ends_at_its_expiry_though_the_bus_is_gone(js, gateway, asdk, toy, nats_server):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    active = await put_drill(js, gateway, toy[1], lasts_s=4.0, fault={"error_ratio": 1.0})
    nats_server.kill()
    try:
        outcomes = []
        while datetime.now(UTC) < active.expires_at or len(outcomes) < 5:
            at = datetime.now(UTC)
            try:
                await ask(asdk, tokens=1)
                outcomes.append((at, "well"))
            except openai.InternalServerError as error:
                outcomes.append((at, error.code))
            await asyncio.sleep(0.1)
        await ask(asdk, tokens=1)
    finally:
        nats_server.start()
    # Both clocks are this machine's: to the request, what arrived before the end fails, and what came after does not.
    assert {what for at, what in outcomes if (active.expires_at - at).total_seconds() > 0.2} == {"engine_failed"}
    assert {what for at, what in outcomes if at >= active.expires_at} <= {"well"}
    assert checks(gateway)["drills"] == "none"
