"""Finding and ending what belongs to a stack, on real processes: titles written over, orphans, strangers."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from deploy.local import processes
from deploy.local.leftovers import end_stack
from deploy.local.processes import Marks, Recorded
from deploy.local.state import AlreadyUp, PartState, StateFolder, Table, new_description
from shared.runtime import process
from shared.runtime.process import child_command
from testbed.servers import wait_until

OURS, THEIRS, STUBBORN = (f"stack-{uuid.uuid4().hex}" for _ in range(3))
"""Other tests on this machine look for marked processes, too, and end them."""
LAUNCHER = Path(process.__file__).with_name("launch.py")
# The leader starts a child that carries no mark in its environment, as an engine does that writes its title over it.
LEADER = "env -i sleep 600 & echo $!; exec sleep 600"


class Session:
    """A part's process and its unmarked child."""

    def __init__(self, folder: Path, stack_id: str, *, marked: bool = True) -> None:
        environment = {"PATH": os.environ["PATH"]} | (
            {"SLIPWAY_STACK": stack_id, "SLIPWAY_PART": "triton"} if marked else {}
        )
        self.leader = subprocess.Popen(
            ["sh", "-c", LEADER], stdout=subprocess.PIPE, text=True, env=environment, cwd=folder, start_new_session=True
        )
        self.child = int(self.leader.stdout.readline())
        wait_until(lambda: all(is_sleep(pid) for pid in (self.leader.pid, self.child)), what="both programs")
        process = processes.read_process(self.leader.pid)
        self.recorded = Recorded(self.leader.pid, process.started_ticks)

    def kill_leader(self) -> None:
        self.leader.kill()
        self.leader.wait()

    def close(self) -> None:
        for pid in (self.leader.pid, self.child):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.leader.wait()
        self.leader.stdout.close()
        wait_until(lambda: not is_alive(self.child), what="the child's end")


def is_sleep(pid: int) -> bool:
    return (Path("/proc") / str(pid) / "comm").read_text() == "sleep\n"


def is_alive(pid: int) -> bool:
    process = processes.read_process(pid)
    return process is not None and not process.zombie


@pytest.fixture
def folder(tmp_path):
    state = StateFolder(tmp_path / "state")
    state.create()
    return state


@pytest.fixture
def session(folder):
    session = Session(folder.run_folder, OURS)
    yield session
    session.close()


@pytest.fixture
def stranger(tmp_path):
    session = Session(tmp_path, THEIRS)
    yield session
    session.close()


def pids(listed):
    return {process.pid for process in listed}


def test_the_child_of_a_killed_part_is_found_though_it_carries_no_mark(folder, session, stranger):
    marks = Marks(OURS, folder.run_folder)
    session.kill_leader()
    assert "SLIPWAY_STACK" not in processes.variables_of(session.child)
    leftovers = processes.find_part_leftovers(marks, "triton", session.recorded, living_sessions=[])
    assert pids(leftovers) == {session.child}
    assert pids(processes.find_leftovers(marks, [session.recorded])) == {session.child}


def test_everything_of_a_living_part_is_found_by_its_mark_alone(folder, session, stranger):
    leftovers = processes.find_leftovers(Marks(OURS, folder.run_folder), [])
    assert pids(leftovers) == {session.leader.pid, session.child}


def test_living_parts_are_not_leftovers(folder, session):
    marks = Marks(OURS, folder.run_folder)
    leftovers = processes.find_part_leftovers(marks, "triton", session.recorded, living_sessions=[session.leader.pid])
    assert leftovers == []


def test_a_session_with_a_used_again_number_is_a_strangers(folder, tmp_path):
    stranger = Session(tmp_path, "", marked=False)
    try:
        marks = Marks(OURS, folder.run_folder)
        assert processes.find_leftovers(marks, [stranger.recorded]) == []
        younger = Recorded(stranger.leader.pid, stranger.recorded.started_ticks + 1_000_000)
        assert processes.find_leftovers(Marks(OURS, tmp_path), [younger]) == []
    finally:
        stranger.close()


def test_a_pid_with_another_owner_is_not_signalled(session):
    process = processes.read_process(session.leader.pid)
    processes.kill(
        [processes.Process(process.pid, process.parent, process.session, process.started_ticks + 1, zombie=False)]
    )
    assert is_alive(session.leader.pid)
    processes.kill([process])
    wait_until(lambda: not is_alive(process.pid), what="the signal's effect")


def test_a_stack_is_ended_with_its_unmarked_children_and_strangers_stay(folder, session, stranger):
    description = new_description()
    row = PartState("triton", session.recorded.pid, session.recorded.started_ticks, 1, "ready", 0, None, "triton")
    folder.write_table(Table("ready", 1, 1, (row,)))
    marked = type(description)(**{**vars(description), "stack_id": OURS})
    assert end_stack(folder, marked) == []
    wait_until(lambda: not is_alive(session.leader.pid) and not is_alive(session.child), what="the end")
    assert is_alive(stranger.leader.pid)
    assert is_alive(stranger.child)


def test_one_that_ignores_sigterm_is_killed_after_the_grace(folder, tmp_path):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    stubborn = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLIPWAY_STACK": STUBBORN},
    )
    stubborn.stdout.readline()
    marks = Marks(STUBBORN, folder.run_folder)
    left = processes.end_all(lambda: processes.find_leftovers(marks, []), grace_s=0.3)
    assert left == []
    assert not is_alive(stubborn.pid)
    stubborn.wait()
    stubborn.stdout.close()


def test_the_launcher_ties_the_program_to_its_parent():
    middle = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-S", {str(LAUNCHER)!r}, str(os.getpid()), "0", "0", "sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(child_command([sys.executable, "-c", middle]), stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    wait_until(lambda: (Path("/proc") / str(child) / "comm").read_text() == "sleep\n", what="the program")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_alive(child), what="the program's end")


def test_the_launcher_refuses_a_parent_that_is_gone():
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER), "1", "0", "0", "echo", "ran"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_state_folder_has_one_supervisor(folder):
    folder.take_lock()
    other = StateFolder(folder.path)
    assert other.is_held()
    with pytest.raises(AlreadyUp):
        other.take_lock()
    folder.release_lock()
    assert not other.is_held()
    other.take_lock()
    other.release_lock()


def test_what_is_written_is_read_back_and_only_the_owner_may(folder):
    description = new_description()
    folder.write_description(description)
    assert folder.read_description() == description
    assert (folder.path / "stack.json").stat().st_mode & 0o777 == 0o600
    assert StateFolder(folder.path / "nothing").read_table() is None


def test_a_state_folder_of_an_older_slipway_is_refused_before_anything_is_started(tmp_path):
    """Its records would be misread: fields have other names since."""
    folder = StateFolder(tmp_path / "state")
    folder.create()
    (folder.path / "stack.json").write_text(
        '{"stack_id": "a", "ports": {}, "s3_access_key": "k", "s3_secret_key": "s"}'
    )
    command = [sys.executable, "-m", "clients.cli.main", "up", "--state", str(folder.path), "--engine", "toy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "holds data of an older Slipway" in " ".join((done.stdout + done.stderr).split())
    assert not list(folder.logs.iterdir())
    assert not (folder.path / "s3").exists()
