"""Content-addressed blobs and create-only manifests in an S3 store; every read verifies its digest."""

import hashlib
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from contracts.manifests import FileEntry, FolderManifest
from contracts.vocabulary import ArtifactRef, canonical_json, digest_of
from shared.errors import Permanent, Transient
from shared.storage.objects import WHOLE_BYTES, AlreadyExists, ObjectStore
from shared.storage.transfer import Count

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without blocking: to open a pipe would wait for its writer."""


def list_files(folder: Path) -> list[tuple[str, int]]:
    """Return relative path and size in bytes of each file below a folder, ordered by path.

    Raises:
        Permanent: `engine_failed` for anything but regular files and folders.
        OSError: The path is no folder, or a link.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        return sorted(_walk(descriptor, ""), key=lambda file: Path(file[0]))
    finally:
        os.close(descriptor)


def _walk(descriptor: int, prefix: str) -> Iterator[tuple[str, int]]:
    for name in os.listdir(descriptor):
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with _opened(name, _FOLDER, descriptor, prefix + name) as inner:
                yield from _walk(inner, f"{prefix}{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield prefix + name, status.st_size
        else:
            raise _refusal(prefix + name)


@contextmanager
def open_file(folder: Path, path: str) -> Iterator[BinaryIO]:
    """Open a file by its path below a folder, without following links.

    Raises:
        Permanent: `engine_failed` if it is not a regular file, or its path has a link.
        OSError: The folder is no folder, or a link.
    """
    descriptor = os.open(folder, _FOLDER)
    try:
        *parents, name = Path(path).parts
        for parent in parents:
            inner = _open(parent, _FOLDER, descriptor, path)
            os.close(descriptor)
            descriptor = inner
        with os.fdopen(_open(name, _FILE, descriptor, path), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal(path)
            yield file
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, flags: int, parent: int, path: str) -> Iterator[int]:
    descriptor = _open(name, flags, parent, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str, flags: int, parent: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:  # ELOOP, ENOTDIR: a link; ENXIO: a socket; ENOENT: it was taken away
        raise _refusal(path) from error


def _refusal(path: str) -> Permanent:
    return Permanent("engine_failed", f"{path[:200]!r} in the folder of results is not a regular file; it is not read.")


M = TypeVar("M", bound=BaseModel)
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

SOURCES = "sources/"
"""Prefix of content from outside: content-addressed, shared by all publishers."""
STALE_UPLOAD = timedelta(days=1)
"""Age after which an unfinished upload counts as abandoned."""

_BLOB = re.compile(r"^(?!checkpoints/[^/]+/uploads/)(.*/)?blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}$")
"""Keys of blobs, except publishers' uploads, which the registry manages."""


class Store(ObjectStore):
    """The object store. Synchronous: call through `asyncio.to_thread`."""

    def abort_stale_uploads(self, before: datetime, keys: re.Pattern[str] = _BLOB) -> None:
        """Abort unfinished uploads of matching keys that began before a time; log failures only.

        Otherwise the store keeps the parts of killed processes.
        """
        log = structlog.get_logger()
        try:
            aborted = self._client.abort_uploads(self.bucket, lambda key: keys.search(key) is not None, before)
        except Exception as error:  # noqa: BLE001 - no work depends on it
            log.warning("stale uploads could not be aborted", error=repr(error))
        else:
            if aborted:
                log.info("stale uploads aborted", uploads=aborted)

    # -- manifests --------------------------------------------------------------------------------------------------

    def prefix_of(self, ref: ArtifactRef) -> str:
        """Return the part before `manifests/` of a ref's key, which is also the prefix of its blobs."""
        return self.prefix_of_key(self.key_of(ref.uri))

    @staticmethod
    def prefix_of_key(key: str) -> str:
        """Return the part of a manifest's key before `manifests/`."""
        head, separator, _ = key.partition("manifests/")
        return head if separator else ""

    def put_manifest(self, key: str, manifest: BaseModel | bytes) -> tuple[ArtifactRef, bool]:
        """Commit a manifest, create-only: return (its ref, True), or (the existing one's ref, False)."""
        data = manifest if isinstance(manifest, bytes) else manifest_bytes(manifest)
        try:
            return self.create(key, data), True
        except AlreadyExists:
            return self.ref_to(key), False

    def commit(self, key: str, manifest: M) -> tuple[M, ArtifactRef]:
        """Write a manifest, create-only, and return the committed one, maybe another process's.

        Raises:
            Transient: `store_unavailable`: one of its files is missing; repeating the work makes it again.
        """
        self._require(key, manifest)
        ref, created = self.put_manifest(key, manifest)
        return (manifest if created else type(manifest).model_validate_json(self.get(ref))), ref

    def _require(self, key: str, manifest: BaseModel) -> None:
        """Raise Transient unless every file of a manifest exists."""
        prefix = self.prefix_of_key(key)
        for file in getattr(manifest, "files", ()):
            if isinstance(file, FileEntry) and not self.has_blob(file, prefix):
                raise Transient(
                    "store_unavailable",
                    f"{blob_key(file.digest, prefix)} was removed before {key} was committed; it is made again.",
                )

    # -- files and folders ------------------------------------------------------------------------------------------

    def put_folder(self, folder: Path, prefix: str = "", progress: Progress | None = None) -> FolderManifest:
        """Upload every file of a folder as a blob, and return the uncommitted manifest.

        Raises:
            Permanent: engine_failed for anything but regular files and folders.
        """
        files = list_files(folder)
        count = Count(sum(size for _, size in files), progress)
        entries = []
        for name, _ in files:
            before = count.done
            with open_file(folder, name) as file:
                entries.append(self._put_open(file, name, prefix, count.add))
            count.add(before + entries[-1].size_bytes - count.done)  # what was there already counts, too
        return FolderManifest(files=tuple(entries))

    def put_file(self, path: Path, name: str, prefix: str = "", sent: Callable[[int], None] | None = None) -> FileEntry:
        """Upload one file as a blob, unless it exists already."""
        with path.open("rb") as file:
            return self._put_open(file, name, prefix, sent)

    def _put_open(self, file: BinaryIO, name: str, prefix: str, sent: Callable[[int], None] | None) -> FileEntry:
        if os.fstat(file.fileno()).st_size == 0:
            return self.put_blob(memoryview(b""), name, prefix, sent)
        return self.put_blob(memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)), name, prefix, sent)

    def put_blob(
        self, data: memoryview, name: str, prefix: str = "", sent: Callable[[int], None] | None = None
    ) -> FileEntry:
        """Upload bytes as a blob, unless it exists already.

        Raises:
            Permanent: digest_mismatch if the existing blob has another size.
        """
        entry = FileEntry(path=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))
        if not self.has_blob(entry, prefix):
            self._create_blob(entry, prefix, lambda key: self._client.write(self.bucket, key, data, sent))
        return entry

    def has_blob(self, file: FileEntry, prefix: str = "") -> bool:
        """Return whether a blob of this size exists."""
        return self._size_of(blob_key(file.digest, prefix)) == file.size_bytes

    def put_stream(self, file: FileEntry, parts: Iterable[memoryview]) -> None:
        """Upload a blob from parts of `PART_BYTES`; the last one may be smaller.

        Nothing is stored if the iterable raises, by which the caller refuses a wrong digest.
        """
        write = self._client.write_parts
        self._create_blob(file, "", lambda key: write(self.bucket, key, file.size_bytes, iter(parts)))

    def _create_blob(self, file: FileEntry, prefix: str, write: Callable[[str], None]) -> None:
        key = blob_key(file.digest, prefix)
        try:
            with self._translated(key), self._client.creating():
                write(key)
        except AlreadyExists:
            stored = self._size_of(key)
            if stored != file.size_bytes:
                raise Permanent(
                    "digest_mismatch",
                    f"The object {key} has {stored} bytes instead of {file.size_bytes}; remove it from the store.",
                ) from None

    def check_blob(self, file: FileEntry, prefix: str = "") -> None:
        """Read a blob without keeping it, and verify its size and digest.

        Raises:
            Permanent: artifact_not_found; digest_mismatch.
        """
        hasher, key = hashlib.sha256(), blob_key(file.digest, prefix)
        with self._translated(key), Path(os.devnull).open("wb") as nowhere:
            self._download(key, file, nowhere, hasher.update)
        digest = f"sha256:{hasher.hexdigest()}"
        if digest != file.digest:
            raise Permanent("digest_mismatch", f"The object {key} is {digest}.", digest=digest)

    def erase_blob(self, file: FileEntry, prefix: str = "") -> None:
        """Remove all versions of a blob, if there are any."""
        self._erase(blob_key(file.digest, prefix))

    def read_into(self, file: FileEntry, start: int, out: memoryview, prefix: str = "") -> None:
        """Fill `out` with a part of a blob, unverified.

        Raises:
            Permanent: artifact_not_found; digest_mismatch if the blob has another size.
        """
        key = blob_key(file.digest, prefix)
        if len(out):
            with self._translated(key):
                read, size = self._client.read_into, file.size_bytes
                self._pinned(key, lambda version: read(self.bucket, key, start, out, size, version=version))

    def get_texts(self, ref: ArtifactRef) -> bytes:
        """Return JSON lines, verified: one file, or all `.jsonl` files of a folder in the order of their names.

        Raises:
            Permanent: artifact_not_found, also when it is larger than WHOLE_BYTES; digest_mismatch, uri_not_allowed.
        """
        data = self.get(ref)
        try:
            files = FolderManifest.model_validate_json(data).files
        except ValidationError:
            return data
        texts = sorted((file for file in files if file.path.endswith(".jsonl")), key=lambda file: file.path)
        if sum(file.size_bytes for file in texts) > WHOLE_BYTES:
            reason = f"The texts in {ref.uri} are more than {WHOLE_BYTES >> 20} MiB; take a smaller sample."
            raise Permanent("artifact_not_found", reason)
        parts: list[bytes] = []
        for file in texts:
            part = bytearray(file.size_bytes)
            self.read_into(file, 0, memoryview(part), self.prefix_of(ref))
            parts.append(bytes(part))
            if digest_of(parts[-1]) != file.digest:
                raise Permanent("digest_mismatch", f"{file.path} of {ref.uri} is not what was announced.")
        return b"\n".join(parts)

    def fetch_files(
        self, files: Sequence[FileEntry], destination: Path, prefix: str = "", progress: Progress | None = None
    ) -> None:
        """Download files below a folder, each verified and then renamed into place.

        Raises:
            Permanent: artifact_not_found, digest_mismatch.
            Transient: store_unavailable, disk_full.
        """
        count = Count(sum(file.size_bytes for file in files), progress)
        for file in files:
            self._fetch_file(file, destination / file.path, prefix, count)

    def _fetch_file(self, file: FileEntry, path: Path, prefix: str, count: Count) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        hasher = hashlib.sha256()
        key = blob_key(file.digest, prefix)

        def saw(chunk: memoryview) -> None:
            hasher.update(chunk)
            count.add(len(chunk))

        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        temporary = Path(name)
        try:
            with self._translated(key), os.fdopen(descriptor, "wb") as out:
                self._download(key, file, out, saw)
            digest = f"sha256:{hasher.hexdigest()}"
            if digest != file.digest:
                raise Permanent(
                    "digest_mismatch", f"{file.path} is {digest}, announced as {file.digest}.", digest=digest
                )
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _download(self, key: str, file: FileEntry, out: BinaryIO, saw: Callable[[memoryview], None]) -> None:
        size, load = file.size_bytes, self._client.download
        self._pinned(key, lambda version: load(self.bucket, key, size, out, saw, version=version))

    def _size_of(self, key: str) -> int | None:
        try:
            with self._translated(key):
                size: int | None = self._client.stat_object(bucket_name=self.bucket, object_name=key).size
                return size
        except Permanent:
            return None


def manifest_bytes(manifest: BaseModel) -> bytes:
    """Return the stored bytes of a manifest."""
    if isinstance(manifest, FolderManifest):
        return manifest.to_bytes()
    return canonical_json(manifest.model_dump(mode="json"))


def blob_key(digest: str, prefix: str = "") -> str:
    """Return the key of a blob: `<prefix>blobs/sha256/ab/<hex>`."""
    hexadecimal = digest.removeprefix("sha256:")
    return f"{prefix}blobs/sha256/{hexadecimal[:2]}/{hexadecimal}"


def manifest_key(kind: str, output_key: str, prefix: str = "") -> str:
    """Return the key of a manifest: `<prefix>manifests/<kind>/<hex of the output key>.json`."""
    return f"{prefix}manifests/{kind}/{output_key.removeprefix('sha256:')}.json"
