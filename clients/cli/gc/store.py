"""The object store of a sweep: objects are hidden under delete markers, shown again, and erased."""

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Protocol

from shared.errors import Permanent
from shared.storage.object_lock import LockingStore


@dataclass(frozen=True)
class Listed:
    """An object with all its versions.

    Attributes:
        size: Size of all versions in bytes.
        modified: Time of the newest version.
        versions: Ids of versions and delete markers.
        hidden_by: Id of the delete marker; None if the object is visible.
        hidden_at: Time of the delete marker.
    """

    size: int
    modified: datetime
    versions: tuple[str, ...] = ()
    hidden_by: str | None = None
    hidden_at: datetime | None = None


class SweepStore(Protocol):
    """A bucket with versions."""

    def listing(self) -> dict[str, Listed]:
        """Return all objects by key, hidden ones too."""

    def find(self, key: str) -> bytes | None:
        """Return the bytes of a small object; None if it does not exist or is hidden."""

    def hide(self, key: str) -> None:
        """Put a delete marker over an object, so that readers and writers do not find it."""

    def remove_version(self, key: str, version_id: str) -> None:
        """Remove a version or a delete marker; raise Permanent `uri_not_allowed` if it is under lock."""


class StoredObjects(LockingStore):
    """The object store (implements `SweepStore`)."""

    def listing(self) -> dict[str, Listed]:
        """Return all objects by key, hidden ones too."""
        objects = {}
        for key, group in groupby(self.versions(""), key=lambda version: version.key):
            versions = list(group)
            newest = next((each for each in versions if each.latest), versions[-1])
            written = [each.modified for each in versions if not each.marker]
            objects[key] = Listed(
                size=sum(each.size for each in versions),
                modified=max(written, default=newest.modified),
                versions=tuple(each.version_id for each in versions),
                hidden_by=newest.version_id if newest.marker else None,
                hidden_at=newest.modified if newest.marker else None,
            )
        return objects

    def hide(self, key: str) -> None:
        """Put a delete marker over an object, so that readers and writers do not find it."""
        with self._translated(key):
            self._client.remove_object(bucket_name=self.bucket, object_name=key)


def erase(store: SweepStore, key: str, listed: Listed) -> bool:
    """Remove the listed versions of an object; return whether all could be removed, because none is locked."""
    erased = True
    for version in listed.versions:
        if version == listed.hidden_by and not erased:
            continue
        try:
            store.remove_version(key, version)
        except Permanent as error:
            if error.code != "uri_not_allowed":
                raise
            erased = False
    return erased
