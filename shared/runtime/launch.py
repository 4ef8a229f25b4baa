"""Ties a process to its parent, limits its memory and network, then executes the requested program.

Run as `python -I -S launch.py PARENT_PID MEMORY_BYTES ALONE PROGRAM ARGUMENTS…` (MEMORY_BYTES 0: no limit; ALONE 1: an
own network namespace, if permitted). A separate file, so that a process with threads runs no code between fork and
exec. The kernel kills the program when the thread that started it ends.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
NEW_USER, NEW_NET, NEW_IPC = 0x10000000, 0x40000000, 0x08000000
NAMESPACE = "SLIPWAY_CHILD_NAMESPACE"


def main() -> None:
    """Request SIGKILL on the parent's death, limit the process, and execute the program."""
    parent, memory_bytes, alone, program = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    if alone:
        os.environ[NAMESPACE] = leave_network()  # before the next line: new credentials would undo that
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise SystemExit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # the parent died before the line above took effect
        raise SystemExit(1)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    os.execvp(program[0], program)  # noqa: S606 - executing another program is the purpose


def leave_network() -> str:
    """Enter a network without interfaces; return `yes`, or why that is not possible here."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER | NEW_NET | NEW_IPC) != 0:
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib takes longer to import than this runs
                file.write(text)
    except OSError as error:  # the namespaces hold; only names of users and groups are missing in them
        sys.stderr.write(f"the process has no user of its namespace: {error}\n")
    return "yes"


if __name__ == "__main__":
    main()
