"""Two gateways on one bus: they admit a key's limit together, and add what it used to one record."""

import asyncio
import json
import os
import sys
import time
from collections import Counter

import httpx
import pytest

from contracts.api_keys import ApiKey, KeyLimits
from contracts.api_usage import MonthlyUsage
from contracts.routes import Route
from decisions.access.api_keys import digest_of_secret, format_key
from deploy.local.state import ADMIN
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import forked
from testbed.factories import route
from testbed.gateway import Gateway, load_toy
from testbed.servers import bus_variables, connection, running, wait_until
from testbed.stack import ROOT

pytestmark = pytest.mark.real
SECRET = "cd" * 32
LIMIT = 600
WINDOW_S = 10


def key(key_id: str, team: str | None = None, **limits) -> tuple[ApiKey, dict[str, str]]:
    """Return the record of a key, and the header that presents it."""
    record = ApiKey(
        key_id=key_id,
        name="shared",
        secret_digest=digest_of_secret(SECRET),
        team=team,
        limits=KeyLimits(**limits),
        issued_at=SystemClock().now(),
        issued_by="test",
    )
    return record, {"authorization": f"Bearer {format_key(key_id, SECRET)}"}


@pytest.fixture
def gateways(nats_server, js, tmp_path):
    """Two gateways, each with its own folder, and a team with a budget."""
    teams = tmp_path / "teams.json"
    teams.write_text(json.dumps([{"name": "shop", "models": ["toy"], "quota": {"tokens_per_month": 200}}]))
    first, second = (Gateway(tmp_path / name, connection(nats_server, None, tmp_path / name)) for name in "ab")
    for gateway in (first, second):
        gateway.variables["SLIPWAY_TEAMS"] = str(teams)
    with running(first), running(second):
        yield first, second


async def ask(http, base_url: str, headers: dict[str, str], admitted: Counter) -> None:
    answer = await http.get(f"{base_url}/v1/models", headers=headers)
    admitted[answer.status_code] += 1


async def test_two_gateways_admit_one_limit(gateways, js):
    """Each learns within about two seconds what the other admitted; over ten seconds both admit the limit."""
    record, headers = key("a1a1a1a1a1a1", requests_per_minute=LIMIT)
    await Bucket(js, "api-keys", ApiKey).create(record.key_id, record)
    admitted: Counter[int] = Counter()
    async with httpx.AsyncClient(trust_env=False) as http:

        async def status(gateway: Gateway) -> int:
            return (await http.get(f"{gateway.base_url}/v1/models", headers=headers)).status_code

        for gateway in gateways:
            while await status(gateway) != 200:
                await asyncio.sleep(0.1)
        while await status(gateways[0]) != 429:
            pass
        async with asyncio.timeout(10):
            while await status(gateways[1]) != 429:
                await asyncio.sleep(0.1)
        tasks: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        number, counted = 0, None
        while (now := time.monotonic() - began) < 4 + WINDOW_S:
            if counted is None and now >= 4:
                counted = admitted[200]
            base = gateways[number % 5 == 0].base_url  # four of five at the first
            tasks.add(asyncio.ensure_future(ask(http, base, headers, admitted)))
            number += 1
            await asyncio.sleep(max(0.0, number / 40 - (time.monotonic() - began)))
        await asyncio.gather(*tasks)
    assert admitted[200] - counted == pytest.approx(LIMIT / 60 * WINDOW_S, rel=0.25), admitted
    assert set(admitted) == {200, 429}


async def test_both_add_to_one_record_which_the_list_shows_and_the_budget_follows(gateways, js, triton, nats_server):
    served = load_toy(triton, "toy", 1)
    await Bucket(js, "routes", Route).create("toy", route(model="toy", canary=None, active=served, previous=None))
    record, headers = key("b2b2b2b2b2b2", tokens_per_month=200)
    await Bucket(js, "api-keys", ApiKey).create(record.key_id, record)
    body = {"model": "toy", "prompt": "one two three", "max_tokens": 4}

    def status(gateway) -> int:
        return httpx.post(f"{gateway.base_url}/v1/completions", json=body, headers=headers, timeout=30).status_code

    for gateway in gateways:
        wait_until(lambda gateway=gateway: status(gateway) == 200)
    usage = Bucket(js, "api-usage", MonthlyUsage)

    async def requests() -> MonthlyUsage:
        entry = await usage.get(record.key_id)
        return entry.value if entry else MonthlyUsage(account=record.key_id, month="2026-01")

    async with asyncio.timeout(10):
        while (await requests()).requests < 2:
            await asyncio.sleep(0.1)
    stored = await requests()
    assert stored.requests >= 2
    command = [sys.executable, "-m", "clients.cli.main", "keys", "list", "--json"]
    variables = {**bus_variables(nats_server.settings(), ADMIN), "SLIPWAY_S3_ENDPOINT": "127.0.0.1:1"}
    listed = forked.run(command, environment=os.environ | variables, cwd=ROOT, timeout_s=60)
    assert listed.returncode == 0, listed.stderr
    (shown,) = (entry for entry in json.loads(listed.stdout)["api_keys"] if entry["key_id"] == record.key_id)
    assert shown["used"] == {"month": stored.month, "tokens": stored.tokens, "requests": stored.requests}
    for number in range(60):  # in turn: each learns what the other has recorded
        if status(gateways[number % 2]) == 429:
            break
        await asyncio.sleep(0.1)
    for gateway in gateways:  # each, as soon as it has read what both recorded
        url = f"{gateway.base_url}/v1/completions"
        refused = wait_until(lambda url=url: answer_429(httpx.post(url, json=body, headers=headers)))
        assert refused.json()["error"]["code"] == "insufficient_quota"
    most = 200 + 20 * 7  # what is admitted within two seconds more: each records about every second
    assert (await requests()).tokens <= most
    await use_up_the_budget_of_a_team(gateways, js, body)


def answer_429(answer: httpx.Response) -> httpx.Response | None:
    """Return the answer if it refuses by a limit: the next one may be admitted, once others have given tokens back."""
    return answer if answer.status_code == 429 else None


async def use_up_the_budget_of_a_team(gateways, js, body):
    """Two keys of the team, one at each gateway: what both use is refused to both."""
    presented = []
    for key_id in ("c3c3c3c3c3c3", "d4d4d4d4d4d4"):
        record, headers = key(key_id, team="shop")
        await Bucket(js, "api-keys", ApiKey).create(record.key_id, record)
        presented.append(headers)

    def answer(number):
        url = f"{gateways[number].base_url}/v1/completions"
        return httpx.post(url, json=body, headers=presented[number], timeout=30)

    for number in range(2):
        wait_until(lambda number=number: answer(number).status_code == 200)
    for number in range(2):
        refused = wait_until(lambda number=number: answer_429(answer(number)))
        assert "team shop together may use 200 tokens" in refused.json()["error"]["message"]
    usage = Bucket(js, "api-usage", MonthlyUsage)
    async with asyncio.timeout(20):  # what a gateway admitted is recorded within about a second
        while (await usage.get("team-shop")).value.tokens < 200:
            await asyncio.sleep(0.1)
