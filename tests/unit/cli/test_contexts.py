"""Contexts: what may be in their file, who may write it, and which one commands use."""

import json
import stat

import pytest

from clients.cli.connection import find_stack
from clients.cli.contexts import contexts_file, make_context, read_contexts, request_context, write_contexts
from clients.cli.output import CommandError, Exit
from tests.kit.command import run_command

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("NATS_URL", "CONTEXT", "STATE"):
        monkeypatch.delenv(f"SLIPWAY_{name}", raising=False)
    yield tmp_path
    request_context(None)


def slipway(*arguments, **variables):
    return run_command({f"SLIPWAY_{name}": value for name, value in variables.items()}, *arguments)


def add(name="prod", *more):
    return slipway("context", "add", name, "--nats-url", f"tls://{name}:4222", *more)


def test_the_first_context_is_in_use_until_another_one_is(config):
    assert "no contexts" in slipway("context", "list")[1]
    assert add()[1].startswith("added prod: tls://prod:4222, in use from now on")
    assert add("test", "--environment", "staging", "--console-url", "https://console.test")[0] == 0
    assert slipway("context", "list")[1].splitlines() == [
        "*\tprod\ttls://prod:4222\tproduction\t-",
        "\ttest\ttls://test:4222\tstaging\thttps://console.test",
    ]
    assert find_stack(None).connection.nats_url == "tls://prod:4222"
    assert slipway("context", "use", "test")[0] == 0
    stack = find_stack(None)
    assert (stack.connection.nats_url, stack.environment, stack.console_url) == (
        "tls://test:4222",
        "staging",
        "https://console.test",
    )
    assert json.loads(slipway("context", "show", "--json")[1])["in_use"] is True
    assert "no context is in use now" in slipway("context", "remove", "test")[1]
    assert list(read_contexts().contexts) == ["prod"]


def test_an_option_comes_before_variables_and_those_before_the_context_in_use(config, monkeypatch):
    add("prod", "--use")
    add("test")
    assert find_stack(None).context == "prod"
    monkeypatch.setenv("SLIPWAY_NATS_URL", "tls://elsewhere:4222")
    assert find_stack(None).connection.nats_url == "tls://elsewhere:4222"
    assert "SLIPWAY_NATS_URL comes first" in slipway("context", "show", "prod")[1]
    monkeypatch.setenv("SLIPWAY_CONTEXT", "prod")
    assert find_stack(None).context == "prod"
    request_context("test")
    assert find_stack(None).context == "test"
    with pytest.raises(CommandError, match="exclude each other"):
        find_stack(config / "state")


def test_a_context_takes_nothing_from_the_environment(config, monkeypatch):
    add("prod", "--nats-credentials", str(config / "alice.nk"))
    monkeypatch.setenv("SLIPWAY_NATS_CREDENTIALS", "/other.nk")
    monkeypatch.setenv("SLIPWAY_S3_ENDPOINT", "other:1")
    monkeypatch.setenv("SLIPWAY_GATEWAY_URL", "https://other")
    stack = find_stack(None)
    assert stack.connection.nats_credentials == config / "alice.nk"
    assert stack.connection.s3_endpoint != "other:1"
    assert stack.gateway_url is None


def test_only_its_owner_reads_and_writes_the_file(config):
    add()
    path = contexts_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o620)
    code, _, err = slipway("status")
    assert code == 1
    assert f"run chmod 600 {path}" in err


@pytest.mark.parametrize(
    "values",
    [
        {"nats_url": "nats://user:password@host:4222"},
        {"nats_url": "nats://h:1", "nats_credentials": SEED},
        {"nats_url": "nats://h:1", "gateway_key": "sk-slipway-0123456789ab-" + "0" * 64},
        {"nats_url": "nats://h:1", "console_url": "https://h/login?token=x"},
        {"nats_url": "-----BEGIN" + " PRIVATE KEY-----"},
    ],
)
def test_no_secret_is_written(config, values):
    with pytest.raises(CommandError, match="name the file") as refused:
        make_context("prod", values)
    assert refused.value.code is Exit.USAGE
    assert SEED not in str(refused.value)


@pytest.mark.parametrize("text", ["current: [", "contexts: {a: {nats_url: x, other: 1}}", "- 1", "contexts: {a: {}}"])
def test_a_damaged_file_is_named(config, text):
    write_contexts(read_contexts())
    contexts_file().write_text(text)
    code, _, err = slipway("context", "list")
    assert code == 2
    assert f"the contexts in {contexts_file()} are not valid" in err
    assert "Traceback" not in err


def test_names_are_checked_and_a_misspelt_one_leads_to_the_right_one(config):
    add("prod-eu")
    assert "did you mean prod-eu? See" in slipway("context", "use", "prod-ue")[2]
    assert "is not valid" in slipway("context", "add", "a b", "--nats-url", "nats://h:1")[2]
    assert "give --replace" in add("prod-eu")[2]
    assert add("prod-eu", "--replace")[0] == 0
    assert "name the address of a bus" in slipway("context", "add", "empty")[2]


def test_a_command_takes_the_context_as_an_option(config):
    add("prod")
    code, _, err = slipway("status", "--context", "nope", "--json")
    assert (code, json.loads(err)["error"]["code"]) == (2, "usage")
