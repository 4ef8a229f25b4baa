"""A model on attached servers: attach, release by switching endpoints, canary, promotion, slowness, rollback, none lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from testbed.openai_server import OpenAiServer
from testbed.servers import running, wait_until
from testbed.stack import POLICY, ROOT
from testbed.users import Users

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(900)]
MODEL = "bot"
AUTOMATIC = {"min_requests": 10, "alpha": 0.01, "action": "automatic", "window_s": 5}
WITH_ROLLBACK = {
    **POLICY,
    "rehearsal": "required",
    "shadow": {"share_ratio": 1.0, "duration_s": 4, "min_requests": 40, "deadline_s": 240},
    "canary": {"steps": [0.4], "min_requests": 20, "beta": 0.9, "deadline_s": 240},
    "triggers": [
        {"name": "slow", "metric": "e2e_ms", "threshold": 2500, "allowed_ratio": 0.1, **AUTOMATIC},
        {"name": "errors", "metric": "error_ratio", "threshold": 0.05, **AUTOMATIC},
    ],
}
QUEUED = {"name": "queued", "metric": "queue_ms", "threshold": 500, "action": "manual"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two groups: one server serves the base model, two wait for a version."""
    folder = tmp_path_factory.mktemp("servers")
    with contextlib.ExitStack() as stack:
        base = {f"{MODEL}.v0.bf16": {}}
        names = {"blue": base, "green-1": {}, "green-2": {}}
        yield {
            name: stack.enter_context(running(OpenAiServer(folder, name, **served))) for name, served in names.items()
        }


@pytest.fixture(scope="module")
def stack(module_stack, servers):
    stack = module_stack(MONITOR_UPDATE_EVERY_S="2", MONITOR_ASSESS_EVERY_S="2", ROLLBACK_CONTROLLER_VERIFY_S="10")
    stack.ok("attach", MODEL, "--group", "blue", "--url", servers["blue"].url)
    stack.ok("attach", MODEL, "--group", "green", "--url", servers["green-1"].url, "--url", servers["green-2"].url)
    return stack


def deploy(stack, version: int, *servers: OpenAiServer, **parameters: str) -> None:
    """Wait until a version is to be staged, and serve it, as its operator would."""
    name = f"{MODEL}.v{version}.bf16"
    wait_until(
        lambda: any(
            event["data"]["candidate"]["target"]["version"] == version
            for event in stack.events("stage.requested", MODEL)
        ),
        timeout_s=240,
        what=f"the order to stage {name}",
    )
    assert version not in staged(stack)
    for server in servers:
        server.serve({name: parameters})


@contextlib.contextmanager
def hook(stack, folder):
    """Let the example's hook deploy what is to be staged."""
    command = [sys.executable, "examples/attached/hook.py", MODEL, "--first", "green", "--folder", str(folder), "--"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLIPWAY_STATE": str(stack.state)}
    process = subprocess.Popen(
        [*command, sys.executable, "examples/attached/deploy_toy.py"], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        yield
        assert process.poll() is None, "it goes on"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def staged(stack) -> set[int]:
    return {event["data"]["candidate"]["target"]["version"] for event in stack.events("variant.staged", MODEL)}


def active(stack) -> tuple[int, list[str]]:
    served = stack.route(MODEL)["active"]
    return served["target"]["version"], served["endpoints"]


def test_from_attach_to_rollback(stack, servers, tiny, tmp_path):
    green = [servers["green-1"], servers["green-2"]]
    stack.publish(MODEL, tiny["one"], "--variant", "bf16", policy=WITH_ROLLBACK)
    deploy(stack, 1, green[0])
    time.sleep(3)  # in which nothing may be staged
    assert staged(stack) == set(), "one replica of the group does not know the name"
    deploy(stack, 1, green[1])
    stack.promoted(MODEL)
    assert active(stack) == (1, [server.url for server in green])
    assert stack.events("alert.raised", MODEL) == []

    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL, rps=12.0) as users:
        with hook(stack, tmp_path):
            stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=WITH_ROLLBACK)
            stack.promoted(MODEL)
        assert active(stack) == (2, [servers["blue"].url])
        assert [event["data"]["verdict"] for event in stack.events("canary.assessed", MODEL)][-1] == "pass"
        streamed(url, stack.headers)
        servers["blue"].serve({f"{MODEL}.v2.bf16": {"token_delay_ms": "1000"}})
        (back,) = stack.await_event("rollback.completed", MODEL)
        assert users.failed == [], "no request was lost"
        green[0].kill()
        before = users.answered.total()
        wait_until(lambda: users.answered.total() >= before + 60, what="60 answers without one of two replicas")
    assert len(users.failed) <= 6, "answers whose first token had come end with their server; half of all would fail"
    assert set(users.answered) == {f"{MODEL}@v1", f"{MODEL}@v2"}
    assert (back["data"]["verdict"], back["data"]["mode"]) == ("pass", "automatic")
    assert active(stack)[0] == 1
    route = stack.route(MODEL)
    assert [entry["served"]["target"]["version"] for entry in route["suspended"]] == [2]

    refused = stack.slipway("detach", MODEL, "--group", "green")
    assert refused.returncode != 0
    assert "keep one of its replicas" in refused.stdout + refused.stderr
    groups = {"blue": [servers["blue"].url], "green": [server.url for server in green]}
    declared = tmp_path / "servers.yaml"
    declared.write_text(json.dumps({"kind": "Attachment", "model": MODEL, "groups": groups}))
    assert json.loads(stack.ok("apply", "--file", str(declared), "--dry-run", "--json"))["changes"] == []


def test_servers_that_no_longer_have_the_version_are_left_for_the_previous_one(stack, servers):
    """As a version that no Triton has loaded: traffic moves to the group that has the previous one."""
    servers["blue"].serve({f"{MODEL}.v0.bf16": {}})
    wait_until(
        lambda: any(
            target["phase"] == "ready" and target["target"]["version"] == 0
            for endpoint in json.loads(stack.ok("endpoints", "--json"))
            for target in endpoint["targets"]
        ),
        timeout_s=60,
        what="the previous version is ready",
    )
    url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(url, stack.headers, MODEL, rps=4.0) as users:
        servers["green-2"].serve({})
        wait_until(lambda: active(stack) == (0, [servers["blue"].url]), timeout_s=60, what="the rollback")
        before = users.answered[f"{MODEL}@v0"]
        wait_until(lambda: users.answered[f"{MODEL}@v0"] > before + 8, what="answers of the previous version")


def streamed(url: str, headers: dict[str, str]) -> None:
    """A stream has the model's name and the release, whatever name its server knows."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": True}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)
    *chunks, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    assert {(chunk["model"], chunk["system_fingerprint"][:10]) for chunk in map(json.loads, chunks)} == {
        (MODEL, "fp_bot.v2.")
    }


def test_a_policy_that_watches_what_such_a_server_does_not_tell_is_refused(stack, tiny):
    policy = {**WITH_ROLLBACK, "triggers": [*WITH_ROLLBACK["triggers"], QUEUED]}
    stack.publish(MODEL, tiny["two"], "--variant", "bf16", policy=policy)
    (rejected,) = stack.await_event("checkpoint.rejected", MODEL)
    assert rejected["data"]["code"] == "policy_invalid"
    assert "queued watches queue_ms" in rejected["data"]["reason"]


def test_adapters_are_loaded_into_servers_of_their_base_and_the_next_one_elsewhere_than_the_active_one(
    stack, tiny, tmp_path
):
    model, shared = "ada", tmp_path / "adapters"
    shared.mkdir()
    policy = {**WITH_ROLLBACK, "serve": "adapter", "shadow": None}
    with contextlib.ExitStack() as started:
        blue, green = (
            started.enter_context(running(OpenAiServer(tmp_path, name, **{f"{model}.v0.bf16": {}})))
            for name in ("ada-blue", "ada-green")
        )
        stack.ok("attach", model, "--group", "blue", "--url", blue.url, "--adapters", str(shared))
        stack.publish(model, tiny["one"], "--variant", "bf16", policy=policy)
        (rejected,) = stack.await_event("checkpoint.rejected", model)
        assert "shared_engine" in rejected["data"]["reason"]
        stack.ok("attach", model, "--group", "green", "--url", green.url)
        stack.publish(model, tiny["one"], "--variant", "bf16", "--attempt", "2", policy=policy)
        stack.promoted(model)
        url = f"http://127.0.0.1:{stack.part('gateway')['port']}"
        with Users(url, stack.headers, model, rps=8.0) as users:
            stack.publish(model, tiny["two"], "--variant", "bf16", policy=policy)
            stack.promoted(model)
            route = stack.route(model)
            assert [route[role]["endpoints"] for role in ("active", "previous")] == [[green.url], [blue.url]]
            stack.ok("rollback", model, "--reason", "test")
            stack.await_event("rollback.completed", model)
        assert users.failed == [], "no request was lost"
        assert stack.route(model)["active"]["target"]["version"] == 1
        assert {path.name for path in shared.iterdir()} == {f"{model}.v1.bf16", f"{model}.v2.bf16"}
        answer = httpx.post(
            f"{url}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/"}, headers=stack.headers, timeout=60
        )
        assert answer.status_code == 404, "callers cannot load adapters through the gateway"
