"""The folder of backups: bytes by digest, manifests by name."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.backup.contents import Blob
from clients.cli.output import CommandError, Exit
from shared.errors import Permanent
from shared.runtime.files import replacing
from shared.storage.blobs import blob_key
from shared.storage.objects import AlreadyExists
from shared.storage.transfer import PART_BYTES

_BACKUPS = "backups"


def _refuse_address(folder: Path) -> Path:
    if ":/" in str(folder):
        raise CommandError(f"{folder} is no folder: back up into one, and copy it, for example with rclone", Exit.USAGE)
    return folder


FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder that backups are in.", callback=_refuse_address)
]


def checked(blob: Blob, parts: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield parts; raise Permanent `digest_mismatch` after the last if their size or digest is not the blob's."""
    hasher, size = hashlib.sha256(), 0
    for part in parts:
        hasher.update(part)
        size += len(part)
        if size > blob.size_bytes:
            break
        yield part
    digest = f"sha256:{hasher.hexdigest()}"
    if size != blob.size_bytes or digest != blob.digest:
        reason = f"{size} bytes with the digest {digest} are not the {blob.size_bytes} bytes of {blob.digest}."
        raise Permanent("digest_mismatch", reason)


class Folder:
    """A folder that only its owner may read; safe for calls from several threads."""

    def __init__(self, path: Path) -> None:
        """Wrap a folder; the first write creates it."""
        self.path = path

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    def has(self, blob: Blob) -> bool:
        """Return whether the folder has all bytes of a blob."""
        with contextlib.suppress(FileNotFoundError):
            return self._path(blob).stat().st_size == blob.size_bytes
        return False

    def put(self, blob: Blob, parts: Iterable[memoryview]) -> None:
        """Store bytes unless the folder has them; a file is renamed once it is complete.

        Args:
            blob: Digest and size of the bytes.
            parts: The bytes in parts of `PART_BYTES`; the last part may be shorter.

        Raises:
            Permanent: `digest_mismatch`: the parts have another digest or size; nothing is stored.
        """
        if not self.has(blob):
            self._write(self._path(blob), checked(blob, parts))

    def read(self, blob: Blob) -> Iterator[memoryview]:
        """Yield bytes in parts of `PART_BYTES`; the last part may be shorter.

        Raises:
            Permanent: `artifact_not_found`; `digest_mismatch`, at the latest after the last part.
        """
        return checked(blob, self._parts(blob))

    def names(self) -> list[str]:
        """Return the names of all backups, the oldest first."""
        try:
            return sorted(path.stem for path in (self.path / _BACKUPS).iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return []

    def commit(self, name: str, manifest: bytes) -> None:
        """Write the manifest of a new backup; raise AlreadyExists if the backup exists."""
        path = self._manifest(name)
        if path.exists():
            raise AlreadyExists(name)
        self._write(path, [memoryview(manifest)])
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def manifest(self, name: str) -> bytes:
        """Return the manifest of a backup; raise Permanent `artifact_not_found` if there is none."""
        try:
            return self._manifest(name).read_bytes()
        except FileNotFoundError:
            raise Permanent("artifact_not_found", f"{self.path} has no backup {name}.") from None

    def _path(self, blob: Blob) -> Path:
        return self.path / blob_key(blob.digest)

    def _manifest(self, name: str) -> Path:
        return self.path / _BACKUPS / f"{name}.json"

    def _parts(self, blob: Blob) -> Iterator[memoryview]:
        try:
            with self._path(blob).open("rb") as file:
                while part := file.read(PART_BYTES):
                    yield memoryview(part)
        except FileNotFoundError:
            raise Permanent("artifact_not_found", f"{self.path} has no {blob.digest}.") from None

    def _write(self, path: Path, parts: Iterable[memoryview]) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as out:
            for part in parts:
                out.write(part)
