"""Folders in memory, for the files of servers that tests start again and again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 2 * 1024**3
"""Else the folder is on the disk: what is in memory must leave enough of it to the tests."""
PREFIX = "slipway-tests-"


@contextmanager
def memory_folder(otherwise: Path, memory: Path = MEMORY) -> Iterator[Path]:
    """Yield an empty folder in memory, which is removed at the end; a folder on the disk where memory is scarce."""
    remove_abandoned(memory)
    if not has_space(memory):
        yield otherwise
        return
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def has_space(memory: Path) -> bool:
    """Return whether there is a file system in memory that takes more."""
    try:
        space = os.statvfs(memory)
    except OSError:
        return False
    return os.access(memory, os.W_OK) and space.f_bavail * space.f_frsize >= LEAST_FREE_BYTES


def remove_abandoned(memory: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in memory.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
