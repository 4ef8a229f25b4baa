"""Reads a folder written by a process that parses files from outside; it may hold links to anywhere."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shared.errors import Permanent

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without blocking: to open a pipe would wait for its writer."""


def list_files(folder: Path) -> list[tuple[str, int]]:
    """Return the relative path and the size in bytes of each file in a folder and below, in order of their paths.

    Raises:
        Permanent: `engine_failed` if something in it is neither a regular file nor a folder.
        OSError: The folder itself is not one, or is a link.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        return sorted(_walk(descriptor, ""), key=lambda file: Path(file[0]))
    finally:
        os.close(descriptor)


def _walk(descriptor: int, prefix: str) -> Iterator[tuple[str, int]]:
    for name in os.listdir(descriptor):
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with _opened(name, _FOLDER, descriptor, prefix + name) as inner:
                yield from _walk(inner, f"{prefix}{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield prefix + name, status.st_size
        else:
            raise _refusal(prefix + name)


@contextmanager
def open_file(folder: Path, path: str) -> Iterator[BinaryIO]:
    """Open a file by its path below a folder, without following a link at any part of it.

    Raises:
        Permanent: `engine_failed` if it is not a regular file, or a part of its path is a link.
        OSError: The folder itself is not one, or is a link.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        *parents, name = Path(path).parts
        for parent in parents:
            inner = _open(parent, _FOLDER, descriptor, path)
            os.close(descriptor)
            descriptor = inner
        with os.fdopen(_open(name, _FILE, descriptor, path), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal(path)
            yield file
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, flags: int, parent: int, path: str) -> Iterator[int]:
    descriptor = _open(name, flags, parent, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str, flags: int, parent: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:  # ELOOP, ENOTDIR: a link; ENXIO: a socket; ENOENT: it was taken away
        raise _refusal(path) from error


def _refusal(path: str) -> Permanent:
    return Permanent("engine_failed", f"{path[:200]!r} in the folder of results is not a regular file; it is not read.")
