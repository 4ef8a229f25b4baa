"""A forked program is a process as `python -m` starts it: its environment, folder, output, signals, exit code and end."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from testbed.forked import PRELOADED, ForkedProcess, processor_s, run, start
from testbed.servers import wait_until
from tests.kit.wiring import ROOT

NEVER = ("numpy", "grpc", "torch", "clients.cli.main", "services", "tests", "pytest")
REPORT = """
import json, os, random, sys
print(json.dumps({
    "name": __name__,
    "arguments": sys.argv,
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "files": sorted({int(name) for name in os.listdir("/proc/self/fd")} - {3}),
    "threads": [len(os.listdir(f"/proc/{pid}/task")) for pid in ("self", os.getppid())],
    "modules": list(sys.modules),
    "random": random.random(),
    "ids": [os.getpid(), os.getpgrp(), os.getsid(0)],
    "signals": open("/proc/self/status").read().partition("SigBlk:")[2].split()[0],
}))
"""


@pytest.fixture
def program(tmp_path):
    """Write a program into a folder and run it there."""
    made = []

    def start(text: str, *arguments: str, **variables: str) -> ForkedProcess:
        name = f"program_{len(made)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        out, err = tmp_path / f"{name}.out", tmp_path / f"{name}.err"
        process = ForkedProcess([name, *arguments], environment=variables, cwd=tmp_path, stdout=out, stderr=err)
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()


def text(folder: Path, end: str, number: int = 0) -> str:
    """Return what a program printed."""
    file = folder / f"program_{number}.{end}"
    return file.read_text() if file.exists() else ""


def test_it_has_what_a_new_process_has_and_no_more(program, tmp_path):
    assert program(REPORT, "one", "two", A="b").wait(30) == 0
    report = json.loads(text(tmp_path, "out"))
    assert report["name"] == "__main__"
    assert report["arguments"] == [str(tmp_path / "program_0.py"), "one", "two"]
    assert report["environment"] == {"A": "b"}
    assert report["folder"] == str(tmp_path)
    assert report["files"] == [0, 1, 2], "the third is that of the folder that it lists"
    assert report["threads"] == [1, 1], "a fork of a process with threads could wait for a lock for ever"
    assert report["ids"][1:] == [os.getpgrp(), os.getsid(0)]
    assert report["signals"] == "0000000000000000"
    assert not [name for name in (*PRELOADED, "faststream.nats", "minio") if name not in report["modules"]]
    assert not [name for name in NEVER if name in report["modules"]]


def test_two_are_two_processes_that_draw_other_random_numbers(program, tmp_path):
    for number in (0, 1):
        assert program(REPORT).wait(30) == 0, text(tmp_path, "err", number)
    first, second = (json.loads(text(tmp_path, "out", number)) for number in (0, 1))
    assert first["random"] != second["random"]
    assert first["ids"][0] != second["ids"][0]


@pytest.mark.parametrize(
    ("statement", "code", "error"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no such model')", 1, "no such model\n"),
        ("raise ValueError('broken')", 1, "ValueError: broken\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("os._exit(4)", 4, ""),
    ],
)
def test_its_exit_code_says_how_it_ended(program, tmp_path, statement, code, error):
    assert program(f"import os, signal, sys\n{statement}").wait(30) == code
    assert text(tmp_path, "err").endswith(error)


def test_threads_end_and_what_is_registered_for_the_exit_runs(program, tmp_path):
    source = """
        import atexit, threading
        atexit.register(print, "exit")
        begun = threading.Event()
        threading.Thread(target=lambda: (begun.wait(), print("thread"))).start()
        threading.Timer(0.2, begun.set).start()
    """
    assert program(source).wait(30) == 0
    assert sorted(text(tmp_path, "out").split()) == ["exit", "thread"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_signals_reach_it(program, tmp_path, number, code):
    process = program("import time\nprint('running', flush=True)\ntime.sleep(60)")
    wait_until(lambda: text(tmp_path, "out"), what="the program running")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, what="the program being stopped")
    process.send_signal(signal.SIGCONT)
    process.send_signal(number)
    assert process.wait(30) == process.poll() == process.returncode == code
    process.send_signal(number)  # as Popen: nothing happens


STARTER = """
import os, signal, sys, time
from pathlib import Path
from testbed.forked import ForkedProcess
folder, then = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)
(folder / "out").touch()  # each fork opens it for itself, later
del os.environ["PYTHONPATH"]  # else the fork server finds the modules by it
made = [ForkedProcess(["sleeper"], environment={}, cwd=folder, stdout=folder / "out", stderr=folder / "err") for _ in "ab"]
while (folder / "out").read_text().count("begun") < 2:  # one that is stopped before would not end with its parent
    time.sleep(0.05)
os.kill(made[0].pid, signal.SIGSTOP)
print(*[process.pid for process in made], *[process.poll() for process in made], flush=True)
if then == "wait":
    time.sleep(60)
"""


def runs(pid):
    """Return whether a process has not ended; one that its new parent has not read the exit code of has."""
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("then", ["end", "wait"])
def test_they_end_with_the_process_that_started_them_stopped_ones_too(tmp_path, then):
    """It ends, or is killed; its own folder is another one than that of the modules."""
    (tmp_path / "sleeper.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)")
    command = [sys.executable, "-c", STARTER, str(tmp_path), then]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as starter:
        *pids, first, second = starter.stdout.readline().split()
        assert (first, second) == ("None", "None")
        if then == "wait":
            starter.kill()
        starter.wait(20)
    wait_until(lambda: not any(map(runs, pids)), what="both being killed")


def test_a_command_says_what_it_printed_and_how_it_ended(tmp_path):
    done = run([sys.executable, "-m", "clients.cli.main", "--version"], environment={}, cwd=ROOT, timeout_s=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("slipway ")
    done = run([sys.executable, "-m", "clients.cli.main", "nothing"], environment={}, cwd=ROOT, timeout_s=60)
    assert done.returncode == 2
    assert "nothing" in done.stderr


@pytest.mark.parametrize(
    ("command", "options", "variables", "is_forked"),
    [
        ((sys.executable, "-m", "http.server", "0"), {}, {}, True),
        ((sys.executable, "-m", "http.server", "0"), {}, {"PYTHONPATH": str(ROOT)}, True),
        ((sys.executable, "-m", "http.server", "0"), {}, {"PYTHONPATH": "/another/checkout"}, False),
        ((sys.executable, "-m", "http.server", "0"), {}, {"PYTHONSAFEPATH": "1"}, False),
        ((sys.executable, "-m", "http.server", "0"), {"forked": False}, {}, False),
        ((sys.executable, "-c", "import time; time.sleep(60)"), {}, {}, False),
        (("sleep", "60"), {}, {}, False),
    ],
)
def test_only_a_module_of_this_checkout_is_forked(tmp_path, command, options, variables, is_forked):
    process = start(command, tmp_path / "log", environment=dict(os.environ) | variables, **options)
    try:
        assert (psutil.Process(process.pid).ppid() != os.getpid()) is is_forked
    finally:
        process.kill()
        assert process.wait(30) == -9


SUPERVISOR = """
import json, os, subprocess, sys
from pathlib import Path
from deploy.local.processes import adopt_orphans
from shared.runtime.process import child_command
from testbed.forked_stack import forks

start = forks().popen
adopt_orphans()

def part(*command):
    with Path("log").open("ab") as log:
        how = {"stdout": log, "stderr": subprocess.STDOUT, "env": {"A": "b", "PYTHONPATH": os.getcwd()}}
        return start(child_command(command), cwd=Path("/"), start_new_session=True, **how)

source = "import json, os; print(json.dumps([os.getppid(), os.getpid(), os.getsid(0), os.getcwd(), os.environ.get('A')]))"
Path("ends.py").write_text(source + "; raise SystemExit(3)")
Path("stays.py").write_text("import time; time.sleep(60)")
ends, stays, other = part(sys.executable, "-m", "ends"), part(sys.executable, "-m", "stays"), part("sh", "-c", "exit 4")
print(json.dumps([os.getpid(), ends.pid, stays.poll()]), flush=True)
codes = [ends.wait(), ends.wait(), other.wait()]
stays.send_signal(9)
print(json.dumps([*codes, stays.wait()]))
"""


def test_a_part_of_a_stack_is_a_child_of_its_supervisor_and_leads_a_session(program, tmp_path):
    assert program(SUPERVISOR).wait(60) == 0, text(tmp_path, "err")
    (supervisor, pid, stays), codes = map(json.loads, text(tmp_path, "out").splitlines())
    assert json.loads((tmp_path / "log").read_text()) == [supervisor, pid, pid, "/", "b"]
    assert (stays, codes) == (None, [3, 3, 4, -9])


def test_its_processor_time_is_known(program):
    before = processor_s()
    assert program("import time\nwhile time.process_time() < 0.5: pass").wait(60) == 0
    assert processor_s() - before >= 0.4
