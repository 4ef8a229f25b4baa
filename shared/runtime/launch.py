"""Ties a process to its parent, limits its memory, then executes the requested program.

Run as `python -I -S launch.py PARENT_PID MEMORY_BYTES PROGRAM ARGUMENTS…` (0: no limit). It is a file of its own, so
that none of our code runs between fork and exec of a process with threads. The kernel kills the program when the thread
that started it ends.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request SIGKILL on the parent's death, limit the data segment, and execute the program."""
    parent, memory_bytes, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise SystemExit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before the line above took effect
        raise SystemExit(1)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    os.execvp(program[0], program)  # noqa: S606 - executing another program is the purpose


if __name__ == "__main__":
    main()
