"""The file of the index: its lock, its validity, and a bounded number of reading connections."""

import contextlib
import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import structlog

Models = tuple[str, ...] | None
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TRY_S: Final = 0.1


class IndexInUseError(RuntimeError):
    """Another process has the file of the index."""


def hold(path: Path, wait_s: float) -> IO[bytes]:
    """Return the lock of an index, which holds until it is closed or the process ends.

    Raises:
        IndexInUseError: Another process still has it after `wait_s`.
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


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error says that a file is damaged, and not that it is busy, full, or was asked wrongly."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGE


def is_current(path: Path, schema: int) -> bool:
    """Return whether a file is an intact index of a schema.

    Raises:
        sqlite3.Error: It cannot be read now, which does not show that it is damaged.
    """
    if not path.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            return bool(version == schema and connection.execute("SELECT count(*) FROM positions").fetchone())
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        structlog.get_logger().warning("the index is damaged and is built again", path=str(path), error=repr(error))
        return False


class Connections:
    """A bounded pool of reading connections; each is used by one thread at a time.

    Args:
        connect: Opens one that sees the rows about some models only.
        most: How many are open at most; a thread waits until one is free.
    """

    def __init__(self, connect: Callable[[Models], sqlite3.Connection], most: int) -> None:
        self._connect, self._most = connect, most
        self._free: list[tuple[Models, sqlite3.Connection]] = []
        self._in_use = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def borrowed(self, models: Models) -> Iterator[sqlite3.Connection]:
        """Yield a connection; it is closed if its query fails."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_use < self._most)
            self._in_use += 1
            connection = self._take(models)
        try:
            connection = connection or self._connect(models)
            yield connection
        except BaseException:
            if connection is not None:
                connection.close()
            connection = None
            raise
        finally:
            with self._changed:
                self._in_use -= 1
                if connection is not None:
                    self._free.append((models, connection))
                self._changed.notify_all()

    def _take(self, models: Models) -> sqlite3.Connection | None:
        """Return a free connection for these models; None if a new one must be opened."""
        for at, (known, connection) in enumerate(self._free):
            if known == models:
                del self._free[at]
                return connection
        if self._free and self._in_use + len(self._free) > self._most:
            self._free.pop(0)[1].close()
        return None

    def close(self) -> None:
        """Close all connections, once none is in use."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_use == 0)
            while self._free:
                self._free.pop()[1].close()
