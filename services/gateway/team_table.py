"""Which models belong to which team, from the file that `slipway keys` keeps, and the salts of their prefix caches."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from contracts.teams import Team
from decisions.teams import models_of
from shared.runtime.clock import Clock

_TEAMS = TypeAdapter(tuple[Team, ...])
_AGAIN_S = 1.0


class TeamTable:
    """The models of each team. The file is read again when it changed, at most every second.

    Args:
        path: `trust/teams.json` of a folder of keys; None: no team is known, and a key of a team opens nothing.
        secret: what salts are derived from.
        clock: limits how often the file is looked at.
    """

    def __init__(self, path: Path | None, secret: bytes, clock: Clock) -> None:
        self._path, self._secret, self._clock = path, secret, clock
        self._teams: tuple[Team, ...] = ()
        self._seen: tuple[int, int] | None = None
        self._checked_s = -_AGAIN_S

    def opens(self, team: str, model: str) -> bool:
        """Return whether a model belongs to a team."""
        self._refresh()
        return model in models_of(team, self._teams)

    def cache_salt(self, team: str | None) -> str | None:
        """Return what the engine keeps cached prefixes of a team apart by; None for keys without a team.

        Callers cannot know it or send it: a request with a field `cache_salt` is refused.
        """
        return hmac.new(self._secret, team.encode(), hashlib.sha256).hexdigest() if team is not None else None

    def _refresh(self) -> None:
        now_s = self._clock.monotonic()
        if self._path is None or now_s - self._checked_s < _AGAIN_S:
            return
        self._checked_s = now_s
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns)
            if version != self._seen:
                self._teams, self._seen = _TEAMS.validate_json(self._path.read_bytes()), version
        except (OSError, ValidationError) as error:  # what was known counts
            structlog.get_logger().error("the list of teams cannot be read", path=str(self._path), error=repr(error))


def load_secret(path: Path) -> bytes:
    """Return the secret in a file, which the first of several processes makes."""
    if not path.is_file():
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            partial.unlink()
    return path.read_bytes()
