"""Restore of a backup into an empty installation: verification, objects, bus."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from clients.cli.backup.bus import find_contents, put_consumers_back, restore_stream
from clients.cli.backup.contents import FORMAT, LEFT_OUT, BackupManifest, Blob, ObjectCopy
from clients.cli.backup.folder import Folder
from clients.cli.backup.objects import REQUESTS, SourceStore, put_objects_back
from clients.cli.backup.taking import read_list
from clients.cli.connection import StackAddress, connected
from clients.cli.output import CommandError, warn
from contracts.vocabulary import digest_of
from deploy.data_format import refuse
from shared.errors import Permanent
from shared.messaging.provision import provision_when_joined, settings_of
from shared.runtime.clock import Clock

MOST_NAMED = 5
OLDEST_BUS = (2, 14)
"""The first version of nats-server that resets consumers."""


@dataclass(frozen=True)
class Chosen:
    """A backup to restore: its manifest, the manifest's digest, and the objects that it lists."""

    folder: Folder
    manifest: BackupManifest
    digest: str
    objects: Sequence[ObjectCopy]


def choose(folder: Folder, name: str | None, digest: str | None) -> Chosen:
    """Return the named backup in a folder, by default the newest.

    Raises:
        CommandError: There is no such backup, the folder cannot be read, the manifest is damaged or has another digest
            than `digest`, or its format is not supported.
    """
    try:
        names = folder.names()
    except OSError as error:
        raise CommandError(f"{folder} cannot be read: {error}") from error
    if not names or (name is not None and name not in names):
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise CommandError(f"{folder} has no backup {name or 'at all'}; {has}")
    data = folder.manifest(name or names[-1])
    actual = digest_of(data)
    if digest is not None and digest != actual:
        raise CommandError(f"the manifest of {name or names[-1]} in {folder} is {actual}, not {digest}; it was changed")
    try:
        manifest = BackupManifest.model_validate_json(data)
    except ValidationError as error:
        raise CommandError(f"the manifest of {name or names[-1]} in {folder} is damaged; use another backup") from error
    if manifest.format > FORMAT:
        raise CommandError(
            f"{folder} has a backup of format {manifest.format}, this program reads {FORMAT}; use a newer one"
        )
    refusal = refuse(f"{folder} has", manifest.data_format, f"restore it with Slipway {manifest.version}")
    if refusal is not None:
        raise CommandError(refusal)
    return Chosen(folder, manifest, actual, read_list(folder, manifest))


def verify(chosen: Chosen) -> int:
    """Read all blobs of a backup and compare their digests; return the total size in bytes.

    Raises:
        CommandError: A blob cannot be read or was changed; nothing has been restored yet.
    """
    blobs = {copy.blob.digest: copy.blob for copy in chosen.objects}
    blobs |= {blob.digest: blob for blob in chosen.manifest.blobs()}

    def problem(blob: Blob) -> str | None:
        try:
            for _ in chosen.folder.read(blob):
                pass
        except Permanent as error:
            return error.reason
        except OSError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="verify") as threads:
        problems = [each for each in threads.map(problem, blobs.values()) if each is not None]
    if problems:
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CommandError(f"this backup is damaged: {problems[0]}{more}; nothing was restored, use another one")
    return sum(blob.size_bytes for blob in blobs.values())


async def put_back(stack: StackAddress, chosen: Chosen, clock: Clock) -> None:
    """Restore a backup into a stack without running services.

    Raises:
        CommandError: the installation is not empty, or its bus refuses a copy or is too old.
    """
    store = SourceStore(stack.connection)
    async with connected(stack) as client:
        server = client.connected_server_version
        if (server.major, server.minor) < OLDEST_BUS:
            version = f"{server.major}.{server.minor}"
            raise CommandError(f"the bus is nats-server {version}; a restore needs 2.14, nothing was restored")
        js = client.jetstream(timeout=30)
        problems = [*await find_contents(js), *await asyncio.to_thread(_objects_there, store)]
        if problems:
            raise CommandError(
                f"this installation is not empty, and a restore replaces nothing: {'; '.join(problems[:MOST_NAMED])}. "
                "Use a new state folder, or empty volumes and an empty bucket, and start no service before"
            )
        try:
            await asyncio.to_thread(put_objects_back, store, chosen.folder, chosen.objects, clock.now())
            for copy in chosen.manifest.streams:
                await restore_stream(client, copy, chosen.folder)
            await put_consumers_back(js, chosen.manifest.positions)
            await provision_when_joined(js, **settings_of(stack.connection))
        except BaseException:
            warn("this installation has a part of the backup; empty it, then run the restore again")
            raise


def _objects_there(store: SourceStore) -> list[str]:
    keys = [key for key in store.tops() if not key.startswith(LEFT_OUT)]
    return [f"the bucket {store.bucket} has {', '.join(keys[:MOST_NAMED])}"] if keys else []
