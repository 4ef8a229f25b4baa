"""Backup of a running installation, in this order: positions, records, events, objects, manifest."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from clients.cli.backup.bus import copy_stream, keep, keys_at, read_positions, value_at
from clients.cli.backup.contents import FORMAT, STREAMS_IN_ORDER, BackupManifest, Blob, ObjectCopy, belongs
from clients.cli.backup.folder import Folder
from clients.cli.backup.objects import ObjectCopier, SourceStore
from clients.cli.connection import StackAddress, connected
from contracts.version import VERSION
from contracts.vocabulary import canonical_json, digest_of
from deploy.data_format import DATA_FORMAT
from shared.runtime.clock import Clock

_RELEASES = "KV_releases"
_MODEL = ".model"
"""Suffix of the keys of records with version numbers, one record for each model."""


@dataclass(frozen=True)
class Taken:
    """A backup that was taken.

    Attributes:
        digest: Digest of the manifest.
        new_bytes: Size of the objects that earlier backups lack, in bytes.
    """

    manifest: BackupManifest
    digest: str
    new_bytes: int


async def take(stack: StackAddress, folder: Folder, clock: Clock) -> Taken:
    """Copy a stack into a folder; return the complete backup."""
    began = clock.now()
    async with connected(stack) as client:
        js = client.jetstream(timeout=30)
        positions = await read_positions(js)
        streams = [await copy_stream(client, name, folder) for name in STREAMS_IN_ORDER]
        last = {stream.name: int(stream.state["last_seq"]) for stream in streams}
        reserved = {}
        for key in await keys_at(js, "releases", _MODEL):
            record = await value_at(js, "releases", key, last[_RELEASES])
            reserved[key.removesuffix(_MODEL)] = int(record.get("next_version", 1)) - 1
        tail = await value_at(js, "audit", "tail", last["KV_audit"])
    keep = belongs(reserved, int(tail.get("segment", 1)))
    copier = ObjectCopier(SourceStore(stack.connection), folder, keep)
    objects = await asyncio.to_thread(copier.copy)
    listed = await asyncio.to_thread(keep_list, folder, objects)
    manifest = BackupManifest(
        format=FORMAT,
        data_format=DATA_FORMAT,
        version=VERSION,
        began_at=began,
        taken_at=clock.now(),
        positions=positions,
        streams=tuple(streams),
        objects=listed,
        object_count=len(objects),
        object_bytes=sum(copy.blob.size_bytes for copy in objects),
        damaged=tuple(sorted(copier.damaged)),
        ports=dict(stack.ports),
        tritons=stack.tritons,
    )
    data = canonical_json(manifest.model_dump(mode="json"))
    await asyncio.to_thread(folder.commit, manifest.name(), data)
    return Taken(manifest, digest_of(data), copier.new_bytes)


def read_list(folder: Folder, manifest: BackupManifest) -> list[ObjectCopy]:
    """Return the object copies that a backup lists; raise Permanent if the list was altered."""
    data = b"".join(folder.read(manifest.objects))
    return [ObjectCopy.model_validate_json(line) for line in data.splitlines()]


def keep_list(folder: Folder, copies: Sequence[ObjectCopy]) -> Blob:
    """Store the list of objects; return its digest and size."""
    lines = (canonical_json(copy.model_dump(mode="json", exclude_defaults=True)) + b"\n" for copy in copies)
    return keep(folder, b"".join(lines))
