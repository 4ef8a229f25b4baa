"""Keys of teams: they open their team's models only, and the engine keeps the cached prefixes of teams apart."""

import json

import pytest

from contracts.api_keys import ApiKey, KeyLimits
from contracts.api_usage import MonthlyUsage
from contracts.routes import CanaryShare
from decisions.access.api_keys import digest_of_secret, format_key
from services.gateway.callers.tables import TeamTable, load_secret
from testbed.factories import MODEL, START, route, served
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import World, only_active

SECRET = "5" * 64


def key(number: int, team: str | None, **changes) -> ApiKey:
    fields = {"key_id": f"{number:012x}", "name": "shop", "secret_digest": digest_of_secret(SECRET), "team": team}
    return ApiKey(**(fields | {"issued_at": START, "issued_by": "admin"} | changes))


KEYS = [key(1, "shop"), key(2, "bank"), key(3, None), key(4, "shop"), key(5, "gone"), key(6, "shop", models=("other",))]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "teams.json"
    write(file, shop=[MODEL, "other"], bank=["bank-bot"])
    return file


def write(file, **teams):
    file.write_text(json.dumps([{"name": name, "models": models} for name, models in teams.items()]))


@pytest.fixture
def world(path):
    clock = StepClock()
    return World(only_active(), keys=KEYS, clock=clock, teams=TeamTable(path, b"s" * 32, clock))


async def ask(world, number: int):
    return await world.chat({"authorization": f"Bearer {format_key(f'{number:012x}', SECRET)}"})


@pytest.mark.parametrize(("number", "status"), [(1, 200), (2, 404), (3, 200), (5, 404), (6, 404)])
async def test_a_key_of_a_team_opens_the_models_of_its_team_only(world, number, status):
    answer = await ask(world, number)
    assert answer.status_code == status, answer.text
    headers = {"authorization": f"Bearer {format_key(f'{number:012x}', SECRET)}"}
    listed = [model["id"] for model in (await world.http.get("/v1/models", headers=headers)).json()["data"]]
    assert (MODEL in listed) == (status == 200)


async def test_a_model_that_changes_its_team_is_closed_within_a_second(world, path):
    assert (await ask(world, 1)).status_code == 200
    write(path, bank=[MODEL], shop=["other"])
    await world.clock.pause(1.1)
    assert [(await ask(world, number)).status_code for number in (1, 2)] == [404, 200]
    path.write_text("[")
    await world.clock.pause(1.1)
    assert [(await ask(world, number)).status_code for number in (1, 2)] == [404, 200], "what was known counts"


async def test_without_a_list_a_key_of_a_team_opens_nothing():
    world = World(only_active(), keys=KEYS)
    assert [(await ask(world, number)).status_code for number in (1, 3)] == [404, 200]


async def test_a_canary_for_a_team_is_drawn_for_its_keys_and_requests_of_others_are_no_evidence(path):
    share = CanaryShare(served=served(8), weight_ratio=0.99, only_for=("team:shop",))
    clock = StepClock()
    world = World(
        route(canary=share, active=served(7)), keys=KEYS, clock=clock, teams=TeamTable(path, b"s" * 32, clock)
    )
    for number in (1, 3, 4, 3):
        assert (await ask(world, number)).status_code == 200
    assert [(record.canary, record.pinned) for record in world.records] == [(True, False), (False, True)] * 2


async def test_cached_prefixes_are_those_of_a_team(world, path):
    for number in (1, 3, 4):
        assert (await ask(world, number)).status_code == 200
    first, without, second = [request.cache_salt for request in world.engine.requests]
    assert (first, without) == (second, None)
    assert len(first) == 64
    assert TeamTable(path, b"s" * 32, world.clock).cache_salt("bank") != first
    assert TeamTable(path, b"t" * 32, world.clock).cache_salt("shop") != first, "it takes the secret to know it"


async def test_a_caller_cannot_send_a_salt(world):
    headers = {"authorization": f"Bearer {format_key(f'{1:012x}', SECRET)}"}
    refused = await world.chat(headers, cache_salt="x")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache_salt")


def test_processes_share_one_secret(tmp_path):
    first = load_secret(tmp_path / "cache-salt")
    assert (len(first), load_secret(tmp_path / "cache-salt")) == (32, first)
    assert (tmp_path / "cache-salt").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["cache-salt"]


def budget(file, tokens):
    teams = [
        {"name": "shop", "models": [MODEL], "quota": {"tokens_per_month": tokens}},
        {"name": "bank", "models": ["bank-bot"], "quota": {"tokens_per_month": 1}},
    ]
    file.write_text(json.dumps(teams))


async def test_all_keys_of_a_team_share_its_budget_of_the_month(world, path):
    budget(path, 100)
    assert [(await ask(world, number)).status_code for number in (1, 4)] == [200, 200]
    used = world.budgets.used("team-shop")
    assert used == world.budgets.used(f"{1:012x}") + world.budgets.used(f"{4:012x}") > 0
    await world.budgets.apply("team-shop", MonthlyUsage(account="team-shop", month="2026-03", tokens=100), 7)
    for number in (1, 4):
        refused = await ask(world, number)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
        assert "team shop together may use 100 tokens in a month" in error["message"]
        assert int(refused.headers["retry-after"]) > 86_400
    assert (await ask(world, 3)).status_code == 200, "a key without a team has no part in it"
    budget(path, 1000)
    await world.clock.pause(1.1)
    assert (await ask(world, 1)).status_code == 200


async def test_a_request_that_may_take_the_rest_of_a_teams_budget_is_refused_to_another_key(world, path):
    budget(path, 1000)
    first = world.callers.authenticate([f"Bearer {format_key(f'{1:012x}', SECRET)}"], "production")
    with world.callers.admit(first) as spending:
        spending.hold(500, 490, expected=100)
        assert (await ask(world, 4)).json()["error"]["code"] == "insufficient_quota"
    assert (await ask(world, 4)).status_code == 200
    assert world.budgets.held("team-shop") == 0


async def test_a_key_of_a_team_keeps_its_own_budget(path):
    clock = StepClock()
    own = key(7, "shop", limits=KeyLimits(tokens_per_month=1))
    world = World(only_active(), keys=[own], clock=clock, teams=TeamTable(path, b"s" * 32, clock))
    assert [(await ask(world, 7)).status_code for _ in range(2)] == [200, 429]
