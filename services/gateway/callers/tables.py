"""The keys of the API and the models of each team, as this gateway knows them."""

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
    """Returns the records of keys from memory; a change applies to the next request.

    A key that is missing in the bucket still counts: keys end by being revoked, which is a record, or by expiring. So
    an empty bucket of a new bus refuses no caller.

    A key that is revoked is saved at once; all else when the bucket has been read, which is every 2 s: a file of 1,000
    keys takes 0.1 s to write, and a gateway that starts learns all of them one by one.

    Args:
        saved: by id, from the last run; None if nothing was saved.
        save: writes all of them; None to keep them in memory only.
    """

    def __init__(self, saved: Mapping[str, ApiKey] | None, save: SaveKeys | None) -> None:
        self._keys = dict(saved or {})
        self._installed: Mapping[str, ApiKey] = {}
        self._save = save
        self._complete = saved is not None
        self._unsaved = saved is None  # also an empty bucket is saved: then a gateway without the bus knows that

    @property
    def is_complete(self) -> bool:
        """Return whether all keys are known, from the last run or from the bucket."""
        return self._complete

    def get(self, key_id: str) -> ApiKey | None:
        """Return the record of an id; None if there is none.

        Keys that the installation has from its start count once it is known which of them were revoked.
        """
        return self._keys.get(key_id) or (self._installed.get(key_id) if self._complete else None)

    def __len__(self) -> int:
        """Return how many keys are known."""
        return len(self._keys.keys() | self._installed.keys())

    def next_expiry(self, now: datetime) -> datetime | None:
        """Return when the next key that still counts expires; None if none does."""
        keys = (*self._installed.values(), *self._keys.values())
        return min(
            (key.expires_at for key in keys if key.revoked_at is None and key.expires_at and key.expires_at > now),
            default=None,
        )

    def install(self, records: Mapping[str, ApiKey]) -> None:
        """Take the keys that the installation has from its start, in place of those before.

        A record of the bucket with the same id comes first, so that they can be revoked like all others.
        """
        self._installed = dict(records)

    async def apply(self, key: str, record: ApiKey, _revision: int) -> None:
        """Apply a record from the bus; a revocation is never replaced."""
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
        """Note that the bucket was read; save the keys changed or not saved since the last time."""
        self._complete = self._complete or snapshot.identity is not None
        if self._unsaved and self._complete:
            self._save_all()

    def _save_all(self) -> None:
        """Save all keys; a failing disk ends nothing."""
        if self._save is None:
            return
        try:
            self._save(dict(self._keys))
        except OSError as error:
            structlog.get_logger().warning("keys could not be saved", error=repr(error))
        else:
            self._unsaved = False


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
        """Return the monthly limits that the keys of a team share."""
        tokens = next((listed.quota.tokens_per_month for listed in self._teams.read() if listed.name == team), None)
        return Budget(f"{TEAM_PREFIX}{team}", tokens, team)

    def cache_salt(self, team: str | None) -> str | None:
        """Return the cache salt of a team; None for keys without a team.

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
