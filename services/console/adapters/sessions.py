"""Sessions of signed-in people, kept on the server; a browser holds only a random value.

The file also records who acknowledged which incident, independently of the index.
"""

import contextlib
import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from shared.runtime.clock import Clock

LONGEST: Final = timedelta(hours=12)
"""Maximum age of a session."""
IDLE: Final = timedelta(hours=2)
"""Time without use after which a session ends."""
MOST: Final = 10_000


@dataclass(frozen=True)
class Session:
    """A session's person, and the CSRF token that each of its orders must carry."""

    person: str
    csrf: str


class Sessions:
    """Sessions in an SQLite file readable by its owner only; it stores digests of the browsers' values.

    Args:
        path: The file.
        clock: Clock for the end of sessions.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._clock = clock
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, person TEXT, csrf TEXT, expires REAL, seen REAL)"
        )
        self._file.execute("CREATE TABLE IF NOT EXISTS used (nonce TEXT PRIMARY KEY, expires REAL)")
        self._file.execute("CREATE TABLE IF NOT EXISTS acknowledged (incident TEXT PRIMARY KEY, person TEXT, at REAL)")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def begin(self, person: str, former: str | None = None) -> str:
        """Begin a session and return the value for the browser; end the former session."""
        value, now = secrets.token_urlsafe(32), self._now()
        with self._locked() as file:
            if former is not None:
                file.execute("DELETE FROM sessions WHERE id = ?", (_digest(former),))
            file.execute("DELETE FROM sessions WHERE expires < ? OR seen < ?", (now, now - IDLE.total_seconds()))
            newest = "SELECT id FROM sessions ORDER BY seen DESC LIMIT ?"
            file.execute(f"DELETE FROM sessions WHERE id NOT IN ({newest})", (MOST - 1,))  # noqa: S608 - a text of ours
            row = (_digest(value), person, secrets.token_urlsafe(24), now + LONGEST.total_seconds(), now)
            file.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)
        return value

    def find(self, value: str | None, *, use: bool = True) -> Session | None:
        """Return the session of a browser's value; None if unknown or ended. With `use`, extend its idle time."""
        if value is None or len(value) > 100:
            return None
        now, id_ = self._now(), _digest(value)
        with self._locked() as file:
            record = file.execute("SELECT person, csrf, expires, seen FROM sessions WHERE id = ?", (id_,)).fetchone()
            if record is None or record[2] < now or record[3] < now - IDLE.total_seconds():
                return None
            if use and now - record[3] > 60:
                file.execute("UPDATE sessions SET seen = ? WHERE id = ?", (now, id_))
        return Session(record[0], record[1])

    def end(self, value: str | None) -> None:
        """End a session."""
        with self._locked() as file:
            file.execute("DELETE FROM sessions WHERE id = ?", (_digest(value or ""),))

    def tokens(self) -> set[str]:
        """Return the CSRF tokens of all stored sessions."""
        with self._locked() as file:
            return {csrf for (csrf,) in file.execute("SELECT csrf FROM sessions")}

    def use_once(self, nonce: str, expires_at: datetime) -> bool:
        """Return whether a value is used for the first time; it is stored until it expires."""
        with self._locked() as file:
            file.execute("DELETE FROM used WHERE expires < ?", (self._now() - 60,))
            row = (hashlib.sha256(nonce.encode()).hexdigest(), expires_at.timestamp())
            return file.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", row).rowcount == 1

    def acknowledge(self, incident: str, person: str) -> None:
        """Record the first acknowledgement of an incident; only the newest `MOST` are kept."""
        with self._locked() as file:
            file.execute("INSERT OR IGNORE INTO acknowledged VALUES (?, ?, ?)", (incident, person, self._now()))
            newest = "SELECT incident FROM acknowledged ORDER BY at DESC LIMIT ?"
            file.execute(f"DELETE FROM acknowledged WHERE incident NOT IN ({newest})", (MOST,))  # noqa: S608 - a text of ours

    def acknowledged(self, incidents: Sequence[str]) -> dict[str, str]:
        """Return author and time by acknowledged incident: `anna at 2026-11-27 03:12 UTC`."""
        query = "SELECT incident, person, at FROM acknowledged WHERE incident IN (SELECT value FROM json_each(?))"
        with self._locked() as file:
            entries = file.execute(query, (json.dumps(incidents),)).fetchall()
        times = {key: datetime.fromtimestamp(at, tz=UTC) for key, _, at in entries}
        return {key: f"{person} at {times[key]:%Y-%m-%d %H:%M} UTC" for key, person, _ in entries}

    def _now(self) -> float:
        return self._clock.now().timestamp()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
            finally:
                self._file.execute("COMMIT")


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
