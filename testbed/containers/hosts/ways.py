"""The ways in which a host fails: cut off, paused, killed, without power for a while, restarted in order."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from testbed.containers import engine
from testbed.containers.hosts import partition
from testbed.containers.hosts.members import host_of, pids
from testbed.containers.installation import Installation, service_of

STOP_S = 30
"""Seconds that containers of a host may take to end when it is restarted in order."""


def members(stack: Installation, host: str) -> list[dict[str, Any]]:
    """Return what podman knows of the containers of a host."""
    return [each for each in stack.containers() if host_of(service_of(each)) == host]


@contextmanager
def cut_off(stack: Installation, host: str) -> Iterator[None]:
    """Drop every packet between a host and all others while the block runs."""
    try:
        partition.cut(members(stack, host))
        yield
    finally:
        partition.join(members(stack, host))


@contextmanager
def paused(stack: Installation, host: str) -> Iterator[None]:
    """Freeze all containers of a host while the block runs."""
    names = _names(stack, host)
    engine.podman("pause", *names)
    try:
        yield
    finally:
        engine.podman("unpause", *names)


@contextmanager
def killed(stack: Installation, host: str) -> Iterator[None]:
    """Kill the first process of each container of a host at once; all are started again by themselves."""
    for pid in pids(members(stack, host)):
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def without_power(stack: Installation, host: str) -> Iterator[None]:
    """Kill all containers of a host, and start them after the block."""
    yield from _away(stack, host, "0")


@contextmanager
def restarted(stack: Installation, host: str) -> Iterator[None]:
    """End all containers of a host in order, and start them after the block."""
    yield from _away(stack, host, str(STOP_S))


def _away(stack: Installation, host: str, time: str) -> Iterator[None]:
    names = _names(stack, host)
    engine.podman("stop", "--time", time, *names)
    try:
        yield
    finally:
        engine.podman("start", *names)


def _names(stack: Installation, host: str) -> list[str]:
    return [each["Name"] for each in members(stack, host)]


WAYS: dict[str, Callable[[Installation, str], AbstractContextManager[None]]] = {
    "cut off": cut_off,
    "paused": paused,
    "killed": killed,
    "without power": without_power,
    "restarted": restarted,
}
"""What happens to a host, by its name."""
