"""Starts, limits and ends operating-system processes so that none is left behind or in the way."""

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
    """Return the command line of a program that dies with this process; the kernel watches the thread that starts it.

    Start it from the main thread. `memory_limit_bytes` bounds its data segment.
    """
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(memory_limit_bytes or 0), *argv]


def memory_bytes(root: Path = Path("/")) -> int:
    """Return how much memory this process can have: the machine's, or less where its control groups (v1, v2) say so."""
    return min([psutil.virtual_memory().total, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the process's control groups and of all groups around them.

    In a container the named group may be outside what is mounted; its own limit is then at the top of the mount.
    """
    for one in control_groups(root):
        file = "memory.max" if one.version == 2 else "memory.limit_in_bytes"
        for folder in (one.group, *one.group.parents):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                yield int((folder / file).read_text())
            if folder == one.top:
                break


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def terminate_tree(pid: int, *, grace_s: float = 5.0) -> None:
    """End a process and everything it started: SIGTERM, then SIGKILL after the grace."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace_s)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=grace_s)
