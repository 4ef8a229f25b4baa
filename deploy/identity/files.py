"""Files of a key folder: replaced atomically, with the owner of their folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shared.runtime.files import replacing


def write_secret(path: Path, content: bytes) -> None:
    """Replace a file, readable by its owner only."""
    write_file(path, content, mode=0o600)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file atomically.

    Written by root, it gets the owner of its folder, because containers read the keys as another user.
    """
    with replacing(path) as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        give_to_owner(file.fileno(), path.parent)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create a folder if missing, by default readable by its owner only."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        give_to_owner(path, path.parent)


def give_to_owner(path: Path | int, folder: Path) -> None:
    """Change the owner of a root's file, given by path or descriptor, to its folder's owner."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of keys, against other programs and threads."""
    lock = folder / "lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(lock, folder)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
