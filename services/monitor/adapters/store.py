"""Drift references (`references/<model>/<target>/<number>.json`, immutable) and signed policies in the store."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from contracts.vocabulary import ArtifactRef, Contract, Instant, Target
from services.monitor.domain.record import Reference
from shared.errors import Permanent
from shared.provenance.envelopes import Trust
from shared.provenance.signed_versions import SignedPolicy, read_policy
from shared.runtime.settings import Connection
from shared.storage.blobs import Store

Columns = Mapping[str, Sequence[float]]
_NUMBERED = re.compile(r"/(\d{6})\.json$")


class ReferenceWindow(Contract):
    """The stored form of a drift reference: feature values by column."""

    kind: str = "reference"
    target: Target
    version: int
    taken_at: Instant
    source: str
    columns: dict[str, list[float]]


class StoredReferences:
    """Drift references in the store (implements `ports.References`)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def latest(self, target: Target) -> Reference | None:
        """Return the newest reference of a target; None without one."""
        return await asyncio.to_thread(self._latest, target)

    async def put(self, target: Target, columns: Columns, *, taken_at: datetime, source: str) -> Reference:
        """Store a window as the target's next reference; return the stored one, maybe another process's."""
        return await asyncio.to_thread(self._put, target, columns, taken_at, source)

    async def rows(self, reference: Reference) -> dict[str, list[float]]:
        """Return a reference's verified rows by column."""
        return (await asyncio.to_thread(self._read, reference.ref)).columns

    def _latest(self, target: Target) -> Reference | None:
        numbers = [int(match[1]) for key in self._store.keys(_prefix(target)) if (match := _NUMBERED.search(key))]
        if not numbers:
            return None
        ref = self._store.ref_to(_key(target, max(numbers)))
        return _described(ref, self._read(ref))

    def _put(self, target: Target, columns: Columns, taken_at: datetime, source: str) -> Reference:
        before = self._latest(target)
        version = before.version + 1 if before else 1
        window = ReferenceWindow(
            target=target,
            version=version,
            taken_at=taken_at,
            source=source,
            columns={name: list(values) for name, values in columns.items()},
        )
        ref, created = self._store.put_manifest(_key(target, version), window)
        return _described(ref, window if created else self._read(ref))

    def _read(self, ref: ArtifactRef) -> ReferenceWindow:
        data = self._store.get(ref)
        try:
            return ReferenceWindow.model_validate_json(data)
        except ValidationError as error:
            raise Permanent("digest_mismatch", f"{ref.uri} is not a reference window: {error}.") from error


class SignedPolicies:
    """Policies in the store's signed manifests (implements `ports.Policies`)."""

    def __init__(self, store: Store, connection: Connection) -> None:
        """Set the store, and the settings with the list of trusted keys."""
        self._store, self._connection = store, connection

    async def read(self, model: str, version: int) -> SignedPolicy | str:
        """Return a version's signed policy; else a sentence with the reason."""
        try:
            trust = Trust.from_settings(self._connection)
        except ValueError as error:
            return str(error)
        return await asyncio.to_thread(read_policy, self._store, trust, model, version)


def _described(ref: ArtifactRef, window: ReferenceWindow) -> Reference:
    rows = max((len(values) for values in window.columns.values()), default=0)
    fields: dict[str, Any] = {"version": window.version, "taken_at": window.taken_at, "source": window.source}
    return Reference(rows=rows, ref=ref, **fields)


def _prefix(target: Target) -> str:
    return f"references/{target.model}/{target}/"


def _key(target: Target, version: int) -> str:
    return f"{_prefix(target)}{version:06d}.json"
