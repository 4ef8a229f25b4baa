"""Model folders outside the store: on disk below allowed roots, or in a hub's repository at a commit."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from contracts.manifests import FileEntry, FolderManifest
from contracts.storage.sources import is_weights, parse_file_uri, parse_hub_uri, pickles_in, scheme_of, travels
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent, translate
from shared.runtime.settings import SourceSettings
from shared.storage.blobs import SOURCES, Store, manifest_key
from shared.storage.hub import Hub
from shared.storage.transfer import Count

T = TypeVar("T")
OnBytes = Callable[[int], None]
"""Called with the number of bytes read; negative when a download starts over."""
Report = Callable[[float, float], None]
"""Called with bytes done and bytes in all, from any thread, one call at a time."""
CHUNK_BYTES = 4 * 1024 * 1024


class Source(Protocol):
    """A folder outside the store that may be read."""

    @property
    def uri(self) -> str:
        """Return the folder's permanent URI: a hub's repository at a commit, or a folder on disk."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the files to copy, sorted."""

    @property
    def size_bytes(self) -> int:
        """Return the total size of these files."""

    def fetch(self, name: str, into: Path, count: OnBytes | None = None) -> Path:
        """Copy one file into an empty folder and return the copy's path."""


@dataclass(frozen=True)
class Quota:
    """The size limits of a checkpoint's folder."""

    max_bytes: int
    max_files: int

    def check(self, what: str, files: int, size_bytes: int) -> None:
        """Raise Permanent too_large if a folder has more files or bytes than the quota allows."""
        if files > self.max_files:
            raise Permanent("too_large", f"{what} has {files} files; SLIPWAY_SOURCE_MAX_FILES allows {self.max_files}.")
        if size_bytes > self.max_bytes:
            raise Permanent(
                "too_large", f"{what} has {size_bytes} bytes in all; SLIPWAY_SOURCE_MAX_BYTES allows {self.max_bytes}."
            )


class DiskFolder:
    """A folder on disk; links may only lead below the allowed roots."""

    def __init__(self, uri: str, roots: tuple[Path, ...], quota: Quota | None = None) -> None:
        self.uri = uri
        self._quota = quota
        self._copied = 0
        self._roots = tuple(root.resolve() for root in roots)
        self._path = Path(parsed(parse_file_uri, uri))
        with _readable(uri):
            self._require_inside(resolved(self._path))
            if not self._path.is_dir():
                raise Permanent("artifact_not_found", f"{uri} is not a folder on this machine.")
            self.names = choose(uri, [path.name for path in self._path.iterdir()])
            for name in self.names:
                self._require_inside(resolved(self._path / name))
            self.size_bytes = sum((self._path / name).stat().st_size for name in self.names)
        if quota is not None:
            quota.check(uri, len(self.names), self.size_bytes)

    def fetch(self, name: str, into: Path, count: OnBytes | None = None) -> Path:
        """Copy one file into a folder and return the copy's path.

        The opened file is checked against the allowed roots, so that replacing a link cannot bypass the check.
        """
        with _readable(f"{self.uri}/{name}"):
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._require_inside(Path(f"/proc/self/fd/{descriptor}").readlink())
                self._require_regular(name, os.fstat(descriptor).st_mode)
                with os.fdopen(descriptor, "rb", closefd=False) as source, (into / name).open("wb") as copy:
                    while chunk := source.read(CHUNK_BYTES):
                        self._copied += len(chunk)
                        if self._quota is not None:  # a file may have grown
                            self._quota.check(self.uri, len(self.names), self._copied)
                        copy.write(chunk)
                        if count is not None:
                            count(len(chunk))
            finally:
                os.close(descriptor)
        return into / name

    def _require_regular(self, name: str, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise Permanent("artifact_not_found", f"{self.uri}/{name} is not a regular file.")

    def _require_inside(self, path: Path) -> None:
        if not any(path.is_relative_to(root) for root in self._roots):
            raise Permanent(
                "uri_not_allowed",
                f"{self.uri} leads outside the allowed roots; operations may add one to SLIPWAY_FILE_ROOTS.",
            )


class HubRepository:
    """The top folder of a hub's repository, pinned to a commit."""

    def __init__(self, hub: Hub, uri: str, quota: Quota) -> None:
        self._hub = hub
        self._folder, files = hub.look(parsed(parse_hub_uri, uri))
        self.uri = self._folder.uri
        self.names = choose(self.uri, [file.path for file in files])
        self._files = {file.path: file for file in files}
        self.size_bytes = sum(self._files[name].size_bytes for name in self.names)
        quota.check(self.uri, len(self.names), self.size_bytes)

    def fetch(self, name: str, into: Path, count: OnBytes | None = None) -> Path:
        """Download one file into a folder, verify it against the hub's list, and return its path."""
        return self._hub.fetch(self._folder, self._files[name], into, count)


class Sources:
    """The folders outside the store that operations allow."""

    def __init__(self, settings: SourceSettings) -> None:
        token = settings.hf_token.get_secret_value() if settings.hf_token is not None else None
        self._hub = Hub(settings.hf_endpoint, token) if settings.hf_endpoint is not None else None
        self._roots = settings.file_roots
        self.quota = Quota(settings.source_max_bytes, settings.source_max_files)

    def open(self, uri: str) -> Source:
        """Return an open folder; a branch or tag is resolved to its commit, in the source's `uri`.

        Raises:
            Permanent: uri_not_allowed, artifact_not_found, pickle_refused, too_large.
            Transient: hub_unavailable.
        """
        if scheme_of(uri) == "file":
            return DiskFolder(uri, self._roots, self.quota)
        parsed(parse_hub_uri, uri)
        if self._hub is None:
            raise Permanent(
                "uri_not_allowed",
                f"{uri} cannot be read: no model hub is configured. Set SLIPWAY_HF_ENDPOINT, for example "
                "https://huggingface.co, here and for the registry and the merger (`slipway up` passes it on).",
            )
        return HubRepository(self._hub, uri, self.quota)


def choose(uri: str, names: list[str]) -> tuple[str, ...]:
    """Return the names of the files to copy, sorted.

    Raises:
        Permanent: pickle_refused or artifact_not_found without safetensors weights.
    """
    chosen = tuple(sorted(name for name in names if travels(name)))
    if any(is_weights(name) for name in chosen):
        return chosen
    pickles = pickles_in(names)
    if pickles:
        raise Permanent("pickle_refused", f"{uri} holds its weights as {pickles[0]} and not as safetensors.")
    raise Permanent("artifact_not_found", f"{uri} holds no .safetensors file in its top folder.")


def read_folder(
    source: Source, scratch: Path, keep: Callable[[Path, str], FileEntry], count: OnBytes | None = None
) -> FolderManifest:
    """Pass each file of a folder to `keep` and return the manifest; `scratch` holds one file at a time.

    Args:
        source: The folder.
        scratch: An empty folder with space for the largest file.
        keep: Called with a file and its name; returns its entry in the manifest.
        count: Called with the number of bytes read.
    """
    entries = []
    for name in source.names:
        path = source.fetch(name, scratch, count)
        entries.append(keep(path, name))
        path.unlink()
    return FolderManifest(files=tuple(entries))


def store_folder(
    store: Store, source: Source, scratch: Path, prefix: str = "", report: Report | None = None
) -> FolderManifest:
    """Copy each file of a folder into the store as a blob, and return the uncommitted manifest.

    Args:
        store: The object store.
        source: The folder.
        scratch: An empty folder with space for the largest file.
        prefix: Prefix of the blobs' keys.
        report: Called with bytes done and in total; a byte counts half when read, and half when stored.
    """
    total = 2 * source.size_bytes
    # a folder on disk may grow meanwhile
    count = Count(total, report and (lambda done, _total: report(min(done, total) / 2, total / 2)))

    def keep(path: Path, name: str) -> FileEntry:
        before = count.done
        entry = store.put_file(path, name, prefix, count.add)
        count.add(before + entry.size_bytes - count.done)  # if it was stored already
        return entry

    return read_folder(source, scratch, keep, count.add)


def describe_file(path: Path, name: str) -> FileEntry:
    """Return a file's entry in the manifest of its folder."""
    with path.open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    return FileEntry(path=name, digest=digest, size_bytes=path.stat().st_size)


def bring(
    store: Store, sources: Sources, ref: ArtifactRef, scratch_root: Path, report: Report | None = None
) -> ArtifactRef:
    """Copy a folder from outside into the store, once for each digest, and return the ref of its manifest.

    Args:
        store: The object store.
        sources: The allowed sources.
        ref: URI and digest of the folder.
        scratch_root: A folder with space for the largest file.
        report: As in `store_folder`; not called if the folder is stored already.

    Raises:
        Permanent: uri_not_allowed, artifact_not_found, pickle_refused, too_large, digest_mismatch.
        Transient: hub_unavailable, store_unavailable, disk_full.
    """
    key = manifest_key("folder", ref.digest, SOURCES)
    there = store.find(key)
    if there is not None:
        return ArtifactRef(uri=store.uri(key), digest=ref.digest, size_bytes=len(there))
    if scheme_of(ref.uri) == "hf" and not parsed(parse_hub_uri, ref.uri).pinned:
        raise Permanent("uri_not_allowed", f"{ref.uri} names no commit; name the 40 hexadecimal digits of one.")
    source = sources.open(ref.uri)
    log = structlog.get_logger().bind(uri=ref.uri, files=len(source.names), bytes=source.size_bytes)
    log.info("bringing a folder into the store")
    scratch_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=scratch_root, prefix=f"{os.getpid()}-source-", ignore_cleanup_errors=True
    ) as scratch:
        manifest = store_folder(store, source, Path(scratch), SOURCES, report)
    data = manifest.to_bytes()
    digest = digest_of(data)
    if digest != ref.digest:
        raise Permanent("digest_mismatch", f"{ref.uri} is {digest}, announced as {ref.digest}.", found=digest)
    store.put_manifest(key, manifest)
    return ArtifactRef(uri=store.uri(key), digest=digest, size_bytes=len(data))


def parsed(parse: Callable[[str], T], uri: str) -> T:
    """Return a parsed URI; raise Permanent uri_not_allowed if it is invalid."""
    try:
        return parse(uri)
    except ValueError as error:
        raise Permanent("uri_not_allowed", f"{uri[:300]}: {error}.") from error


def resolved(path: Path) -> Path:
    """Return a path with links resolved; raise OSError ELOOP for a loop, in Python 3.11 a RuntimeError."""
    try:
        return path.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Permanent("artifact_not_found", f"{what} is not there: {error.strerror}.") from error
    except PermissionError as error:
        raise Permanent("uri_not_allowed", f"{what} may not be read by this process: {error.strerror}.") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
            raise Permanent("artifact_not_found", f"{what} is not there: {error.strerror}.") from error
        raise translate(error) or error from error
