"""Ties a process to the one that starts it, then becomes the wanted program.

Run as `python -I -S launch.py PARENT_PID PROGRAM ARGUMENTS…`: a file of its own, so that nothing happens between fork
and exec of a supervisor that may hold threads. The kernel kills the program when the supervisor is gone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGKILL on the parent's death and exec the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise SystemExit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before the line above took effect
        raise SystemExit(1)
    os.execvp(program[0], program)  # noqa: S606 - becoming another program is the purpose


if __name__ == "__main__":
    main()
