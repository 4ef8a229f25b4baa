"""Objects of the store in a backup: copied in their latest version with its retention, and restored."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from clients.cli.backup.contents import Blob, ObjectCopy, digest_in
from clients.cli.backup.folder import Folder
from contracts.provenance.audit import PREFIX as AUDIT
from shared.errors import Permanent
from shared.storage.object_lock import LockingStore
from shared.storage.objects import ObjectVersion, Retention
from shared.storage.transfer import PART_BYTES

REQUESTS = 8
"""Number of parallel copies."""


class SourceStore(LockingStore):
    """The object store with reads and writes of objects of any size."""

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
        """Write an object; an existing object is overwritten."""
        with self._translated(key):
            self._client.write_parts(self.bucket, key, size, iter(parts))

    def retain_latest(self, key: str, retention: Retention) -> None:
        """Lock the latest version of an object."""
        version = self.latest_version(key)
        if version is not None:
            self.retain(key, version, retention)

    def tops(self) -> list[str]:
        """Return the objects and folders at the top of a bucket; folders end with a slash."""
        with self._translated("the bucket"):
            return [str(entry.object_name) for entry in self._client.list_objects(bucket_name=self.bucket)]


def read_versions(versions: Iterable[ObjectVersion]) -> list[ObjectVersion]:
    """Return the version of each object to back up: the latest unless deleted, or the first in the audit log."""
    read = []
    for key, group in groupby(versions, key=lambda version: version.key):
        written = [version for version in group if not version.marker]
        read += written[:1] if key.startswith(AUDIT) else [version for version in written if version.latest]
    return read


@dataclass
class ObjectCopier:
    """Copies objects into a folder, except blobs of an earlier backup.

    Attributes:
        keep: Returns whether the backup includes a key.
        damaged: Keys of missing objects, and of objects with another digest than their key; they are not copied.
        new_bytes: Size of the copied blobs in bytes.
    """

    store: SourceStore
    folder: Folder
    keep: Callable[[str], bool]
    damaged: list[str] = field(default_factory=list)
    new_bytes: int = 0

    def copy(self) -> list[ObjectCopy]:
        """Copy the objects of the backup; return the copies in the order of keys."""
        locks = self.store.has_lock()
        versions = [version for version in read_versions(self.store.versions("")) if self.keep(version.key)]
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="backup") as threads:
            copies = threads.map(lambda version: self._copy(version, locks=locks), versions)
            return [copy for copy in copies if copy is not None]

    def _copy(self, version: ObjectVersion, *, locks: bool) -> ObjectCopy | None:
        try:
            retention = self.store.retention_of(version.key, version.version_id) if locks else None
            blob = self._bytes(version)
        except Permanent as error:
            if error.code not in ("digest_mismatch", "artifact_not_found"):
                raise
            if error.code == "digest_mismatch" or version in self.store.versions(version.key):
                self.damaged.append(version.key)  # else it was removed meanwhile
            return None
        return ObjectCopy(
            key=version.key,
            blob=blob,
            lock_mode=None if retention is None else retention.mode,
            retained_until=None if retention is None else retention.until,
        )

    def _bytes(self, version: ObjectVersion) -> Blob:
        """Return digest and size of a version's bytes, once the folder has them.

        An object without a digest in its key is read twice.
        """
        digest = digest_in(version.key)
        if digest is None:
            hasher = hashlib.sha256()
            for part in self.store.parts(version):
                hasher.update(part)
            digest = f"sha256:{hasher.hexdigest()}"
        blob = Blob(digest=digest, size_bytes=version.size)
        if not self.folder.has(blob):
            self.folder.put(blob, self.store.parts(version))
            self.new_bytes += blob.size_bytes
        return blob


def put_objects_back(store: SourceStore, folder: Folder, copies: Iterable[ObjectCopy], now: datetime) -> None:
    """Restore backed-up objects and unexpired retentions to an empty store."""
    locks = store.has_lock()

    def put_back(copy: ObjectCopy) -> None:
        store.append(copy.key, copy.blob.size_bytes, folder.read(copy.blob))
        if locks and copy.lock_mode is not None and copy.retained_until is not None and copy.retained_until > now:
            store.retain_latest(copy.key, Retention(copy.lock_mode, copy.retained_until))

    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="restore") as threads:
        for _ in threads.map(put_back, copies):
            pass
