"""Objects of the store in a backup: every version with its bytes and its lock, copied once, and put back in order."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from clients.cli.backup.contents import Blob, ObjectCopy, digest_in, is_retained
from clients.cli.backup.locations import BackupLocation
from shared.errors import Permanent
from shared.storage.object_lock import LockingStore
from shared.storage.objects import ObjectVersion, Retention
from shared.storage.transfer import PART_BYTES

REQUESTS = 8
"""Objects that are copied at the same time."""


class SourceStore(LockingStore):
    """The store as a backup reads and writes it: versions of any size, one by one."""

    def parts(self, version: ObjectVersion) -> Iterator[memoryview]:
        """Yield the bytes of a version in parts of `PART_BYTES`."""
        read, size = self._client.read_into, version.size
        number = None if version.latest and version.version_id == "null" else version.version_id
        for start in range(0, size, PART_BYTES):
            part = memoryview(bytearray(min(PART_BYTES, size - start)))
            with self._translated(version.key):
                read(self.bucket, version.key, start, part, size, version=number)
            yield part

    def append(self, key: str, size: int, parts: Iterable[memoryview]) -> None:
        """Write an object, over an older version of it if there is one."""
        with self._translated(key):
            self._client.write_parts(self.bucket, key, size, iter(parts))

    def hide(self, key: str) -> None:
        """Put a delete marker over an object."""
        with self._translated(key):
            self._client.remove_object(bucket_name=self.bucket, object_name=key)

    def retain_latest(self, key: str, retention: Retention) -> None:
        """Put the version under lock that was written last."""
        version = self.latest_version(key)
        if version is not None:
            self.retain(key, version, retention)

    def tops(self) -> list[str]:
        """Return what keys begin with, up to their first slash: objects, and folders with the slash."""
        with self._translated("the bucket"):
            return [str(entry.object_name) for entry in self._client.list_objects(bucket_name=self.bucket)]


@dataclass
class ObjectCopier:
    """Copies objects into a location, except blobs that it has from an earlier backup.

    Attributes:
        keep: Returns whether an object belongs to the backup.
        changed: Objects whose bytes are not those that their name promises.
        gone: Objects that were removed between the listing and the copy: erased texts, and what nothing refers to.
        new_bytes: Bytes that the location did not have.
    """

    store: SourceStore
    location: BackupLocation
    keep: Callable[[str], bool]
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    new_bytes: int = 0

    def listed(self) -> list[ObjectVersion]:
        """Return the versions of all objects that belong to the backup, of each object the latest one last.

        Times have whole seconds, and servers list delete markers apart.
        """
        versions = [version for version in self.store.versions("") if self.keep(version.key)]
        return sorted(versions, key=lambda version: (version.key, version.modified, version.latest))

    def copy(self, versions: Iterable[ObjectVersion]) -> list[ObjectCopy]:
        """Copy versions; return those that were still there, in the same order."""
        locks = self.store.has_lock()
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="backup") as threads:
            copies = threads.map(lambda version: self._copy(version, locks=locks), versions)
            return [copy for copy in copies if copy is not None]

    def _copy(self, version: ObjectVersion, *, locks: bool) -> ObjectCopy | None:
        try:
            retention = self._retention(version) if locks else None
            blob = None if version.marker else self._bytes(version)
        except Permanent as error:
            if error.code != "artifact_not_found":
                raise
            self.gone.append(version.key)
            return None
        return ObjectCopy(
            key=version.key,
            version_id=version.version_id,
            modified=version.modified,
            digest=None if blob is None else blob.digest,
            size_bytes=version.size,
            lock_mode=None if retention is None else retention.mode,
            retained_until=None if retention is None else retention.until,
        )

    def _retention(self, version: ObjectVersion) -> Retention | None:
        return None if version.marker else self.store.retention_of(version.key, version.version_id)

    def _bytes(self, version: ObjectVersion) -> Blob:
        """Return where the bytes of a version are in the location, after they were copied if it did not have them."""
        digest = digest_in(version.key)
        if digest is not None:
            blob = Blob(digest=digest, size_bytes=version.size)
            if self.location.has(blob):
                return blob
            try:
                self._put(blob, self.store.parts(version))
            except Permanent as error:
                if error.code != "digest_mismatch":
                    raise
                self.changed.append(version.key)
            else:
                return blob
        return self._unnamed(version)

    def _unnamed(self, version: ObjectVersion) -> Blob:
        """Copy an object that does not tell its digest: it is read for that first, and again if it is large."""
        if version.size <= PART_BYTES:
            data = b"".join(self.store.parts(version))
            blob = Blob(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))
            self._put(blob, [memoryview(data)])
            return blob
        hasher = hashlib.sha256()
        for part in self.store.parts(version):
            hasher.update(part)
        blob = Blob(digest=f"sha256:{hasher.hexdigest()}", size_bytes=version.size)
        self._put(blob, self.store.parts(version))
        return blob

    def _put(self, blob: Blob, parts: Iterable[memoryview]) -> None:
        if not self.location.has(blob):
            self.location.put(blob, parts)
            self.new_bytes += blob.size_bytes


@dataclass(frozen=True)
class ObjectRestorer:
    """Writes copied objects into a store that holds nothing."""

    store: SourceStore
    location: BackupLocation
    now: datetime

    def restore(self, copies: Iterable[ObjectCopy]) -> None:
        """Write the versions of each object, the oldest first, with their locks."""
        locks = self.store.has_lock()
        objects = [list(versions) for _, versions in groupby(copies, key=lambda copy: copy.key)]
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="restore") as threads:
            for _ in threads.map(lambda versions: self._object(versions, locks=locks), objects):
                pass

    def _object(self, versions: list[ObjectCopy], *, locks: bool) -> None:
        for copy in versions:
            if copy.blob is None:
                self.store.hide(copy.key)
            else:
                self.store.append(copy.key, copy.size_bytes, self.location.read(copy.blob))
            if locks and is_retained(copy, self.now):
                self.store.retain_latest(copy.key, _retention(copy))


def _retention(copy: ObjectCopy) -> Retention:
    if copy.lock_mode is None or copy.retained_until is None:
        msg = f"{copy.key} is under no lock"
        raise ValueError(msg)
    return Retention(copy.lock_mode, copy.retained_until)
