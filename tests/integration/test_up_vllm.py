"""The embedded stack with a model in vLLM: its engine processes go when Triton is killed, and when the stack ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.server_manager.domain.model_config import EngineConfig, plan_model_files
from testbed.models import tiny_base
from testbed.servers import wait_until
from tests.integration.up_process import ROOT, Up, key_of_model_control, living

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.usefixtures("engine_environment")]

LOAD = """
import json, sys, tritonclient.grpc
with tritonclient.grpc.InferenceServerClient(sys.argv[1]) as client:
    client.load_model(sys.argv[2], headers=json.loads(sys.argv[3]), client_timeout=150)
"""


def load(up: Up, model: Path) -> None:
    """Load a model into vLLM, as server-manager does, but under a name that it does not know."""
    folder = up.state / "triton" / "models" / "probe.v1.bf16"
    config = EngineConfig(kind="slipway", engine_args={"max_model_len": 256})
    for name, text in plan_model_files("probe.v1.bf16", str(model), config).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    endpoint = f"127.0.0.1:{up.parts()['triton']['port']}"
    arguments = (endpoint, "probe.v1.bf16", json.dumps(key_of_model_control(up)))
    subprocess.run([sys.executable, "-c", LOAD, *arguments], cwd=ROOT, check=True, timeout=200)


def engines(up: Up) -> dict[int, str]:
    """The processes that serve the model: Triton's stub and what vLLM starts below it."""
    leader = up.parts()["triton"]["pid"]
    sessions = {leader}
    commands_by_pid = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == leader:
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[3]) in sessions:
            commands_by_pid[int(folder.name)] = command
    return commands_by_pid


def state_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return "gone"


def test_no_engine_process_outlives_triton_or_the_stack(tmp_path):
    model = tiny_base(tmp_path / "tiny", hidden=256)
    up = Up(tmp_path / "state", "--engine", "slipway").until_ready()
    try:
        load(up, model)
        old = engines(up)
        assert any("VLLM" in command or "EngineCore" in command for command in old.values()), old
        leader = up.parts()["triton"]["pid"]
        os.kill(leader, signal.SIGKILL)
        wait_until(
            lambda: (now := up.parts()["triton"])["pid"] != leader and now["state"] == "ready",
            timeout_s=60,
            what="triton being back",
        )
        try:
            wait_until(lambda: not any((Path("/proc") / str(pid)).exists() for pid in old), what="the engines' end")
        except AssertionError as error:
            raise AssertionError({pid: state_of(pid) for pid in old}, up.output.read_text()) from error
        load(up, model)
        last = engines(up)
        assert last
    finally:
        assert up.end(signal.SIGINT) == 0
    assert living(up.state) == {}
    assert not any((Path("/proc") / str(pid)).exists() for pid in last)
