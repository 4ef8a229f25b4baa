"""Initial API keys of an installation: of rehearsals, and of the administrator of an embedded stack.

`api/NAME.key` is a key. `gateway/api-keys.json` has the records with digests, so the gateway accepts these keys without
the bus.
"""

import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from contracts.api_keys import ApiKey
from contracts.vocabulary import Environment
from decisions.access.api_keys import ID_BYTES, SECRET_BYTES, digest_of_secret, format_key, parse_key
from deploy.identity.files import make_folder, write_file, write_secret
from shared.storage.record_format import dump_all, parse_all

REHEARSALS: Final = "rollback-controller"
"""The bearer of the key for rehearsals, which is valid in staging only."""


class ApiKeyFiles:
    """The part of a folder of keys for the API. Its owner holds the folder's lock while it changes."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of keys; `prepare` creates missing ones."""
        self._folder = folder

    @property
    def listing(self) -> Path:
        """The file with the records of these keys, for the gateway."""
        return self._folder / "gateway" / "api-keys.json"

    def key_file(self, name: str) -> Path:
        """Return the file with a bearer's key."""
        return self._folder / "api" / f"{name}.key"

    def entries(self) -> dict[str, ApiKey]:
        """Return the records of these keys, by id."""
        return parse_all(ApiKey, self.listing.read_bytes(), str(self.listing)) if self.listing.is_file() else {}

    def prepare(self, now: datetime) -> None:
        """Create the key for rehearsals if missing."""
        make_folder(self.key_file("").parent)
        make_folder(self.listing.parent)
        self.ensure(REHEARSALS, ["staging"], now)

    def ensure(self, name: str, environments: Iterable[Environment], now: datetime) -> None:
        """Create a key for a bearer without a valid one, in place of an earlier key."""
        entries = self.entries()
        if self._counts(name, entries):
            return
        secret = secrets.token_hex(SECRET_BYTES)
        record = ApiKey(
            key_id=secrets.token_hex(ID_BYTES),
            name=name,
            secret_digest=digest_of_secret(secret),
            environments=tuple(environments),
            issued_at=now,
            issued_by="slipway keys init",
        )
        kept = {key_id: entry for key_id, entry in entries.items() if entry.name != name}
        write_file(self.listing, dump_all({**kept, record.key_id: record}) + b"\n")
        write_secret(self.key_file(name), f"{format_key(record.key_id, secret)}\n".encode())

    def _counts(self, name: str, entries: dict[str, ApiKey]) -> bool:
        """Return whether the key in a bearer's file is listed."""
        file = self.key_file(name)
        presented = parse_key(file.read_text().strip()) if file.is_file() else None
        if presented is None or presented.key_id not in entries:
            return False
        return entries[presented.key_id].secret_digest == digest_of_secret(presented.secret)
