"""`slipway apply` on a real bus with keys: teams, policies and key scopes; drift, prune, who may, audit."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from clients.cli.connection import find_stack
from clients.cli.declared import read_declarations
from clients.cli.declared_state import Change
from clients.cli.errors import CommandError
from clients.cli.installation import Installation, make_all
from contracts.api_keys import ApiKey
from contracts.attachments import Attachment
from contracts.mirrors import Mirror
from contracts.policy import ReleasePolicy
from contracts.services import ORDERS
from deploy.identity.key_folder import KeyFolder
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.factories import policy
from testbed.servers import NatsServer
from tests.kit.command import run_command
from tests.kit.record_registry import answering_registry

AT = datetime(2026, 11, 24, tzinfo=UTC)
TEAM = "kind: Team\nname: shop\nmodels: [shop-bot]\nquota: {releases: 2}\n"
KEY = "kind: ApiKey\nname: web\nmodels: [shop-bot]\nlimits: {requests_per_minute: 60}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], datetime.now(UTC))
    folder.add("admin", ["administrator"])
    folder.add("victor", ["viewer"])
    server = NatsServer(tmp_path_factory.mktemp("nats"), folder)
    server.start()
    asyncio.run(prepare(server))
    with answering_registry(server.settings("registry")):
        yield server
    server.discard()


async def prepare(server):
    client = await server.connect("provisioner")
    await provision(client.jetstream(timeout=30))
    await client.close()


@pytest.fixture
async def bus(server):
    client = await server.connect()
    yield client.jetstream(timeout=10)
    await client.close()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "policy.json").write_text(
        json.dumps({"kind": "Policy", "model": "shop-bot", "policy": policy().model_dump(mode="json")})
    )
    (tmp_path / "shop.yaml").write_text(f"{TEAM}---\n{KEY}")
    return tmp_path


def variables_of(server, name):
    return {
        "SLIPWAY_NATS_URL": server.url,
        "SLIPWAY_NATS_CREDENTIALS": str(server.keys.credential(name)),
        "SLIPWAY_NATS_CA": str(server.keys.authority),
    }


def slipway(server, *arguments, name="admin"):
    return run_command(variables_of(server, name), *arguments, "--folder", str(server.keys.path))


def api_key(key_id, **changes):
    digest = "sha256:" + key_id[0] * 64
    return ApiKey(key_id=key_id, name="web", secret_digest=digest, issued_at=AT, issued_by="admin", **changes)


async def run(server, *arguments, **options):
    return await asyncio.to_thread(slipway, server, *arguments, **options)


async def command(server, *arguments):
    """Run a command that knows no folder of keys."""
    return await asyncio.to_thread(run_command, variables_of(server, "admin"), *arguments)


async def test_files_become_the_installation_drift_is_shown_and_nothing_undeclared_goes_unasked(server, bus, files):
    keys, policies = Bucket(bus, "api-keys", ApiKey), Bucket(bus, "policies", ReleasePolicy)
    for key_id in ("0" * 12, "1" * 12):
        await keys.create(key_id, api_key(key_id))
    await keys.create("2" * 12, api_key("2" * 12, revoked_at=AT))
    await policies.create("other-bot", policy())
    code, out, err = await run(server, "apply", "-f", str(files), "--dry-run")
    assert code == 5
    assert [line[0] for line in out.splitlines() if line[0] in "+~-!"] == ["+", "+", "~"]
    assert "limits.requests_per_minute: none -> 60" in out
    assert "left as they are: Policy other-bot" in err
    assert await policies.get("shop-bot") is None, "it changes nothing"
    assert (await run(server, "apply", "-f", str(files)))[0] == 0
    stored = await policies.get("shop-bot")
    assert stored.value == policy()
    assert [team.quota.releases for team in server.keys.teams()] == [2]
    scopes = {key_id: entry.value for key_id, entry in (await keys.all()).items()}
    assert {each.limits.requests_per_minute for each in scopes.values() if each.revoked_at is None} == {60}
    assert scopes["2" * 12].models == (), "a revoked key stays as it was"
    assert {each.secret_digest[7] for each in scopes.values()} == {"0", "1", "2"}
    code, out, _ = await run(server, "apply", "-f", str(files), "--json")
    assert (code, json.loads(out)["different"]) == (0, False)
    assert (await policies.get("shop-bot")).revision == stored.revision, "a second run writes nothing"
    await policies.update("shop-bot", policy(on_newer="supersede"), stored.revision)
    code, out, _ = await run(server, "apply", "-f", str(files), "--dry-run", "--json")
    (change,) = json.loads(out)["changes"]
    assert (code, change["action"], change["line"]) == (5, "update", 1)
    assert change["differences"] == [{"field": "on_newer", "before": "supersede", "after": "queue"}]
    code, _, err = await run(server, "apply", "-f", str(files), "--prune")
    assert code == 0, err
    assert await policies.get("other-bot") is None
    assert (await policies.get("shop-bot")).value == policy()


async def test_what_another_command_changed_meanwhile_is_refused_and_what_was_made_is_named(
    server, bus, files, monkeypatch
):
    (files / "other.json").write_text(
        json.dumps({"kind": "Policy", "model": "a-bot", "policy": policy().model_dump(mode="json")})
    )
    declared = read_declarations([files])
    for name, value in variables_of(server, "admin").items():
        monkeypatch.setenv(name, value)
    target = Installation(find_stack(None), None, server.keys.path)
    stale = {**policy().model_dump(mode="json"), "rehearsal": "before the other command"}
    changes = [Change("create", "Policy", "a-bot"), Change("update", "Policy", "shop-bot", before=stale)]
    with pytest.raises(
        CommandError, match=r"changed by another command meanwhile.*before that: Policy a-bot"
    ) as caught:
        await asyncio.to_thread(make_all, target, declared, changes)
    assert [change["name"] for change in caught.value.details["changed"]] == ["a-bot"]
    policies = Bucket(bus, "policies", ReleasePolicy)
    await policies.remove("a-bot", (await policies.get("a-bot")).revision)


async def test_a_policy_that_cannot_be_read_hides_no_other_and_is_replaced(server, bus, files):
    policies = Bucket(bus, "policies", ReleasePolicy)
    (files / "shop.yaml").unlink()
    await (await bus.key_value("policies")).put("broken-bot", b"{}")
    code, _, err = await run(server, "apply", "-f", str(files))
    assert code == 0, err
    (files / "broken.json").write_text(
        json.dumps({"kind": "Policy", "model": "broken-bot", "policy": policy().model_dump(mode="json")})
    )
    code, out, _ = await run(server, "apply", "-f", str(files), "--dry-run")
    assert code == 5
    assert "unreadable: " in out
    code, _, err = await run(server, "apply", "-f", str(files))
    assert code == 0, err
    stored = await policies.get("broken-bot")
    assert stored.value == policy()
    await policies.remove("broken-bot", stored.revision)


async def test_a_mirror_is_declared_changed_and_pruned(server, bus, tmp_path):
    mirrors, file = Bucket(bus, "mirrors", Mirror), tmp_path / "mirrors.yaml"
    file.write_text(
        "kind: Mirror\nregistry: mlflow\nmodels: [shop-bot]\n---\nkind: Mirror\nregistry: hub\npaused: true\n"
    )
    assert (await run(server, "apply", "-f", str(file), "--dry-run"))[0] == 5
    assert await mirrors.all() == {}
    assert (await run(server, "apply", "-f", str(file)))[0] == 0
    stored = {name: entry.value for name, entry in (await mirrors.all()).items()}
    assert stored == {
        "mlflow": Mirror(registry="mlflow", models=("shop-bot",)),
        "hub": Mirror(registry="hub", paused=True),
    }
    assert (await run(server, "apply", "-f", str(file), "--dry-run"))[0] == 0
    file.write_text("kind: Mirror\nregistry: mlflow\nwithout: [shop-bot]\n")
    code, out, err = await run(server, "apply", "-f", str(file), "--dry-run")
    assert code == 5
    assert 'models: ["shop-bot"] -> []' in out
    assert "left as they are: Mirror hub" in err
    code, _, err = await run(server, "apply", "-f", str(file), "--prune")
    assert code == 0, err
    assert {name: entry.value.without for name, entry in (await mirrors.all()).items()} == {"mlflow": ("shop-bot",)}
    file.write_text("kind: Mirror\nregistry: mlfow\nmodels: [a]\nwithout: [b]\n")
    code, _, err = await run(server, "apply", "-f", str(file))
    assert code == 2
    assert f"{file}:2:" in err


async def test_attached_servers_are_ordered_by_command_and_by_file(server, bus, tmp_path):
    attachments, file = Bucket(bus, "attachments", Attachment), tmp_path / "servers.yaml"
    urls = ("--url", "http://a:8000/v1", "--url", "http://b:8000/")
    assert (await command(server, "attach", "shop-bot", "--group", "blue", *urls))[0] == 0
    assert (await command(server, "attach", "shop-bot", "--group", "green", "--url", "http://c:8000", "--key", "GPU"))[
        0
    ] == 0
    blue, green = ("http://a:8000", "http://b:8000"), ("http://GPU@c:8000",)
    assert (await attachments.get("shop-bot")).value.groups == {"blue": blue, "green": green}
    file.write_text("kind: Attachment\nmodel: shop-bot\ngroups: {blue: [http://a:8000, http://b:8000]}\n")
    code, out, _ = await run(server, "apply", "-f", str(file), "--dry-run")
    assert code == 5
    assert 'groups.green: ["http://GPU@c:8000"] -> none' in out
    assert (await command(server, "detach", "shop-bot", "--group", "green"))[0] == 0
    assert (await run(server, "apply", "-f", str(file), "--dry-run"))[0] == 0
    code, _, err = await command(server, "detach", "shop-bot", "--group", "green")
    assert code == 2
    assert "it has blue" in err
    code, _, err = await command(server, "attach", "shop-bot", "--url", "a:8000")
    assert code == 2
    code, _, err = await command(server, "attach", "shop-bot", "--url", "http://a:8000", "--key", "sk-1")
    assert code == 2
    assert (await command(server, "detach", "shop-bot", "--group", "blue"))[0] == 0
    assert await attachments.get("shop-bot") is None


async def test_every_change_is_in_the_audit_log_with_who_made_it(server, bus):
    messages = [await bus.get_msg(ORDERS, seq) for seq in range(1, (await bus.stream_info(ORDERS)).state.last_seq + 1)]
    orders = [json.loads(message.data)["data"] for message in messages if ".record.ordered." in message.subject]
    made = {(order["kind"], order["record"] is None) for order in orders}
    assert {("policy", False), ("policy", True), ("api-key", False), ("mirror", False), ("mirror", True)} <= made
    assert {message.subject.rpartition(".")[2] for message in messages} == {"admin"}


async def test_a_key_that_there_is_not_is_left_to_a_person(server, tmp_path):
    (tmp_path / "a.yaml").write_text(KEY.replace("web", "mobile"))
    code, out, err = await run(server, "apply", "-f", str(tmp_path))
    assert code == 1
    assert "! ApiKey mobile" in out
    assert "slipway keys issue" in err


async def test_who_may_only_read_changes_nothing(server, bus, files):
    (files / "policy.json").write_text(
        json.dumps({"kind": "Policy", "model": "new-bot", "policy": policy().model_dump(mode="json")})
    )
    (files / "shop.yaml").unlink()
    code, _, err = await run(server, "apply", "-f", str(files), name="victor")
    assert code == 1
    assert "victor" in err
    assert await Bucket(bus, "policies", ReleasePolicy).get("new-bot") is None


async def test_files_that_are_not_valid_change_nothing_at_all(server, bus, files):
    (files / "z.yaml").write_text("kind: Team\nname: shop\n")
    before = await Bucket(bus, "policies", ReleasePolicy).keys()
    code, _, err = await run(server, "apply", "-f", str(files))
    assert code == 2
    assert f"{files / 'z.yaml'}:1:" in err
    assert await Bucket(bus, "policies", ReleasePolicy).keys() == before


async def test_prune_revokes_keys_that_are_not_declared_but_none_that_opens_all_models(server, bus, files):
    keys, shop = Bucket(bus, "api-keys", ApiKey), ("shop-bot",)
    for key_id, name, models in (("3", "whole", ()), ("4", "mixed", ()), ("5", "mixed", shop), ("6", "web", shop)):
        await keys.create(key_id * 12, api_key(key_id * 12, models=models).model_copy(update={"name": name}))
    code, _, err = await run(server, "apply", "-f", str(files / "shop.yaml"), "--prune")
    assert code == 0, err
    revoked = {key_id[0] for key_id, entry in (await keys.all()).items() if entry.value.revoked_at is not None}
    assert revoked & set("3456") == {"5"}
