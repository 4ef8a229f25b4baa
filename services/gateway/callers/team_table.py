"""Which models belong to which team, from the file that `slipway keys` keeps, and the salts of their prefix caches."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from contracts.api_usage import TEAM_PREFIX
from decisions.access.teams import models_of
from services.gateway.callers.budgets import Budget
from shared.runtime.clock import Clock
from shared.runtime.team_list import TeamList

_AGAIN_S = 1.0


class TeamTable:
    """The models of each team. The file is read again when it changed, at most every second.

    Args:
        path: `trust/teams.json` of a folder of keys; None: no team is known, and a key of a team opens nothing.
        secret: what salts are derived from.
        clock: limits how often the file is looked at.
    """

    def __init__(self, path: Path | None, secret: bytes, clock: Clock) -> None:
        self._teams, self._secret = TeamList(path, clock, every_s=_AGAIN_S), secret

    def opens(self, team: str, model: str) -> bool:
        """Return whether a model belongs to a team."""
        return model in models_of(team, self._teams.read())

    def budget(self, team: str) -> Budget:
        """Return what the keys of a team may use together in a month."""
        tokens = next((listed.quota.tokens_per_month for listed in self._teams.read() if listed.name == team), None)
        return Budget(f"{TEAM_PREFIX}{team}", tokens, team)

    def cache_salt(self, team: str | None) -> str | None:
        """Return what the engine keeps cached prefixes of a team apart by; None for keys without a team.

        Callers cannot know it or send it: a request with a field `cache_salt` is refused.
        """
        return hmac.new(self._secret, team.encode(), hashlib.sha256).hexdigest() if team is not None else None


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
