"""Command lines, memory limits and termination of child processes."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from shared.runtime.exits import control_groups

_LAUNCHER = Path(__file__).with_name("launch.py")


def child_command(argv: Sequence[str], *, memory_limit_bytes: int | None = None, alone: bool = False) -> list[str]:
    """Return the command line of a program that the kernel kills when the starting thread ends; use the main thread.

    `memory_limit_bytes` limits its data segment; `alone` gives it a network without interfaces, if permitted.
    """
    options = [str(os.getpid()), str(memory_limit_bytes or 0), str(int(alone))]
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *options, *argv]


def memory_bytes(root: Path = Path("/")) -> int:
    """Return this process's memory limit in bytes: the machine's memory or its control groups' lowest limit."""
    return min([psutil.virtual_memory().total, *(limit for _, limit in _group_limits(root))])


def available_memory_bytes(root: Path = Path("/"), *, machine: int | None = None) -> int:
    """Return the available memory in bytes: the machine's, or less by the limits of the control groups.

    Args:
        root: Folder of `proc` and `sys`.
        machine: Available bytes of the machine; by default the kernel's figure.
    """
    available = psutil.virtual_memory().available if machine is None else machine
    return max(0, min([available, *(limit - _used_bytes(group) for group, limit in _group_limits(root))]))


def _group_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield folder and limit of the process's control groups and their parents.

    In a container the named group may not be mounted; its limit is then at the mount point.
    """
    for control_group in control_groups(root):
        file = "memory.max" if control_group.version == 2 else "memory.limit_in_bytes"
        for folder in (control_group.group, *control_group.group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                yield folder, int((folder / file).read_text())
            if folder == control_group.top:
                break


def _used_bytes(group: Path) -> int:
    """Return the memory use of a control group without reclaimable cached files; 0 if unknown."""
    used = 0
    for file in ("memory.current", "memory.usage_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            used = int((group / file).read_text())
    counters: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            name, value = line.split()
            counters[name] = int(value)
    cached = sum(counters.get(f"total_{name}", counters.get(name, 0)) for name in ("inactive_file", "active_file"))
    return max(0, used - cached)


def terminate_tree(pid: int, *, grace_s: float = 5.0) -> None:
    """Terminate a process and all its descendants: SIGTERM, then SIGKILL after the grace period."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
