"""Gathers facts about this machine: reads memory, file systems and ports; changes nothing."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from clients.cli.doctor.assess import Memory, Ports, Space
from deploy.local.ports import choose_ports, is_free, release
from shared.runtime.process import available_memory_bytes, memory_bytes

SHM = Path("/dev/shm")  # noqa: S108 - only its free space is read


def read_memory() -> Memory:
    """Return how much memory this process may use, in its container if it has a limit, and how much is available."""
    return Memory(memory_bytes(), available_memory_bytes())


def read_space(folder: Path, shown: str) -> Space:
    """Return the free space for a folder that need not exist yet."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return Space(shown, shutil.disk_usage(path).free)


def read_ports(names: Iterable[str], kept: Mapping[str, int]) -> Ports:
    """Return whether a stack could listen: on the ports that it had, or on others."""
    needed = list(names)
    taken = {name: port for name, port in kept.items() if name in needed and not is_free(port)}
    try:
        chosen = choose_ports(needed, kept)
    except RuntimeError:
        return Ports(len(needed), 0, taken)
    for port in chosen.values():
        release(port)  # the stack that is started after this check reserves them itself
    return Ports(len(needed), len(chosen), taken)
