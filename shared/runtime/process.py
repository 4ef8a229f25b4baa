"""Starts, limits and terminates processes of the operating system, so that none is left running."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from shared.runtime.exits import control_groups

_LAUNCHER = Path(__file__).with_name("launch.py")


def child_command(argv: Sequence[str], *, memory_limit_bytes: int | None = None) -> list[str]:
    """Return the command line of a program that the kernel kills if the thread that starts it ends.

    Start it from the main thread. `memory_limit_bytes` limits its data segment.
    """
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(memory_limit_bytes or 0), *argv]


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may use: that of the machine, or the lowest limit of its control groups."""
    return min([psutil.virtual_memory().total, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the process's control groups and of all their parents.

    In a container the named group may not be mounted; its own limit is then at the mount point.
    """
    for control_group in control_groups(root):
        file = "memory.max" if control_group.version == 2 else "memory.limit_in_bytes"
        for folder in (control_group.group, *control_group.group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                yield int((folder / file).read_text())
            if folder == control_group.top:
                break


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
