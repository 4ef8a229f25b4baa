"""The store as a sweep uses it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from contracts.vocabulary import ArtifactRef
from shared.errors import Permanent
from shared.storage.object_lock import LockingStore


@dataclass(frozen=True)
class Listed:
    """An object with all its versions together: their size, and when the newest of them was written."""

    size: int
    modified: datetime


class SweepStore(Protocol):
    """Objects, read and written whole."""

    def listing(self) -> dict[str, Listed]:
        """Return all objects by key, those under a delete marker too."""

    def find(self, key: str) -> bytes | None:
        """Read a small object whole; None when it does not exist."""

    def create(self, key: str, data: bytes) -> ArtifactRef:
        """Write an object that must not exist yet; raise `objects.AlreadyExists` when it does."""

    def erase(self, key: str, until: datetime | None = None) -> bool:
        """Remove the versions of an object, those up to a time; return False if one is under lock, and stays."""


class StoredObjects(LockingStore):
    """The object store (implements `SweepStore`)."""

    def listing(self) -> dict[str, Listed]:
        """Return all objects by key, those under a delete marker too."""
        objects: dict[str, Listed] = {}
        for version in self.versions(""):
            before = objects.get(version.key, Listed(0, version.modified))
            objects[version.key] = Listed(before.size + version.size, max(before.modified, version.modified))
        return objects

    def erase(self, key: str, until: datetime | None = None) -> bool:
        """Remove the versions of an object, those up to a time; return False if one is under lock, and stays."""
        erased = True
        for version in self.versions(key):
            if version.key == key and (until is None or version.modified <= until):
                try:
                    self.remove_version(key, version.version_id)
                except Permanent as error:
                    if error.code != "uri_not_allowed":
                        raise
                    erased = False
        return erased
