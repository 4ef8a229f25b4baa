"""Gathers facts about this machine: reads memory and file systems; changes nothing."""

import shutil
from pathlib import Path

from clients.cli.doctor.assess import Memory, Space
from shared.runtime.process import available_memory_bytes, memory_bytes

SHM = Path("/dev/shm")  # noqa: S108 - only its free space is read


def read_memory() -> Memory:
    """Return the memory limit of this process (container or machine), and the available memory, in bytes."""
    return Memory(memory_bytes(), available_memory_bytes())


def read_space(folder: Path, shown: str) -> Space:
    """Return the free space for a folder that need not exist yet."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return Space(shown, shutil.disk_usage(path).free)
