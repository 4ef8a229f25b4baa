"""A store in memory for sweeps, with a hook that lets others work between two of its requests."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from clients.cli.gc.store import Listed
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent
from shared.storage.objects import AlreadyExists


@dataclass(frozen=True)
class Version:
    """A version of an object; without data it is a delete marker."""

    version_id: str
    data: bytes | None
    modified: datetime


class FakeSweepStore:
    """Versions in a dict, the oldest first (implements `SweepStore`)."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now, self._ids = now, itertools.count()
        self.objects: dict[str, list[Version]] = {}
        self.locked: set[str] = set()

    def _add(self, key: str, data: bytes | None) -> None:
        self.objects.setdefault(key, []).append(Version(str(next(self._ids)), data, self._now()))

    def listing(self) -> dict[str, Listed]:
        listed = {}
        for key, versions in self.objects.items():
            newest = versions[-1]
            written = [each.modified for each in versions if each.data is not None]
            hidden = newest.data is None
            listed[key] = Listed(
                sum(len(each.data or b"") for each in versions),
                max(written, default=newest.modified),
                tuple(each.version_id for each in versions),
                newest.version_id if hidden else None,
                newest.modified if hidden else None,
            )
        return listed

    def find(self, key: str) -> bytes | None:
        return self.objects[key][-1].data if key in self.objects else None

    def create(self, key: str, data: bytes) -> ArtifactRef:
        if self.find(key) is not None:
            raise AlreadyExists(key)
        self._add(key, data)
        return ArtifactRef(uri=f"s3://slipway/{key}", digest=digest_of(data), size_bytes=len(data))

    def hide(self, key: str) -> None:
        self._add(key, None)

    def remove_version(self, key: str, version_id: str) -> None:
        (version,) = [each for each in self.objects.get(key, ()) if each.version_id == version_id] or [None]
        if version is None:
            return
        if key in self.locked and version.data is not None:
            raise Permanent("uri_not_allowed", f"{key} is under lock.")
        self.objects[key].remove(version)
        if not self.objects[key]:
            del self.objects[key]


class Hooked:
    """A store before each of whose requests something else happens."""

    def __init__(self, store: FakeSweepStore, hook: Callable[[], None]) -> None:
        self._store, self._hook = store, hook

    def __getattr__(self, name: str):
        method = getattr(self._store, name)

        def call(*arguments):
            self._hook()
            return method(*arguments)

        return call
