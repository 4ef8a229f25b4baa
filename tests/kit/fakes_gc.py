"""A store in memory for sweeps, with a hook that lets others work between two of its requests."""

from collections.abc import Callable
from datetime import datetime

from clients.cli.gc.store import Listed
from contracts.vocabulary import ArtifactRef, digest_of
from shared.storage.objects import AlreadyExists


class FakeSweepStore:
    """Objects in a dict (implements `SweepStore`)."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.locked: set[str] = set()

    def listing(self) -> dict[str, Listed]:
        return {key: Listed(len(data), modified) for key, (data, modified) in self.objects.items()}

    def find(self, key: str) -> bytes | None:
        return self.objects[key][0] if key in self.objects else None

    def create(self, key: str, data: bytes) -> ArtifactRef:
        if key in self.objects:
            raise AlreadyExists(key)
        self.objects[key] = (data, self._now())
        return ArtifactRef(uri=f"s3://slipway/{key}", digest=digest_of(data), size_bytes=len(data))

    def erase(self, key: str, until: datetime | None = None) -> bool:
        if key in self.locked:
            return False
        if until is None or (key in self.objects and self.objects[key][1] <= until):
            self.objects.pop(key, None)
        return True


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
