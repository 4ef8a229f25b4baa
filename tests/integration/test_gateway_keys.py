"""API keys from the command line to a real gateway: issued, presented, limited, revoked; also without the bus."""

import json
import os
import shutil
import subprocess
import sys

import httpx
import openai
import pytest

from contracts.routes import CanaryShare, Route
from contracts.teams import Team
from decisions.access.api_keys import parse_key
from deploy.identity.api_key_files import REHEARSALS
from deploy.identity.key_folder import KeyFolder
from deploy.local.state import ADMIN
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import forked
from testbed.factories import route
from testbed.gateway import Gateway, load_toy
from testbed.ports import free_port
from testbed.servers import bus_variables, connection, running, wait_until
from testbed.stack import ROOT
from tests.integration.gateway_process import telemetry
from tests.kit.record_registry import answering_registry

pytestmark = pytest.mark.real
HELLO = [{"role": "user", "content": "zebra giraffe"}]


TEAMS = (Team(name="shop", models=("toy",)),)


@pytest.fixture
def slipway(nats_server, js, tmp_path):
    """Run a command of `slipway` on the bus of this test, where a registry answers orders."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        variables = {
            **bus_variables(nats_server.settings(), ADMIN),
            "SLIPWAY_S3_ENDPOINT": "127.0.0.1:1",
            "SLIPWAY_STATE": str(tmp_path / "no-state"),
        }
        command = [sys.executable, "-m", "clients.cli.main", *arguments]
        return forked.run(command, environment=os.environ | variables, cwd=ROOT, timeout_s=60)

    with answering_registry(nats_server.settings("registry"), lambda: TEAMS):
        yield run


@pytest.fixture
async def gateway(nats_server, js, triton, tmp_path):
    """A gateway that requires keys, with one model."""
    served = load_toy(triton, "toy", 1)
    await Bucket(js, "routes", Route).create("toy", route(model="toy", canary=None, active=served, previous=None))
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        yield process


def code_of(answer: httpx.Response) -> str | None:
    return answer.json().get("error", {}).get("code")


def ask(gateway, key: str, **options) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", **options.pop("headers", {})}
    body = {"model": "toy", "messages": HELLO, "max_tokens": 2, **options}
    return httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_a_key_is_issued_presented_limited_and_revoked(gateway, slipway):
    issued = slipway("keys", "issue", "shop", "--model", "toy", "--requests-per-minute", "4", "--json")
    assert issued.returncode == 0, issued.stderr
    key, key_id = (json.loads(issued.stdout)[name] for name in ("key", "key_id"))
    wait_until(lambda: ask(gateway, key).status_code == 200)
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=key, max_retries=0) as sdk:
        assert sdk.chat.completions.create(model="toy", messages=HELLO, max_tokens=2).choices[0].message.content
        assert [model.id for model in sdk.models.list()]
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="slipway keys issue"):
            stranger.chat.completions.create(model="toy", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    assert ask(gateway, key, headers={"x-slipway-environment": "staging"}).status_code == 403
    assert ask(gateway, key).status_code == 200
    limited = wait_until(lambda: None if (answer := ask(gateway, key)).status_code == 200 else answer)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(limited.headers["retry-after"]) >= 1

    listed = slipway("keys", "list")
    assert key_id in listed.stdout
    assert key not in listed.stdout
    secret = key.rsplit("-", 1)[1]
    for file in gateway.folder.rglob("*"):
        assert not file.is_file() or secret not in file.read_text(errors="replace"), file
    assert slipway("keys", "revoke", key_id).returncode == 0
    wait_until(lambda: code_of(ask(gateway, key)) == "key_revoked")
    assert slipway("keys", "revoke", "ba9876543210").returncode != 0


async def test_a_key_has_limits_unless_others_or_none_are_named_and_is_one_caller_with_those_of_its_name(
    gateway, slipway, js
):
    def issue(*arguments):
        return json.loads(slipway("keys", "issue", *arguments, "--json").stdout)

    none = {"requests_per_minute": None, "tokens_per_minute": None, "tokens_per_month": None}
    default = {**none, "requests_per_minute": 6000}
    issued = {
        "first": issue("shop"),
        "other limit": issue("shop", "--tokens-per-minute", "5000"),
        "without": issue("lab", "--unlimited", "--tokens-per-month", "7000000"),
    }
    assert issued["first"]["limits"] == default
    assert issued["other limit"]["limits"] == {**default, "tokens_per_minute": 5000}
    assert issued["without"]["limits"] == {**none, "tokens_per_month": 7_000_000}
    for key in issued.values():
        wait_until(lambda key=key: ask(gateway, key["key"]).status_code == 200)
    records, _ = await telemetry(js, 3)
    assert [record.holder == records[0].holder for record in records[:3]] == [True, True, False]
    assert len({record.caller for record in records}) == 3


async def test_a_canary_for_a_key_is_drawn_for_that_key_alone(gateway, slipway, js, triton):
    keys = {name: json.loads(slipway("keys", "issue", name, "--json").stdout)["key"] for name in ("staff", "shop")}
    for key in keys.values():
        wait_until(lambda key=key: ask(gateway, key).status_code == 200)
    share = CanaryShare(served=load_toy(triton, "toy", 2), weight_ratio=0.99, only_for=("key:staff",))
    routes = Bucket(js, "routes", Route)
    entry = await routes.get("toy")
    changed = entry.value.model_copy(update={"canary": share, "epoch": entry.value.epoch + 1})
    await routes.update("toy", changed, entry.revision)
    wait_until(lambda: ask(gateway, keys["staff"]).headers["x-slipway-version"] == "toy.v2.bf16")
    answered = {name: {ask(gateway, key).headers["x-slipway-version"] for _ in range(8)} for name, key in keys.items()}
    assert "toy.v2.bf16" in answered["staff"]
    assert answered["shop"] == {"toy.v1.bf16"}


def test_a_gateway_that_starts_without_the_bus_knows_the_keys(gateway, slipway):
    keys = [json.loads(slipway("keys", "issue", name, "--json").stdout) for name in ("kept", "withdrawn")]
    for key in keys:
        wait_until(lambda key=key: ask(gateway, key["key"]).status_code == 200)
    assert slipway("keys", "revoke", keys[1]["key_id"]).returncode == 0
    wait_until(lambda: ask(gateway, keys[1]["key"]).status_code == 401)
    gateway.kill()
    gateway.variables["SLIPWAY_NATS_URL"] = f"nats://127.0.0.1:{free_port()}"
    with running(gateway):
        assert ask(gateway, keys[0]["key"]).status_code == 200
        assert ask(gateway, keys[1]["key"]).json()["error"]["code"] == "key_revoked"


def test_keys_that_would_open_nothing_are_refused(slipway, tmp_path):
    for arguments in (
        ("keys", "issue", "Shop!"),
        ("keys", "issue", "shop", "--model", "../etc"),
        ("keys", "issue", "shop", "--requests-per-minute", "0"),
        ("keys", "issue", "shop", "--expires", "soon"),
        ("keys", "issue", "shop", "--staging", "--both"),
    ):
        refused = slipway(*arguments)
        assert refused.returncode == 2, arguments
        assert len(refused.stderr.strip().splitlines()) <= 3
    assert slipway("keys", "list").stdout == ""
    for arguments, reason in (
        (("bank",), "There is no team bank"),
        (("shop", "--model", "other"), "other does not belong"),
    ):
        file = tmp_path / "refused.key"
        refused = slipway("keys", "issue", "shop", "--output", str(file), "--team", *arguments)
        assert (refused.returncode, reason in refused.stderr) == (1, True), refused.stderr
        assert not file.exists()
    assert (
        json.loads(slipway("keys", "issue", "shop", "--team", "shop", "--model", "toy", "--json").stdout)["team"]
        == "shop"
    )


async def test_a_key_that_cannot_be_read_hides_no_other(slipway, js):
    key_id = json.loads(slipway("keys", "issue", "shop", "--json").stdout)["key_id"]
    await (await js.key_value("api-keys")).put("0123456789ab", b"{broken")
    for options in ((), ("--json",)):
        listed = slipway("keys", "list", *options)
        assert (listed.returncode, key_id in listed.stdout) == (1, True)
        assert "api-keys/0123456789ab" in listed.stderr


def test_an_id_that_is_none_is_wrong_usage(slipway, js):
    for key_id in ("é" * 12, "0123456789AB", "*", "shop"):
        refused = slipway("keys", "revoke", key_id)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "slipway keys list" in refused.stderr


def test_keys_of_the_installation_are_presented_replaced_and_revoked(gateway, slipway, tmp_path):
    """Those that need no bus: of the person of the machine, and of rehearsals, which open staging only."""
    rehearsals = gateway.keys.key_file(REHEARSALS).read_text().strip()
    assert ask(gateway, gateway.key).status_code == 200
    assert ask(gateway, rehearsals).status_code == 403
    staging = {"x-slipway-environment": "staging"}
    assert code_of(ask(gateway, rehearsals, headers=staging)) == "model_not_found"  # nothing is staged
    folder = KeyFolder(gateway.keys.listing.parent.parent)
    shutil.copytree(folder.path, tmp_path / "no-state" / "keys")
    assert slipway("keys", "revoke", parse_key(rehearsals).key_id).returncode == 0
    wait_until(lambda: code_of(ask(gateway, rehearsals, headers=staging)) == "key_revoked")
    listed = slipway("keys", "list").stdout
    assert "rollback-controller\tpart of Slipway" in listed
    assert f"{parse_key(rehearsals).key_id}\t{REHEARSALS}\tall\tstaging" in listed
    gateway.keys.key_file(REHEARSALS).unlink()
    folder.prepare([], SystemClock().now())
    replaced = gateway.keys.key_file(REHEARSALS).read_text().strip()
    wait_until(lambda: code_of(ask(gateway, replaced, headers=staging)) == "model_not_found")
    assert code_of(ask(gateway, rehearsals, headers=staging)) == "key_revoked"
    assert ask(gateway, gateway.key).status_code == 200


def test_a_key_is_written_to_a_new_file_only(gateway, slipway, tmp_path):
    file = tmp_path / "shop.key"
    issued = slipway("keys", "issue", "shop", "--output", str(file))
    key = file.read_text().strip()
    assert (issued.returncode, key in issued.stdout, file.stat().st_mode & 0o777) == (0, False, 0o600)
    wait_until(lambda: ask(gateway, key).status_code == 200)
    assert slipway("keys", "issue", "shop", "--output", str(file)).returncode == 1
    assert file.read_text().strip() == key


async def test_a_key_reaches_no_log(gateway, slipway):
    """Whatever a caller does with it: in the path, in the query, in a header of its own, in the body."""
    key = json.loads(slipway("keys", "issue", "shop", "--json").stdout)["key"]
    wait_until(lambda: ask(gateway, key).status_code == 200)
    base, bearer = gateway.base_url, {"authorization": f"Bearer {key}"}
    with httpx.Client(timeout=30) as http:
        http.get(f"{base}/v1/models/{key}", headers=bearer)
        http.get(f"{base}/v1/models?api_key={key}")
        http.get(f"{base}/{key}")
        http.post(f"{base}/v1/chat/completions?key={key}", json={"model": key}, headers={**bearer, "x-request-id": key})
        http.post(f"{base}/v1/chat/completions", content=key, headers={"x-api-key": key, "authorization": key})
        http.post(f"{base}/v1/completions", json={"model": "toy", "prompt": 1, "user": key}, headers=bearer)
    secret = key.rsplit("-", 1)[1]
    for file in gateway.folder.rglob("*"):
        assert not file.is_file() or secret not in file.read_text(errors="replace"), file
    assert secret not in gateway.get("/metrics/").text
