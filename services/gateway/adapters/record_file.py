"""Saves the last known records in a file, so that a gateway that starts without the bus can serve."""

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from shared.storage.record_format import dump_all, parse_all

M = TypeVar("M", bound=BaseModel)


class RecordFile(Generic[M]):
    """One JSON file, for this user only, that is replaced atomically.

    With a reserve, records are written though the disk is full: its space is given up for them.
    """

    def __init__(self, path: Path, kind: type[M], *, reserve_bytes: int = 0) -> None:
        self._path = path
        self._kind = kind
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._reserve_bytes = reserve_bytes
        self._keep_reserve()

    @property
    def exists(self) -> bool:
        """Return whether records were saved, also if there were none."""
        return self._path.is_file()

    def load(self) -> dict[str, M]:
        """Return the saved records; none if the file does not exist or is not valid, nor those of a newer version."""
        try:
            return parse_all(self._kind, self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            structlog.get_logger().warning("saved records are not usable", path=str(self._path), error=repr(error))
            return {}

    def save(self, records: dict[str, M]) -> None:
        """Write the records; a reader sees either the old or the new file, also after a loss of power."""
        try:
            self._replace(records)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._give_up_reserve():
                raise
            self._replace(records)
        self._keep_reserve()

    def _keep_reserve(self) -> None:
        """Take the space of the reserve unless it is there; on a full disk there is none.

        It has its name only once it is complete: a process that is killed in between leaves a partial file, which the
        next one takes over.
        """
        if not self._reserve_bytes or self._has_reserve():
            return
        partial = self._reserve.with_name(f"{self._reserve.name}.partial")
        with contextlib.suppress(OSError):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
                partial.replace(self._reserve)
            except OSError:
                partial.unlink()
            finally:
                os.close(descriptor)

    def _has_reserve(self) -> bool:
        """Return whether the reserve is there, with all its space."""
        try:
            return self._reserve.stat().st_size >= self._reserve_bytes
        except OSError:
            return False

    def _give_up_reserve(self) -> bool:
        """Return whether the reserve was there; its space is free now."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def _replace(self, records: dict[str, M]) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # of mode 600
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(dump_all(records))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @property
    def version(self) -> tuple[int, int]:
        """Return what differs whenever another file was written; zeros if there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file's lock, which processes that change what they read must hold."""
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
