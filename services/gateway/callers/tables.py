"""In-memory tables of API keys, and of the models and budgets of teams."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import structlog

from contracts.api_keys import ApiKey
from contracts.api_usage import TEAM_PREFIX
from decisions.access.teams import models_of
from services.gateway.callers.budgets import Budget
from shared.runtime.clock import Clock
from shared.runtime.team_list import TeamList
from shared.storage.kv import Snapshot

SaveKeys = Callable[[dict[str, ApiKey]], None]
_AGAIN_S = 1.0


class KeyTable:
    """API keys in memory; a change applies to the next request.

    A key missing in the bucket stays valid until it expires or a record revokes it, so an empty bucket of a new bus
    refuses no caller.

    A revocation is saved at once; other changes after each reading of the bucket, every 2 s, because writing 1,000
    keys takes 0.1 s and a starting gateway receives keys one by one.

    Args:
        saved: records by id, from the last run; None if nothing was saved.
        save: writes all records; None to keep them in memory only.
    """

    def __init__(self, saved: Mapping[str, ApiKey] | None, save: SaveKeys | None) -> None:
        self._keys = dict(saved or {})
        self._installed: Mapping[str, ApiKey] = {}
        self._save = save
        self._complete = saved is not None
        self._unsaved = saved is None  # an empty bucket is saved, too, as known to be empty

    @property
    def is_complete(self) -> bool:
        """Return whether all keys are known, from the last run or from the bucket."""
        return self._complete

    def get(self, key_id: str) -> ApiKey | None:
        """Return the record of an id; None if there is none.

        Initial keys are valid only once all records are known: one may be revoked.
        """
        return self._keys.get(key_id) or (self._installed.get(key_id) if self._complete else None)

    def __len__(self) -> int:
        """Return the number of known keys."""
        return len(self._keys.keys() | self._installed.keys())

    def next_expiry(self, now: datetime) -> datetime | None:
        """Return the earliest expiry of a valid key; None if none expires."""
        keys = (*self._installed.values(), *self._keys.values())
        return min(
            (key.expires_at for key in keys if key.revoked_at is None and key.expires_at and key.expires_at > now),
            default=None,
        )

    def install(self, records: Mapping[str, ApiKey]) -> None:
        """Replace the installation's initial keys.

        A record in the bucket takes precedence, so that initial keys can be revoked, too.
        """
        self._installed = dict(records)

    async def apply(self, key: str, record: ApiKey, _revision: int) -> None:
        """Apply a record from the bus; revocations are final."""
        log = structlog.get_logger().bind(key=key, name=record.name)
        known = self._keys.get(key)
        if record.key_id != key:
            log.error("key ignored: it is stored under the id of another key")
            return
        if known == record:
            return
        if known is not None and known.revoked_at is not None and record.revoked_at is None:
            log.error("key ignored: it was revoked before; issue another one")
            return
        self._keys[key] = record
        self._unsaved = True
        log.info("key revoked" if record.revoked_at is not None else "key known")
        if known is not None and record.revoked_at is not None:
            self._save_all()

    async def note_bucket(self, snapshot: Snapshot) -> None:
        """Mark the keys as complete after a reading of the bucket, and save unsaved changes."""
        self._complete = self._complete or snapshot.identity is not None
        if self._unsaved and self._complete:
            self._save_all()

    def _save_all(self) -> None:
        """Save all keys; a disk error is logged, and the next call tries again."""
        if self._save is None:
            return
        try:
            self._save(dict(self._keys))
        except OSError as error:
            structlog.get_logger().warning("keys could not be saved", error=repr(error))
        else:
            self._unsaved = False


class TeamTable:
    """The models and budgets of teams. A changed file is read again, at most every second.

    Args:
        path: `trust/teams.json` of a folder of keys; None: no team is known, and team keys open no model.
        secret: input of the cache salts.
        clock: limits how often the file is checked.
    """

    def __init__(self, path: Path | None, secret: bytes, clock: Clock) -> None:
        self._teams, self._secret = TeamList(path, clock, every_s=_AGAIN_S), secret

    def opens(self, team: str, model: str) -> bool:
        """Return whether a model belongs to a team."""
        return model in models_of(team, self._teams.read())

    def budget(self, team: str) -> Budget:
        """Return the monthly limit shared by the keys of a team."""
        tokens = next((listed.quota.tokens_per_month for listed in self._teams.read() if listed.name == team), None)
        return Budget(f"{TEAM_PREFIX}{team}", tokens, team)

    def cache_salt(self, team: str | None) -> str | None:
        """Return the cache salt of a team; None without a team.

        Callers can neither know nor send a salt: requests with a field `cache_salt` are refused.
        """
        return hmac.new(self._secret, team.encode(), hashlib.sha256).hexdigest() if team is not None else None


def load_secret(path: Path) -> bytes:
    """Return the secret in a file; the first process creates it (32 random bytes)."""
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
