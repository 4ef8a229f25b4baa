"""What the merger needs from outside."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
    """One merge, from the store to the store.

    Attributes:
        kind: `lora` merges `checkpoint` into `base`; `full` verifies and rewrites `checkpoint`.
        hyperparameters: What the training run recorded of itself; `checkpoint` must not contradict it.
        room: An empty local folder for what is small: configurations, tokenizers, a LoRA.
    """

    kind: Kind
    base_ref: BaseModelRef
    hyperparameters: Mapping[str, Any]
    base: Folder
    checkpoint: Folder
    room: Path
    dtype: SaveDtype


@dataclass(frozen=True)
class Rendering:
    """What a tokenizer makes of the probe conversation; None where a model has no chat template."""

    prompt_digest: str | None
    token_ids_digest: str | None


@dataclass(frozen=True)
class Made:
    """A merged model that lies in the store, not committed yet, and what a look at it found there.

    Attributes:
        own_tokenizer: The tokenizer is the checkpoint's, not the base's.
        rendering: By the tokenizer that was read back.
        expected_rendering: By the tokenizer that went in.
    """

    files: tuple[FileEntry, ...]
    parity: Parity
    own_tokenizer: bool
    rendering: Rendering
    expected_rendering: Rendering
    peak_rss_bytes: int


class Artifacts(Protocol):
    """Base models, checkpoints and merged models in the store. Synchronous; every read verifies digests."""

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Return the committed output of an earlier run, if there is one."""
        ...

    def open_base(self, base: BaseModelRef) -> Folder:
        """Read what files a base model has; raise Permanent when it is not the declared one."""
        ...

    def open_folder(self, ref: ArtifactRef, progress: Progress) -> Folder:
        """Read what files a folder has; raise Permanent when it is not there or not what was announced.

        `progress` hears of the step `import` while a folder from outside is brought into the store.
        """
        ...

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Write the manifest, create-only; give the one that is there in the end."""
        ...

    def workshop(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one piece of work, gone afterwards."""
        ...


class MergeEngine(Protocol):
    """Does the heavy work, outside this process."""

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that decide the bytes of a merge."""
        ...

    def make(self, order: MergeOrder, progress: Progress) -> Awaitable[Made]:
        """Check a checkpoint, put the merged model into the store, and compare it there with what went in.

        Raises:
            Permanent: the checkpoint is refused, with its code.
        """
        ...
