"""How the end of a process is told: the signal's name, what it usually means, and what the machine shows."""

import signal
import subprocess
import sys

import pytest

from shared.runtime.exits import MEANINGS, count_memory_kills, describe_exit, explain_codes


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (-4, ("signal SIGILL", "CPU")),
        (-6, ("signal SIGABRT", "log")),
        (-7, ("signal SIGBUS", "/dev/shm")),
        (-9, ("signal SIGKILL", "from outside", "memory")),
        (-11, ("signal SIGSEGV", "defect")),
        (132, ("exit code 132", "SIGILL", "CPU")),
        (137, ("exit code 137", "SIGKILL", "memory")),
        (-200, ("signal 200",)),
        (3, ("exit code 3",)),
        (128, ("exit code 128",)),
        (255, ("exit code 255",)),
    ],
)
def test_an_end_is_told_by_name_and_meaning(code, parts):
    text = describe_exit(code)
    assert all(part in text for part in parts), text
    assert text.startswith("signal" if code < 0 else "exit code")


def test_every_signal_that_kills_by_a_fault_has_a_meaning():
    assert {signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGKILL} <= set(
        MEANINGS
    )


def test_sigkill_is_blamed_on_memory_only_when_the_kernel_counted_one():
    assert describe_exit(-9, out_of_memory=True).startswith(
        "signal SIGKILL: perhaps the kernel killed it: memory ran out"
    )
    assert "from outside" in describe_exit(-9, out_of_memory=False)
    assert "ran out" not in describe_exit(-11, out_of_memory=True)


def test_a_real_process_that_dies_of_sigill_is_told_so():
    code = subprocess.run(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 4)"], check=False, timeout=30
    ).returncode
    assert describe_exit(code).startswith("signal SIGILL: it used an instruction that this CPU lacks")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Failed core proc(s): {'EngineCore_DP0': -4}", "SIGILL"),
        ("worker ended with exit code -11", "SIGSEGV"),
        ("process died (exitcode: -9)", "SIGKILL"),
    ],
)
def test_the_codes_in_another_programs_message_are_explained(text, name):
    explained = explain_codes(text)
    assert f"signal {name}" in explained
    assert explained.startswith(text.split("-")[0])


@pytest.mark.parametrize("text", ["temperature must be at least -1", "exit code 1", "a-4 b", "exit code -99999"])
def test_other_numbers_stay_as_they_are(text):
    assert explain_codes(text) == text


@pytest.mark.parametrize(
    ("cgroup", "file", "text"),
    [
        ("0::/slice/box", "sys/fs/cgroup/slice/box/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("0::/outside", "sys/fs/cgroup/memory.events", "oom_kill 2\n"),
        ("4:memory:/box", "sys/fs/cgroup/memory/box/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        ("9:name=systemd:/", "proc/vmstat", "pgpgin 4\noom_kill 2\n"),
    ],
)
def test_kills_for_memory_are_counted_in_the_own_control_group_first(tmp_path, cgroup, file, text):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    (tmp_path / "proc/vmstat").write_text("oom_kill 7\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert count_memory_kills(tmp_path) == 2


def test_a_machine_that_counts_nothing_is_zero(tmp_path):
    assert count_memory_kills(tmp_path) == 0
