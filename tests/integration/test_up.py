"""`slipway up` with real servers and the toy engine: ready, healing, refusing, resuming, and leaving nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from testbed.forked import run
from testbed.servers import wait_until
from tests.integration.up_process import ROOT, Up, key_of_model_control, living

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("engine_environment")]


def slipway(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; `up` as a person starts it, the others forked."""
    command = [sys.executable, "-m", "clients.cli.main", *arguments, "--state", str(state)]
    if arguments[0] != "up":
        return run(command, environment=os.environ, cwd=ROOT, timeout_s=240)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    state, workers = tmp_path_factory.mktemp("up") / "state", {"GATEWAY_WORKERS": "2"}
    up = Up(state, "--replicas", "quantiser=2", forked=True, **workers).until_ready()
    yield up
    if up.process.poll() is None:
        up.end()
    assert living(up.state) == {}


def test_doctor_asks_the_stack_that_runs(stack):
    done = slipway("doctor", "--json", state=stack.state)
    assert done.returncode == 0, done.stdout
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert [findings[name]["state"] for name in ("nats", "s3")] == ["ok", "ok"]
    assert "ports" not in findings, "they are its own"
    variables = json.loads(slipway("env", "--json", state=stack.state).stdout)
    command = [sys.executable, "-m", "clients.cli.main", "doctor", "--json"]
    by_address = run(command, environment={**os.environ, **variables}, cwd=ROOT, timeout_s=60)
    findings = {finding["check"]: finding["state"] for finding in json.loads(by_address.stdout)["findings"]}
    assert findings == dict.fromkeys(("nats", "bus disk", "bus consumers", "s3"), "ok")


def test_every_part_answers(stack):
    def shown():
        answer = slipway("ps", "--json", state=stack.state)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    assert shown()["up"] is True
    assert {part["name"] for part in shown()["parts"]} >= {"nats", "s3", "triton", "gateway", "registry", "quantiser-2"}
    wait_until(
        lambda: all(part["state"] == "ready" for part in shown()["parts"]), timeout_s=30, what="each part being ready"
    )
    ports = json.loads((stack.state / "stack.json").read_text())["ports"]
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['gateway-admin']}/readyz") as ready:
        assert json.load(ready)["checks"]["workers"] == "2 of 2 ready"


def test_the_state_is_for_its_owner_only(stack):
    assert stack.state.stat().st_mode & 0o077 == 0
    assert (stack.state / "stack.json").stat().st_mode & 0o077 == 0


def test_a_second_up_refuses_and_disturbs_nothing(stack):
    before = {name: part["pid"] for name, part in stack.parts().items()}
    answer = slipway("up", "--engine", "toy", state=stack.state)
    assert answer.returncode == 1
    assert "already up" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert {name: part["pid"] for name, part in stack.parts().items()} == before


@pytest.mark.parametrize("name", ["nats", "s3", "registry"])
def test_a_killed_part_comes_back(stack, name):
    before = stack.parts()[name]
    os.kill(before["pid"], signal.SIGKILL)

    def healed():
        now = stack.parts()[name]
        return now["pid"] != before["pid"] and now["state"] == "ready" and now

    now = wait_until(healed, timeout_s=60, what=f"{name} being back")
    assert now["restarts"] == before["restarts"] + 1
    assert now["port"] == before["port"]


def load_toy_model(stack: Up) -> None:
    """Load a model with the toy engine, which makes Triton start a process of its own for it."""
    import tritonclient.grpc

    from services.server_manager.domain.model_config import EngineConfig, plan_model_files

    folder = stack.state / "triton" / "models" / "probe.v1.bf16"
    for name, text in plan_model_files("probe.v1.bf16", str(folder), EngineConfig(kind="toy")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "config.json").write_text("{}")
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{stack.parts()['triton']['port']}") as client:
        client.load_model("probe.v1.bf16", headers=key_of_model_control(stack))


def test_a_triton_that_hangs_is_started_again(stack):
    """As it does when its memory is corrupt: it then waits for ever while it prints where it crashed."""
    before = stack.parts()["triton"]["pid"]
    os.kill(before, signal.SIGSTOP)
    wait_until(
        lambda: (now := stack.parts()["triton"])["pid"] not in (before, None) and now["state"] == "ready",
        timeout_s=60,
        what="triton being back",
    )
    assert re.search(r"triton has not answered for \d+\.\d s and is killed", " ".join(stack.output.read_text().split()))
    (shown,) = [
        part
        for part in json.loads(slipway("ps", "--json", state=stack.state).stdout)["parts"]
        if part["name"] == "triton"
    ]
    assert shown["last_end"].startswith("killed by the supervisor: it has not answered for")


def test_a_killed_triton_leaves_no_engine_process(stack):
    load_toy_model(stack)
    leader = stack.parts()["triton"]["pid"]

    def engines():
        return {pid for pid, command in living(stack.state).items() if "triton_python_backend_stub" in command}

    old = wait_until(engines, what="an engine process")
    os.kill(leader, signal.SIGKILL)
    wait_until(
        lambda: (now := stack.parts()["triton"])["pid"] != leader and now["state"] == "ready",
        timeout_s=60,
        what="triton being back",
    )
    wait_until(lambda: not old & engines(), what="the old engine processes being gone")


def test_interrupted_while_starting_it_leaves_no_process(tmp_path):
    up = Up(tmp_path / "state")
    wait_until(lambda: (up.state / "parts.json").exists() and up.parts()["nats"]["pid"], what="the first part")
    up.end(signal.SIGTERM)
    assert living(up.state) == {}


def end_all(state: Path) -> None:
    """Let `down` end what runs, or what a supervisor left that was killed."""
    answer = slipway("down", state=state)
    assert answer.returncode == 0, answer.stderr
    assert living(state) == {}


def test_what_was_interrupted_or_killed_resumes_with_its_ports_and_leaves_no_process(stack):
    """One state folder through SIGINT, a port that was taken meanwhile, kill -9 of the supervisor, and `down`."""
    up, state = stack, stack.state
    assert len(living(state)) >= 3
    port = up.parts()["nats"]["port"]
    before = up.output.read_text()
    assert up.end(signal.SIGINT) == 0
    assert living(state) == {}
    assert "Traceback" not in up.output.read_text().removeprefix(before)

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections to it still wait there
        taken.bind(("127.0.0.1", port))
        taken.listen()
        up = Up(state).until_ready()
        assert up.parts()["nats"]["port"] != port

    load_toy_model(up)
    ports = {name: part["port"] for name, part in up.parts().items()}
    description = json.loads((state / "stack.json").read_text())
    assert description["engine"] == "toy"
    up.end(signal.SIGKILL)
    again = Up(state, forked=True).until_ready()
    assert {name: part["port"] for name, part in again.parts().items()} == ports
    assert json.loads((state / "stack.json").read_text()) == description
    answer = slipway("ps", "--json", state=state)
    assert answer.returncode == 0, answer.stdout + answer.stderr

    load_toy_model(again)
    again.end(signal.SIGKILL)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        end_all(state)
        answer = slipway("up", "--detach", state=state)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert f"http://127.0.0.1:{ports['gateway']}/v1" in answer.stdout
        assert json.loads((state / "stack.json").read_text()) == description
        end_all(state)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert slipway("ps", state=state).returncode == 4


def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path):
    state = tmp_path / "state"
    assert slipway("ps", state=state).returncode == 4
    state.mkdir(mode=0o700)
    (state / "nats").write_text("a file where the message bus wants a folder")
    answer = slipway("up", "--engine", "toy", "--timeout", "5", state=state)
    assert answer.returncode == 1
    assert "nats" in answer.stderr
    assert "its log" in answer.stderr
    assert living(state) == {}
