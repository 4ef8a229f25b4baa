"""What the merger needs from outside."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contracts.facts import BaseModelRef, Parity
from contracts.manifests import FileEntry, MergedManifest
from contracts.vocabulary import ArtifactRef
from services.merger.domain import Kind, SaveDtype

Progress = Callable[[str, float, float, str], None]
"""Called with step, done, total, unit; from any thread."""


@dataclass(frozen=True)
class Folder:
    """A folder of files in the store: what is in it, and where its blobs lie."""

    digest: str
    files: tuple[FileEntry, ...]
    prefix: str


@dataclass(frozen=True)
class MergeOrder:
    """One merge on local folders.

    Attributes:
        kind: `lora` merges `checkpoint` into `base`; `full` verifies and rewrites `checkpoint`.
        stored: Where the merged model lies once it came back from the store.
    """

    kind: Kind
    base_ref: BaseModelRef
    base: Path
    checkpoint: Path
    out: Path
    stored: Path
    dtype: SaveDtype


@dataclass(frozen=True)
class Verification:
    """What a look at the stored model found."""

    parity: Parity
    rendered_prompt_digest: str | None
    base_rendered_prompt_digest: str | None
    peak_rss_bytes: int


class Artifacts(Protocol):
    """Base models, checkpoints and merged models in the store. Synchronous; every read verifies digests."""

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Give the committed output of an earlier run, if there is one."""
        ...

    def open_base(self, base: BaseModelRef) -> Folder:
        """Read what files a base model has; raise Permanent when it is not the declared one."""
        ...

    def open_folder(self, ref: ArtifactRef) -> Folder:
        """Read what files a folder has; raise Permanent when it is not there or not what was announced."""
        ...

    def keep(self, folder: Folder, progress: Progress) -> Path:
        """Give a local copy of a folder that stays for the next time; what is there already is verified."""
        ...

    def fetch(self, files: Sequence[FileEntry], prefix: str, into: Path, progress: Progress, step: str) -> None:
        """Download files into a folder of their own."""
        ...

    def put(self, folder: Path, progress: Progress) -> tuple[FileEntry, ...]:
        """Upload the files of a folder as blobs."""
        ...

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Write the manifest, create-only; give the one that is there in the end."""
        ...

    def workshop(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Give an empty folder for one piece of work, gone afterwards."""
        ...


class MergeEngine(Protocol):
    """Does the heavy work, outside this process."""

    def library_versions(self) -> dict[str, str]:
        """Give the versions of the libraries that decide the bytes of a merge."""
        ...

    def merge(self, order: MergeOrder, progress: Progress) -> Awaitable[int]:
        """Check a checkpoint and write the merged model to `order.out`; give the peak memory in bytes.

        Raises:
            Permanent: the checkpoint is refused, with its code.
        """
        ...

    def verify(self, order: MergeOrder, progress: Progress) -> Awaitable[Verification]:
        """Compare what came back from the store with what went in."""
        ...
