"""Objects under lock in a bucket that was made for it: retention, versions, and which version readers read."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from minio.commonconfig import COMPLIANCE, GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention as S3Retention
from pydantic import ValidationError

from contracts.manifests import VersionLock
from contracts.vocabulary import Digest
from shared.errors import Permanent
from shared.storage.blobs import Store
from shared.storage.objects import Retention

_MODES = {"governance": GOVERNANCE, "compliance": COMPLIANCE}
_NO_RETENTION = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")
"""Codes that servers answer for a version that is not retained: S3's own, and SeaweedFS's."""
_ASKED_AGAIN_S = 300.0
"""After how long a bucket that could not lock is asked again."""
_RECORD = re.compile(r"versions/[^/]+/[0-9]+/locks/[0-9]{6}\.json", re.ASCII)
NO_LOCK = (
    "The bucket {bucket} was made without object lock: who may delete in the store can delete promoted versions and "
    "the audit log. Switch on versioning and object lock of the bucket, or make a new one, as docs/operations.md says; "
    "until then everything goes on without."
)


def lock_key(model: str, version: int, number: int) -> str:
    """Return where the record of a version's locked objects is, from 1."""
    return f"{lock_prefix(model, version)}{number:06d}.json"


def lock_prefix(model: str, version: int) -> str:
    """Return where the records of a version's locked objects are."""
    return f"versions/{model}/{version}/locks/"


@dataclass(frozen=True)
class Locks:
    """The records of a version's locked objects, the first first.

    Attributes:
        own: The records themselves: of each its key and the version that was written first, which counts.
        last: The highest number of a record, also of one that cannot be read.
    """

    records: tuple[VersionLock, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    last: int = 0

    @property
    def pins(self) -> dict[str, tuple[str, ...]]:
        """Return the versions that are read of each object, in the order in which they count."""
        pins: dict[str, tuple[str, ...]] = {key: (version,) for key, version in self.own.items()}
        for each in (each for record in self.records for each in record.objects):
            if each.version_id not in pins.get(each.key, ()):
                pins[each.key] = (*pins.get(each.key, ()), each.version_id)
        return pins


def read_locks(store: Store, model: str, version: int) -> Locks:
    """Return the records of a version's locked objects. One that cannot be read is left out.

    Raises:
        Transient: `store_unavailable`.
    """
    own: dict[str, str] = {}
    for each in store.versions(lock_prefix(model, version)):
        if not each.marker and _RECORD.fullmatch(each.key):
            own.setdefault(each.key, each.version_id)
    pinned = store.pinned({key: (version_id,) for key, version_id in own.items()})
    records = []
    for key in sorted(own):
        try:
            record = VersionLock.model_validate_json(pinned.find(key) or b"")
        except ValidationError as error:
            structlog.get_logger().warning("a record of locked objects cannot be read", key=key, error=str(error))
            continue
        if key == lock_key(model, version, record.number) and (record.model, record.version) == (model, version):
            records.append(record)
    last = max((int(key[-11:-5]) for key in own), default=0)
    return Locks(tuple(records), own, last)


def pin_version(store: Store, model: str, version: int) -> Store:
    """Return a store that reads a version's objects as they were locked; as they are where none is locked.

    Raises:
        Transient: `store_unavailable`.
    """
    try:
        return store.pinned(read_locks(store, model, version).pins)
    except Permanent as error:  # of a store without versions, or of permissions of an older version
        structlog.get_logger().warning("locked versions cannot be listed", model=model, version=version, why=str(error))
        return store


class LockingStore(Store):
    """The store for the one service that sets retentions."""

    _why: str | None = None
    _asked_at: float | None = None

    def why_unlocked(self) -> str | None:
        """Return why nothing can be locked; None if it can. A bucket that cannot is asked again later.

        Raises:
            Transient: `store_unavailable`.
        """
        now = time.monotonic()
        if self._asked_at is None or (self._why is not None and now - self._asked_at >= _ASKED_AGAIN_S):
            try:
                self._why = None if self.has_lock() else NO_LOCK.format(bucket=self.bucket)
            except Permanent as error:
                self._why = error.reason
            if self._why is not None:
                structlog.get_logger().warning("nothing is put under lock", why=self._why)
            self._asked_at = now
        return self._why

    def retain(self, key: str, version_id: str, retention: Retention) -> None:
        """Set how long a version is kept; it can only be extended.

        Raises:
            Permanent: `uri_not_allowed` if the store refuses, also because it would be shorter.
        """
        config = S3Retention(_MODES[retention.mode], retention.until)
        with self._translated(key):
            self._client.set_object_retention(
                bucket_name=self.bucket, object_name=key, config=config, version_id=version_id
            )

    def retention_of(self, key: str, version_id: str) -> Retention | None:
        """Return how long a version is kept; None if it is not retained."""
        with self._translated(key):
            try:
                config = self._client.get_object_retention(
                    bucket_name=self.bucket, object_name=key, version_id=version_id
                )
            except S3Error as error:
                if error.code in _NO_RETENTION:
                    return None
                raise
        if config is None:
            return None
        return Retention("compliance" if config.mode == COMPLIANCE else "governance", config.retain_until_date)

    def digest(self, key: str, version_id: str, size_bytes: int) -> Digest:
        """Read a version of an object, without keeping it, and return its digest."""
        hasher = hashlib.sha256()
        with self._translated(key), Path(os.devnull).open("wb") as nowhere:
            self._client.download(self.bucket, key, size_bytes, nowhere, hasher.update, version=version_id)
        return f"sha256:{hasher.hexdigest()}"

    def remove_version(self, key: str, version_id: str) -> None:
        """Remove a version or a delete marker; the store refuses to remove what is retained."""
        with self._translated(key):
            self._client.remove_object(bucket_name=self.bucket, object_name=key, version_id=version_id)

    def latest_version(self, key: str) -> str | None:
        """Return the id of the version that readers get who name none; None if there is none, or a marker hides it."""
        with self._translated(key):
            try:
                latest = self._client.stat_object(bucket_name=self.bucket, object_name=key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchVersion", "MethodNotAllowed"):
                    return None
                raise
        return latest.version_id or "null"
