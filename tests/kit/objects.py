"""Versions of objects in memory: what the audit log uses of the store."""

from dataclasses import dataclass, field

from shared.storage.objects import AlreadyExists, ObjectVersion
from testbed import factories as f


@dataclass
class Objects:
    """Versions of objects in memory; `reads` is the key of each read."""

    versions_of: dict[str, list[bytes | None]] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def create(self, key, data, _retention=None):
        if key in self.versions_of:
            raise AlreadyExists(key)
        self.versions_of[key] = [data]

    def put(self, key, data):
        self.versions_of.setdefault(key, []).append(data)

    def find(self, key):
        self.reads.append(key)
        there = self.versions_of.get(key, [None])
        return there[int(self.pins[key])] if key in self.pins else there[-1]

    def versions(self, prefix):
        for key in sorted(key for key in self.versions_of if key.startswith(prefix)):
            there = self.versions_of[key]
            for number, data in enumerate(there):
                yield ObjectVersion(
                    key=key, version_id=str(number), size=len(data or b""), modified=f.after(number),
                    marker=data is None, latest=number == len(there) - 1,
                )  # fmt: skip

    def pinned(self, pins):
        return Objects(self.versions_of, dict(pins), self.reads)
