"""The processes that vLLM starts below this one: none may outlive it."""

import os
import signal
from pathlib import Path


def list_descendants(pid: int) -> list[int]:
    """Return every descendant of a process, nearest first."""
    pids: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop(0)
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                below = [int(part) for part in listing.read_text(encoding="ascii").split()]
            except OSError:
                continue
            pids += below
            queue += below
    return pids


def kill(pid: int) -> None:
    """Kill a process; do nothing if it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
