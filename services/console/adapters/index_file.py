"""The index file: its lock, and the check that it is intact."""

import contextlib
import fcntl
import sqlite3
import time
from pathlib import Path
from typing import IO, Final

import structlog

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TRY_S: Final = 0.1


class IndexInUseError(RuntimeError):
    """Another process holds the index file."""


def hold(path: Path, wait_s: float) -> IO[bytes]:
    """Lock an index and return the lock; it holds until closed or until the process ends.

    Raises:
        IndexInUseError: Another process holds the lock after `wait_s` seconds.
    """
    lock = Path(f"{path}.lock").open("ab")  # noqa: SIM115 - it stays open as long as the index
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_TRY_S)
                continue
            lock.close()
            msg = f"another process has had the index {path} for {wait_s:g} s: give each console a CONSOLE_INDEX"
            raise IndexInUseError(msg) from error
        return lock


def is_current(path: Path, schema: int) -> bool:
    """Return whether a file is an intact index of this schema version.

    Raises:
        sqlite3.Error: The file cannot be read now, but may be intact.
    """
    if not path.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != schema:
                return False
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF not in _DAMAGE:
            raise
        problem = repr(error)
    if problem != "ok":
        structlog.get_logger().warning("the index is damaged and is built again", path=str(path), error=problem)
    return bool(problem == "ok")
