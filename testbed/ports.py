"""Loopback ports for servers of tests: no two of them are given the same one, and no connection takes it."""

import errno
import random
import socket
from collections import deque
from typing import Final

FIRST_PORT, LAST_PORT = 7_000, 9_999
"""Below those of stacks and below the kernel's own; a browser refuses none of them."""
KEPT: Final = 200
"""How many of its last ports a process keeps from others: a server that is down comes back on its own."""
_kept: deque[socket.socket] = deque(maxlen=KEPT)


def free_port() -> int:
    """Return a port that is free, and that no other process which asks here is given while this one keeps it.

    Raises:
        RuntimeError: All ports are taken.
    """
    ports = list(range(FIRST_PORT, LAST_PORT + 1))
    random.shuffle(ports)
    for port in ports:
        kept = _keep(port)
        if kept is None:
            continue
        if _is_free(port):
            _kept.append(kept)
            return port
        kept.close()
    raise RuntimeError(f"no port between {FIRST_PORT} and {LAST_PORT} is free")


def _keep(port: int) -> socket.socket | None:
    """Return what keeps a port from others until it is closed; the kernel closes it if the process is killed."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0slipway-test-port-{port}")
    except OSError as error:
        name.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return name


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
