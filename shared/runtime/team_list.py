"""The teams in the file written by `slipway keys`, read again when it changes."""

from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.teams import Team
from shared.runtime.clock import Clock

_TEAMS = TypeAdapter(tuple[Team, ...])


class TeamList:
    """The teams in a file, which is read again at a use after it changed.

    Args:
        path: `trust/teams.json` of a folder of keys; None without teams.
        clock: measures `every_s`.
        every_s: minimum seconds between two checks for a change.
    """

    def __init__(self, path: Path | None, clock: Clock, *, every_s: float = 0.0) -> None:
        self._path, self._clock, self._every_s = path, clock, every_s
        self._teams: tuple[Team, ...] = ()
        self._seen: tuple[int, int] | None = None
        self._checked_s = -every_s

    def require(self) -> "TeamList":
        """Return this list, read.

        Raises:
            SystemExit: The file cannot be read, so its restrictions are unknown.
        """
        self.read()
        if self._path is not None and self._seen is None:
            raise SystemExit(f"{self._path} (SLIPWAY_TEAMS) cannot be read: write it with `slipway keys init`.")
        return self

    def read(self) -> tuple[Team, ...]:
        """Return the teams; the last known ones while the file cannot be read."""
        now_s = self._clock.monotonic()
        if self._path is not None and now_s - self._checked_s >= self._every_s:
            self._checked_s = now_s
            self._refresh(self._path)
        return self._teams

    def _refresh(self, path: Path) -> None:
        try:
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns)
            if version != self._seen:
                self._teams, self._seen = _TEAMS.validate_json(path.read_bytes()), version
        except (OSError, ValidationError) as error:
            structlog.get_logger().error("the list of teams cannot be read", path=str(path), error=repr(error))
