"""End this stub when its tritonserver is gone.

A stub that sends a response while its server is killed waits forever for a lock in shared memory, with its engine. So a
separate process watches both: when the server ends, the stub is killed after a grace period; when the stub ends, the
guard ends. The kernel's parent-death signal follows the server's thread that started the stub, which ends early.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

GRACE_MS = 2000


def start() -> None:
    """Start the guard of this process; call it first while loading."""
    python = Path(os.environ["VIRTUAL_ENV"]) / "bin" / "python"
    subprocess.Popen(
        [str(python), "-S", "-E", __file__, str(os.getppid()), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def watch(server: int, stub: int) -> None:
    """Wait until either process ends; kill the stub if it outlives its server.

    Args:
        server: process id of tritonserver.
        stub: process id of the stub.
    """
    try:
        stub_handle = os.pidfd_open(stub)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(stub_handle, select.POLLIN)
    try:
        server_handle = os.pidfd_open(server)
    except ProcessLookupError:
        pass  # it is gone already
    else:
        poll.register(server_handle, select.POLLIN)
        ended = poll.poll()
        if (stub_handle, select.POLLIN) in ended:
            return
        poll.unregister(server_handle)
    if not poll.poll(GRACE_MS):
        signal.pidfd_send_signal(stub_handle, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
