"""Loopback ports for servers of tests: no two of them are given the same one, and no connection takes it."""

import random
import socket
from collections import deque
from typing import Final

from deploy.local.ports import LOOPBACK, release, reserve

FIRST_PORT, LAST_PORT = 7_000, 9_999
"""Below those of stacks and below the kernel's own; a browser refuses none of them."""
KEPT: Final = 200
"""How many of its last ports a process keeps from others: a server that is down comes back on its own."""
_kept: deque[int] = deque()


def free_port() -> int:
    """Return a port that is free, and that no other process which asks here is given while this one keeps it.

    Raises:
        RuntimeError: All ports are taken.
    """
    ports = [port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in _kept]
    random.shuffle(ports)
    for port in ports:
        if not reserve(port):
            continue
        if _is_free(port):
            _kept.append(port)
            if len(_kept) > KEPT:
                release(_kept.popleft())
            return port
        release(port)
    raise RuntimeError(f"no port between {FIRST_PORT} and {LAST_PORT} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
