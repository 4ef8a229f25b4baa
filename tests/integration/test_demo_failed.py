"""A demo that fails: on a terminal its stack stays up, elsewhere it is stopped; what it names then works."""

import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from contracts.policy import ReleasePolicy
from deploy.local.state import StateFolder
from examples.smollm2 import demo
from examples.smollm2.machine import Machine
from testbed.lint.names import problem_of
from testbed.servers import wait_until

ROOT = Path(__file__).resolve().parents[2]

# Stands in for the command: a stack is "up" while it holds the folder's lock, and importing the base model fails.
COMMAND = """#!{python}
import fcntl, os, signal, subprocess, sys, time
words = sys.argv[1:]
if words[0] == "down" and "--state" in words:
    sys.exit(0)
state = os.environ["SLIPWAY_STATE"]
with open(os.path.join(os.path.dirname(state), "variables"), "a") as variables:
    ours = sorted(item for item in os.environ.items() if item[0].startswith("SLIPWAY_"))
    variables.write(" ".join(map("=".join, ours)) + "\\n")
with open(os.path.join(os.path.dirname(state), "asked"), "a") as asked:
    asked.write(" ".join(words) + "\\n")
if words[0] == "up" and not os.environ.get("FAIL_UP"):
    code = "import fcntl, os, sys, time; handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); "
    code += "fcntl.flock(handle, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, state + "/lock"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.readline()
    open(os.path.join(os.path.dirname(state), "pid"), "w").write(str(child.pid))
elif words[0] in ("down", "doctor", "keys"):
    sys.exit(0)
elif os.environ.get("WAITS"):
    time.sleep(60)
else:
    os.kill(os.getpid(), signal.SIGILL)
"""
RUN = "import os, sys; from examples.smollm2 import demo; demo.SLIPWAY = sys.argv.pop(1); "
RUN += "demo.write_base = lambda demo: None; demo.LEAST_CORES = float(os.environ.get('LEAST_CORES', '0')); demo.main()"


def start(folder: Path, *, out: int, **environment: str) -> int:
    """Run the demo with the stand-in; give its exit code."""
    command = folder / "slipway"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return subprocess.run(
        [sys.executable, "-c", RUN, str(command), "--state", str(folder / "state")],
        cwd=ROOT,
        check=False,
        timeout=240,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}, **environment},
    ).returncode


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text()), 9)


@pytest.mark.full
def test_on_a_terminal_the_stack_stays_up_and_the_commands_that_work_are_named(folder):
    master, slave = pty.openpty()
    try:
        assert start(folder, out=slave) == 1
        text = os.read(master, 65536).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert "signal SIGILL: it used an instruction that this CPU lacks" in text
    asked = (folder / "asked").read_text().splitlines()
    issued = f"keys issue demo --model support-bot --output {folder}/state/demo.key"
    imported = f"base import {folder}/state/base --name smollm2-135m-instruct"
    assert asked == ["doctor", "up --detach", issued, imported]
    assert StateFolder(folder / "state").is_held()
    assert text.index("The demo stopped") < text.index("The demo's stack stays up")
    assert f"slipway deadletters list --state {folder}/state" in text


@pytest.mark.full
def test_elsewhere_it_is_stopped_and_no_command_that_asks_it_is_named(folder):
    with (folder / "out").open("wb") as out:
        assert start(folder, out=out.fileno()) == 1
    assert (folder / "asked").read_text().splitlines()[-1] == "down"


@pytest.mark.full
def test_a_stack_that_the_environment_names_is_ignored_and_named(folder):
    with (folder / "out").open("wb") as out:
        start(
            folder,
            out=out.fileno(),
            SLIPWAY_NATS_URL="nats://elsewhere:4222",
            SLIPWAY_STATE="/other",
            SLIPWAY_LOG_LEVEL="DEBUG",
        )
    line = (folder / "out").read_text().splitlines()[0]
    assert line == (
        f"The demo starts a stack of its own in {folder}/state, and ignores SLIPWAY_NATS_URL, SLIPWAY_STATE."
    )
    state = f"SLIPWAY_STATE={folder}/state"
    assert set((folder / "variables").read_text().splitlines()) == {f"SLIPWAY_LOG_LEVEL=DEBUG {state}"}


@pytest.mark.full
def test_a_stack_that_did_not_come_up_is_not_said_to_stay(folder):
    master, slave = pty.openpty()
    try:
        assert start(folder, out=slave, FAIL_UP="1") == 1
        text = os.read(master, 65536).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert "stays up" not in text
    assert "slipway deadletters" not in text


@pytest.mark.full
def test_a_machine_that_is_too_busy_ends_it_before_anything_starts(folder):
    with (folder / "out").open("wb") as out:
        assert start(folder, out=out.fileno(), LEAST_CORES="1000") == 1
    assert not (folder / "asked").exists()
    assert "slipway up --detach --engine toy" in (folder / "out").read_text()


def test_when_it_is_terminated_its_stack_is_stopped(folder):
    command = folder / "slipway"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(command), "--state", str(folder / "state"), "--keep"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "WAITS": "1"},
    )
    wait_until(lambda: "base" in (folder / "asked").read_text(), what="the import of the base model")
    process.terminate()
    assert process.wait(30) == 1
    assert (folder / "asked").read_text().splitlines()[-1] == "down"


def executable(file: Path, code: str) -> Path:
    """Write a Python program, and return its file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{sys.executable}\n{code}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.mark.parametrize(
    ("cores", "has_bfloat16", "limit_ms", "rps"),
    [(2.0, True, demo.LIMIT_MS, demo.RPS), (1.0, True, 5000, 1.0), (0.8, False, 12_500, 0.4)],
)
def test_the_policy_that_it_publishes_with_follows_this_machine(cores, has_bfloat16, limit_ms, rps, tmp_path):
    slow = demo.Demo(tmp_path, machine=Machine(cores, has_bfloat16))
    demo.write_policy(slow)
    policy = ReleasePolicy.model_validate(yaml.safe_load(slow.policy_file.read_text()))
    (trigger,) = [trigger for trigger in policy.triggers if trigger.name == "slow"]
    assert trigger.threshold == slow.limit_ms == limit_ms
    assert policy.load.rate_rps == float(slow.rate) == rps
    assert slow.delay_ms > 2 * trigger.threshold


def test_a_release_that_is_not_promoted_ends_it_with_the_reason_of_the_release(tmp_path, monkeypatch):
    data = {"version": 2, "outcome": "rolled_back", "code": "canary_failed", "reason": "slow: 11 of 24 bad"}
    event = {"type": "slipway.release.finished.v1", "environment": "production", "data": data}
    code = f"import sys\nif sys.argv[1] == 'events': print({json.dumps(event)!r})\nelse: sys.exit(3)"
    monkeypatch.setattr(demo, "SLIPWAY", str(executable(tmp_path / "slipway", code)))
    with pytest.raises(SystemExit) as stopped:
        demo.Demo(tmp_path).follow()
    assert data["reason"] in str(stopped.value)
    assert "support-bot@v2" in str(stopped.value)


def test_commands_that_it_names_can_be_typed():
    up = demo.where_to_look(Path("/state"), up=True)
    named = re.findall(r"slipway .+$", up, re.MULTILINE)
    assert len(named) == 4
    assert [
        problem for line in named if (problem := problem_of(shlex.join([*shlex.split(line)[:-2], "--state"])))
    ] == []
    down = demo.where_to_look(Path("/state"), up=False)
    assert "slipway" not in down
    assert "/state/logs" in down
