"""Find and end the processes of a stack, and no others.

A process belongs to the stack by any of three marks: its environment (unless overwritten by a process title), its
session (each part leads its own) with the working folder, or its parent (the supervisor adopts orphans).
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

STACK_VARIABLE = "SLIPWAY_STACK"
PART_VARIABLE = "SLIPWAY_PART"
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A row of the process table; `started_ticks` distinguishes processes with the same pid."""

    pid: int
    parent: int
    session: int
    started_ticks: int
    zombie: bool


@dataclass(frozen=True)
class Marks:
    """The marks of a stack's processes."""

    stack_id: str
    run_folder: Path


@dataclass(frozen=True)
class Recorded:
    """The leader of a part's session, as recorded at its start."""

    pid: int
    started_ticks: int


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read_process(pid: int) -> Process | None:
    """Return one process, or None if it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text.rpartition(")")[2].split()  # the name in front may hold blanks and brackets
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX")


def list_processes() -> list[Process]:
    """Return the process table."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [process for pid in pids if (process := read_process(pid)) is not None]


def variables_of(pid: int) -> dict[str, str]:
    """Return a process's initial environment; empty if it cannot be read."""
    try:
        data = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.decode(errors="replace").partition("=") for item in data.split(b"\0") if b"=" in item)
    return {name: value for name, _, value in pairs}


def is_running(recorded: Recorded) -> bool:
    """Return whether a recorded process still runs."""
    process = read_process(recorded.pid)
    return process is not None and not process.zombie and process.started_ticks == recorded.started_ticks


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").readlink() == folder
    except OSError:
        return False


def find_leftovers(marks: Marks, recorded: Iterable[Recorded], *, spare: Iterable[int] = ()) -> list[Process]:
    """Return all living processes of a stack with their descendants, except `spare`.

    The kernel reuses session ids, so members of a session must also work in the stack's folder and be no older than its
    leader.
    """
    table = {process.pid: process for process in list_processes() if not process.zombie}
    leaders = {leader.pid: leader.started_ticks for leader in recorded}
    members = {
        process.pid
        for process in table.values()
        if variables_of(process.pid).get(STACK_VARIABLE) == marks.stack_id
        or (
            process.session in leaders
            and process.started_ticks >= leaders[process.session]
            and _works_in(process.pid, marks.run_folder)
        )
    }
    while grown := {process.pid for process in table.values() if process.parent in members} - members:
        members |= grown
    protected = {os.getpid(), *spare}
    return [table[pid] for pid in sorted(members - protected)]


def find_part_leftovers(marks: Marks, part: str, leader: Recorded, *, living_sessions: Iterable[int]) -> list[Process]:
    """Return the processes left by a dead part: by its session or mark, and orphans without a living part."""
    living = set(living_sessions)
    leftovers = []
    for process in list_processes():
        if process.zombie or process.pid == os.getpid() or process.session in living:
            continue
        variables = variables_of(process.pid)
        in_session = (
            process.session == leader.pid
            and process.started_ticks >= leader.started_ticks
            and _works_in(process.pid, marks.run_folder)
        )
        marked = variables.get(STACK_VARIABLE) == marks.stack_id and variables.get(PART_VARIABLE) == part
        orphan = process.parent == os.getpid() and process.session != os.getsid(0)
        others = (
            variables.get(STACK_VARIABLE, marks.stack_id) != marks.stack_id
            or variables.get(PART_VARIABLE, part) != part
        )
        if in_session or marked or (orphan and not others):
            leftovers.append(process)
    return leftovers


def kill(processes: Iterable[Process], signal_number: int = signal.SIGKILL) -> None:
    """Signal processes that still run."""
    for process in processes:
        now = read_process(process.pid)
        if now is not None and now.started_ticks == process.started_ticks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal_number)


def end_all(find: Callable[[], list[Process]], *, grace_s: float) -> list[Process]:
    """Send SIGTERM, then SIGKILL, until no process is left; return the remaining ones."""
    kill(find(), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while find() and time.monotonic() < deadline:
        collect_orphans()
        time.sleep(0.05)
    deadline = time.monotonic() + 10.0
    while (left := find()) and time.monotonic() < deadline:
        kill(left)
        collect_orphans()
        time.sleep(0.05)
    return left


def collect_orphans(known: Iterable[int] = ()) -> None:
    """Reap adopted children that have ended, except `known`."""
    with contextlib.suppress(ChildProcessError):  # there is no child
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return  # none has ended: the table of all processes need not be read
    spare = set(known)
    for process in list_processes():
        if process.parent == os.getpid() and process.zombie and process.pid not in spare:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
