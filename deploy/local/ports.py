"""Loopback ports below the kernel's ephemeral range, the same in every run."""

import atexit
import errno
import random
import socket
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 10_000, 21_999
FIRST_CHOICE = {"gateway": 8080, "console": 8082}
"""Preferred ports of a new stack; the others are random."""
SHADOW_OFFSET = 10_000
"""The S3 server's parts also listen on, or call, their port plus this: still below the ephemeral range."""
_reserved: dict[int, socket.socket] = {}


def reserve(port: int) -> bool:
    """Reserve a port for this process until its end or `release`; return False if another process has it.

    So stacks that start at the same time choose different ports. The kernel releases a killed process's reservations.
    """
    if port in _reserved:
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0slipway-port-{port}")
    except OSError as error:
        name.close()
        return error.errno != errno.EADDRINUSE  # a system without such names
    _reserved[port] = name
    return True


def release(port: int) -> None:
    """Release a reserved port."""
    if (name := _reserved.pop(port, None)) is not None:
        name.close()


@atexit.register
def _release_all() -> None:
    for port in list(_reserved):
        release(port)


def is_free(port: int) -> bool:
    """Return whether a port and its shadow are free."""
    return all(_can_bind(candidate) for candidate in (port, port + SHADOW_OFFSET))


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose_ports(names: Iterable[str], kept: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each name: its earlier one if free, else a new one.

    Raises:
        RuntimeError: no free port was found.
    """
    chosen: dict[str, int] = {}
    for name in names:
        earlier = kept.get(name)
        if earlier is not None and earlier not in chosen.values() and _take(earlier):
            chosen[name] = earlier
        else:
            chosen[name] = _new_port({*kept.values(), *chosen.values()})
    return chosen


def keep_ports(names: Iterable[str], kept: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each name, and all kept ones, which routes may still name.

    Raises:
        RuntimeError: no free port was found.
    """
    return {**kept, **choose_ports(names, {**FIRST_CHOICE, **kept})}


def _take(port: int) -> bool:
    """Reserve a free port; return whether that succeeded."""
    if not reserve(port):
        return False
    if is_free(port):
        return True
    release(port)
    return False


def _new_port(taken: set[int]) -> int:
    for _ in range(2_000):
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - spreads stacks out, hides nothing
        if port not in taken and _take(port):
            return port
    raise RuntimeError(f"no free port between {FIRST_PORT} and {LAST_PORT} on {LOOPBACK}")
