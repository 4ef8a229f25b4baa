"""Objects of the store in a backup: the version that readers read, with its retention; copied once, and put back."""

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
"""Objects that are copied at the same time."""


class SourceStore(LockingStore):
    """The store as a backup reads and writes it: objects of any size."""

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
        """Write an object; an existing one is overwritten."""
        with self._translated(key):
            self._client.write_parts(self.bucket, key, size, iter(parts))

    def retain_latest(self, key: str, retention: Retention) -> None:
        """Put the version under lock that was written last."""
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
    """Copies objects into a folder, except blobs that it has from an earlier backup.

    Attributes:
        keep: Returns whether an object belongs to the backup.
        damaged: Objects whose bytes are not those that their name promises, or cannot be found; they are not copied.
        new_bytes: Bytes that the folder did not have.
    """

    store: SourceStore
    folder: Folder
    keep: Callable[[str], bool]
    damaged: list[str] = field(default_factory=list)
    new_bytes: int = 0

    def copy(self) -> list[ObjectCopy]:
        """Copy all objects that belong to the backup; return those that were still there, ordered by key."""
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
        """Return where the bytes of a version are in the folder, after they were copied if it did not have them.

        An object that does not tell its digest is read for that first.
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
    """Write copied objects, with retentions that have not ended, into a store that holds nothing."""
    locks = store.has_lock()

    def put_back(copy: ObjectCopy) -> None:
        store.append(copy.key, copy.blob.size_bytes, folder.read(copy.blob))
        if locks and copy.lock_mode is not None and copy.retained_until is not None and copy.retained_until > now:
            store.retain_latest(copy.key, Retention(copy.lock_mode, copy.retained_until))

    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="restore") as threads:
        for _ in threads.map(put_back, copies):
            pass
