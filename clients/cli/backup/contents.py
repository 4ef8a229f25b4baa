"""The contents of a backup, and the order in which they are taken."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from contracts.manifests import LockMode
from contracts.provenance.audit import PREFIX as AUDIT
from contracts.services import DEADLETTER, EVENTS, INBOX, ORDERS
from contracts.storage.access import DATA_FORMAT, PROBE
from contracts.vocabulary import Contract, Digest, Instant

FORMAT: Final = 1
"""The format of a backup; it rises when an older program could not restore a newer backup."""
BUCKETS_IN_ORDER: Final = (
    "audit",
    "releases",
    "alerts",
    "servers",
    "rollbacks",
    "notifications",
    "policies",
    "mirrors",
    "attachments",
    "api-keys",
    "api-usage",
    "drills",
    "staging-routes",
    "routes",
)
"""Buckets in the order of copying: a record that causes a change comes before the changed record.

So each change that the first copy notes as done is in the second copy. `audit` comes first: a restored log notes no
change that the other copies lack.
"""
STREAMS_IN_ORDER: Final = (*(f"KV_{bucket}" for bucket in BUCKETS_IN_ORDER), ORDERS, INBOX, EVENTS, DEADLETTER)
"""All copied streams. Telemetry is not copied: it is kept in memory for an hour."""
LEFT_OUT: Final = (PROBE, DATA_FORMAT)
"""Objects about the store itself; each store has its own."""

_BLOB = re.compile(r"(?:.*/)?blobs/sha256/[0-9a-f]{2}/(?P<digest>[0-9a-f]{64})")
_SEGMENT = re.compile(rf"{re.escape(AUDIT)}(?P<number>[0-9]{{6}})\.jsonl")
"""A segment of the audit log."""
_OF_VERSION = re.compile(r"versions/(?P<model>[^/]+)/(?P<number>[0-9]+)/.*")


class Blob(Contract):
    """Bytes in a backup, stored by their digest."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class StreamCopy(Contract):
    """A snapshot of a stream, as the server made it: messages with their sequences, and consumers.

    Attributes:
        state: Its sequences and sizes when the snapshot began.
        chunks: The snapshot, in parts.
    """

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    chunks: tuple[Blob, ...]


class Position(Contract):
    """The last acknowledged sequence of a durable consumer, read before the copies."""

    stream: str
    consumer: str
    acknowledged: Annotated[int, Field(ge=0)]


class ObjectCopy(Contract):
    """An object, in the version that was read of it.

    Attributes:
        blob: Its bytes.
        lock_mode: The mode of its retention; None if it has none.
        retained_until: When that ends.
    """

    key: str
    blob: Blob
    lock_mode: LockMode | None = None
    retained_until: Instant | None = None


class BackupManifest(Contract):
    """The manifest of a backup, written last: without a manifest a backup is incomplete.

    Attributes:
        data_format: The format of the installation's data.
        version: The version of Slipway that took the backup.
        objects: The list of objects, one `ObjectCopy` as JSON per line.
        object_count: The number of objects.
        object_bytes: Their total size in bytes.
        damaged: Keys of missing objects, and of objects with another digest than their key; they are not copied.
        ports: Ports of an embedded stack by name; restored routes name them, so a restored stack uses them again.
        tritons: Number of Tritons of the default runtime of an embedded stack.
    """

    format: int = FORMAT
    data_format: int
    version: str
    began_at: Instant
    taken_at: Instant
    positions: tuple[Position, ...]
    streams: tuple[StreamCopy, ...]
    objects: Blob
    object_count: int
    object_bytes: int
    damaged: tuple[str, ...] = ()
    ports: dict[str, int] = Field(default_factory=dict)
    tritons: int = 1

    def name(self) -> str:
        """Return the name of the backup, by which backups sort in the order of time."""
        return f"{self.began_at:%Y%m%dT%H%M%S%fZ}"

    def blobs(self) -> list[Blob]:
        """Return the blobs of streams and of the list of objects."""
        chunks = [chunk for stream in self.streams for chunk in stream.chunks]
        return [*chunks, self.objects]


def digest_in(key: str) -> Digest | None:
    """Return the digest in the key of a blob; None for other keys."""
    match = _BLOB.fullmatch(key)
    return f"sha256:{match['digest']}" if match is not None else None


def belongs(reserved: Mapping[str, int], next_segment: int) -> Callable[[str], bool]:
    """Return a filter of keys: the objects that belong to a backup with these records.

    Records are copied before objects. Later objects with a key that is no digest are left out: the restored
    installation writes the same keys again.

    Args:
        reserved: The last version number of each model that the copied records know.
        next_segment: The number of the segment that the copied audit log writes next.
    """

    def keep(key: str) -> bool:
        if key.startswith(LEFT_OUT):
            return False
        segment, version = _SEGMENT.fullmatch(key), _OF_VERSION.fullmatch(key)
        if segment is not None:
            return int(segment["number"]) < next_segment
        return version is None or int(version["number"]) <= reserved.get(version["model"], 0)

    return keep
