"""Metrics of several processes in one folder: what readiness reads of them, and which folders are removed."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARE = """
import os, socket, subprocess, sys
from pathlib import Path
if len(sys.argv) > 2:
    socket.gethostname = lambda: sys.argv[2]
from shared.runtime.process_metrics import FOLDER, share_metrics
share_metrics(Path(sys.argv[1]))
folder = Path(os.environ[FOLDER])
"""
WORKERS = (
    SHARE
    + """
from prometheus_client import CollectorRegistry, Counter, Gauge
from shared.runtime.process_metrics import exposed_registry, forget_process, identify_process, sum_live_gauges
for number in range(3):
    identify_process(number)
    registry = CollectorRegistry()
    Gauge("ready", "-", registry=registry, multiprocess_mode="livesum").set(number > 0)
    Gauge("worst", "-", registry=registry, multiprocess_mode="livemin").set(number)
    Gauge("busy", "-", ["by"], registry=registry, multiprocess_mode="livesum").labels("x").set(7)
    Counter("seen", "-", registry=registry).inc()
print(sum_live_gauges())
forget_process(2)
print(sum_live_gauges())
print(exposed_registry(registry).get_sample_value("seen_total"))
for name in ("gauge_livesum_7.db", "counter_7.db"):
    (folder / name).touch()
print(exposed_registry(registry).get_sample_value("seen_total"), sum_live_gauges())
(folder / "counter_0.db").write_bytes(b"not a file of metrics")
print(sum_live_gauges())
"""
)
HOLD = SHARE + "print(folder, flush=True)\nsys.stdin.read()"
LEAVE = SHARE + "print(folder)"
FORK = SHARE + "print(folder, flush=True)\nif os.fork() == 0:\n    sys.stdin.read()\n"


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()


@contextlib.contextmanager
def running(program, *arguments):
    """Yield the folder of a process that ends after the block."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        yield Path(process.stdout.readline().strip()), process
        process.stdin.close()


def test_readiness_reads_the_live_gauges_only(tmp_path):
    before, after, seen, started, last = run(WORKERS, tmp_path)
    assert before == str({"ready": 2.0})
    assert after == last == str({"ready": 1.0})
    assert seen == "3.0", "what a process counted stays"
    assert started == f"3.0 {after}", "a process that starts has created files, and written nothing"


@pytest.mark.parametrize("host", ["a-pod-of-before", None], ids=["another host name", "the same"])
def test_folders_of_processes_that_have_ended_are_removed(tmp_path, host):
    (left,) = map(Path, run(LEAVE, tmp_path, *([host] if host else [])))
    assert left.is_dir()
    (own,) = map(Path, run(LEAVE, tmp_path))
    assert not left.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == [own.parent, own]


def test_folders_of_before_there_were_locks_are_removed(tmp_path):
    old = tmp_path / "a-pod-of-before" / "7-metrics"
    old.mkdir(parents=True)
    (old / "counter_0.db").write_bytes(b"")
    run(LEAVE, tmp_path)
    assert not old.parent.exists()


@pytest.mark.parametrize("host", ["another-pod", None], ids=["another host name", "the same"])
def test_the_folder_of_a_running_process_is_kept(tmp_path, host):
    with running(HOLD, tmp_path, *([host] if host else [])) as (folder, _):
        run(LEAVE, tmp_path)
        assert folder.is_dir()


def test_the_folder_is_kept_for_workers_that_outlive_their_supervisor(tmp_path):
    with running(FORK, tmp_path) as (folder, supervisor):
        supervisor.wait(20)
        run(LEAVE, tmp_path)
        assert folder.is_dir()
    run(LEAVE, tmp_path)
