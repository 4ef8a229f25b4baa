"""The index: rows derived from the event log, in an SQLite file that can be rebuilt from the log."""

import contextlib
import copy
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from contracts.vocabulary import MODEL_NAME_PATTERN
from services.console.adapters.index_file import hold, is_current
from services.console.domain.rows import SCHEMA, TABLES, Row, Scalar

_INDEXES: Final = (
    "CREATE INDEX events_at ON events (at DESC, stream, sequence)",
    "CREATE INDEX events_model ON events (model, at DESC)",
    "CREATE INDEX events_correlation ON events (correlation)",
    "CREATE INDEX events_about ON events (about)",
    "CREATE INDEX events_id ON events (id)",
    "CREATE INDEX events_sender ON events (sender, at DESC)",
    "CREATE INDEX releases_opened ON releases (opened_at DESC)",
    "CREATE INDEX releases_model ON releases (model, opened_at DESC)",
    "CREATE INDEX releases_state_at ON releases (state_at DESC)",
    "CREATE INDEX refused_checkpoints_at ON refused_checkpoints (at DESC)",
    "CREATE INDEX deployments_at ON deployments (at DESC)",
    "CREATE INDEX alerts_state ON alerts (state, model)",
    "CREATE INDEX alerts_raised ON alerts (raised_at DESC)",
    "CREATE INDEX alerts_model ON alerts (model, raised_at DESC)",
    "CREATE INDEX drills_model ON drills (model, at DESC)",
    "CREATE INDEX rollbacks_model ON rollbacks (model, at DESC)",
    "CREATE INDEX rollbacks_at ON rollbacks (at DESC)",
    "CREATE INDEX rollbacks_cause ON rollbacks (cause_id)",
    "CREATE INDEX windows_ended ON windows (model, ended_at)",
)
WINDOWS_KEPT: Final = 720
"""Newest windows kept per target (six hours of 30 s each), besides those during a canary. The log has all."""


class Index:
    """Reads and writes the index. One thread writes; any number of threads read the last commit.

    Args:
        path: The index file. A damaged file or another schema is replaced by an empty index.
        wait_s: Seconds to wait for another process to release the file.

    Raises:
        IndexInUseError: Another process holds the file.
    """

    limits: tuple[str, ...] = ()
    """Statements that limit what a connection reads."""

    def __init__(self, path: Path, wait_s: float = 10.0) -> None:
        self._path = path
        self._writing = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = hold(path, wait_s)
        if not is_current(path, SCHEMA):
            self._create()
        self._writer = self._connect()
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = NORMAL")  # rows lost in a crash are read from the log again

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    def _create(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            for statement in (*_tables(), *_INDEXES):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA}")  # last: a file without it is recreated
            connection.commit()

    def close(self) -> None:
        """Close the file."""
        with self._writing:
            self._writer.close()
        self._lock.close()

    def clear(self) -> None:
        """Remove all rows and positions."""
        with self._writing, self._transaction():
            for table in (*TABLES, "positions"):
                self._writer.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours

    def positions(self) -> dict[str, tuple[int, str]]:
        """Return the last indexed sequence number and the identity of each stream."""
        entries = self.read("SELECT stream, sequence, identity FROM positions")
        return {entry["stream"]: (entry["sequence"], entry["identity"]) for entry in entries}

    def write(self, stream: str, sequence: int, identity: str, rows: Iterable[tuple[int, Row]]) -> None:
        """Write rows with their events' sequence numbers and the stream's position, in one transaction."""
        with self._writing, self._transaction():
            self._insert(stream, sequence, identity, rows)

    def _insert(self, stream: str, sequence: int, identity: str, rows: Iterable[tuple[int, Row]]) -> None:
        pruned: set[tuple[Scalar, ...]] = set()
        for at, row in rows:
            self._writer.execute(_UPSERTS[row.table], (*row.key, *row.values, at))
            if row.table == "windows":
                pruned.add(row.key[:2])
        for model, target in pruned:
            self._writer.execute(_PRUNE, (model, target, model, target, WINDOWS_KEPT - 1))
        self._writer.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (stream, sequence, identity))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def read(self, query: str, values: Sequence[Scalar] | Mapping[str, Scalar] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        with contextlib.closing(self._connect()) as connection:
            for view in self.limits:
                connection.execute(view)
            return [dict(entry) for entry in connection.execute(query, values)]

    def about(self, models: Sequence[str]) -> Self:
        """Return a reader limited to rows about these models.

        Temporary views replace all tables on its connections, so that no query can return rows about other models.
        """
        reader = copy.copy(self)
        reader.limits = tuple(_views(sorted(models)))
        return reader


def _views(models: Sequence[str]) -> Iterator[str]:
    """Yield the statements that create the views; SQLite resolves temporary names first."""
    unsafe = [model for model in models if not re.fullmatch(MODEL_NAME_PATTERN, model)]
    if unsafe:
        msg = f"{unsafe} are no names of models"
        raise ValueError(msg)
    names = ", ".join(f"'{model}'" for model in models)
    for table, (keys, others) in TABLES.items():
        where = f"model IN ({names})"
        if "model" not in (*keys, *others):
            where = f"release_id IN (SELECT release_id FROM main.releases WHERE model IN ({names}))"  # noqa: S608 - names of models
        yield f"CREATE TEMP VIEW {table} AS SELECT * FROM main.{table} WHERE {where}"  # noqa: S608 - names of ours


def _tables() -> Iterator[str]:
    for table, (keys, others) in TABLES.items():
        columns = ", ".join((*keys, *others, "seq INTEGER NOT NULL"))
        layout = "" if "body" in others else " WITHOUT ROWID"  # bodies are too large for WITHOUT ROWID
        yield f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({', '.join(keys)})){layout}"
    yield "CREATE TABLE positions (stream TEXT PRIMARY KEY, sequence INTEGER NOT NULL, identity TEXT NOT NULL)"


def _upsert(table: str) -> str:
    keys, others = TABLES[table]
    columns = (*keys, *others, "seq")
    changed = ", ".join(f"{name} = excluded.{name}" for name in (*others, "seq"))
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - names of ours
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed} WHERE excluded.seq >= {table}.seq"
    )


_UPSERTS: Final = {table: _upsert(table) for table in TABLES}
_PRUNE: Final = (
    "DELETE FROM windows WHERE model = ? AND target = ? AND ended_at < "
    "(SELECT ended_at FROM windows WHERE model = ? AND target = ? ORDER BY ended_at DESC LIMIT 1 OFFSET ?) "
    "AND NOT EXISTS (SELECT 1 FROM deployments AS d WHERE d.model = windows.model AND d.canary IS NOT NULL "
    "AND d.at < windows.ended_at AND coalesce((SELECT later.at FROM deployments AS later WHERE later.model = d.model "
    "AND later.sequence > d.sequence ORDER BY later.sequence LIMIT 1), '9') "
    "> strftime('%Y-%m-%dT%H:%M:%fZ', windows.ended_at, '-60 seconds'))"
)
"""Deletes old windows, except those during a canary and the window open at its end."""
