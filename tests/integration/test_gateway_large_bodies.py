"""One key's large bodies against a real gateway and a real Triton: others' large bodies do not wait for all of them."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from contracts.routes import Route
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from tests.integration.gateway_process import put_route, telemetry

pytestmark = pytest.mark.real
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "zebra"}], "max_tokens": 1}
COSTLY = {**CHAT, "chat_template_kwargs": {"a": [{"b": 1}] * 7_000}}
"""Nearly as many values as a body may have."""
MANY = 100


@pytest.fixture
async def gateway(nats_server, js, triton, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        served = load_toy(triton, "toy", 1, token_delay_ms="0")
        await put_route(js, process, Route(model="toy", epoch=1, active=served))
        yield process


def key_of(gateway, name: str) -> dict[str, str]:
    """Return the header that presents another key."""
    gateway.keys.ensure(name, ["production"], datetime.now(UTC))
    return {"authorization": f"Bearer {gateway.keys.key_file(name).read_text().strip()}"}


async def test_large_bodies_of_one_key_leave_turns_to_another_are_bounded_and_their_waits_are_measured(gateway, js):
    limits = httpx.Limits(max_connections=MANY + 1)
    async with httpx.AsyncClient(base_url=gateway.base_url, timeout=60, trust_env=False, limits=limits) as http:

        async def ask(name: str, **body) -> httpx.Response:
            return await http.post("/v1/chat/completions", json={**CHAT, **body}, headers=keys[name])

        keys = {name: key_of(gateway, name) for name in ("many", "other")}
        async with asyncio.timeout(20):
            while {(await ask(name)).status_code for name in keys} != {200}:
                await asyncio.sleep(0.05)
        many = [asyncio.ensure_future(ask("many", **COSTLY)) for _ in range(MANY)]
        async with asyncio.timeout(60):
            while not any(answer.done() and answer.result().status_code == 429 for answer in many):
                await asyncio.sleep(0.001)
        other = await ask("other", messages=[{"role": "user", "content": "x" * 20_000}])
        waiting = sum(not answer.done() for answer in many)
        answers = await asyncio.gather(*many)
    assert other.status_code == 200
    assert waiting > MANY // 4
    assert {answer.status_code for answer in answers} == {200, 429}
    error = next(answer.json()["error"] for answer in answers if answer.status_code == 429)
    assert error["code"] == "too_many_requests"
    served = sum(answer.status_code == 200 for answer in answers)
    assert gateway.metric("slipway_gateway_body_wait_seconds_count") == served + 1
    records, _ = await telemetry(js, served + 1)
    longest = max(records, key=lambda record: record.sent_at - record.scheduled_at)
    assert longest.sent_at - longest.scheduled_at > timedelta(milliseconds=max(longest.ttft_ms, 100.0))


async def test_a_body_of_many_small_values_is_refused(gateway):
    body = {**CHAT, "metadata": {"a": [{"b": 1}] * 32_000}}
    answer = httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
