"""Files of a key folder: replaced at once, and owned by who owns their folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shared.runtime.files import replacing


def write_secret(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read."""
    write_file(path, content, mode=0o600)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file at once, so that a program which dies leaves the old one or the new one.

    Written by root, it belongs to the owner of its folder: containers read the keys as another user.
    """
    with replacing(path) as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        give_to_owner(file.fileno(), path.parent)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, unless it exists; only its owner may read it if no other mode is given."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        give_to_owner(path, path.parent)


def give_to_owner(path: Path | int, folder: Path) -> None:
    """Change the owner of a file that root made, given by its path or descriptor, to that of its folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of keys: other programs, and other threads, wait until it is released."""
    lock = folder / "lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(lock, folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
