"""Ports of the merger: the object store and the merge engine."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from contracts.facts import BaseModelRef, Parity
from contracts.manifests import FileEntry, MergedManifest
from contracts.vocabulary import ArtifactRef
from services.merger.domain import CheckpointKind, SaveDtype, TokenizerSource
from shared.runtime.progress import ReportProgress

Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Folder:
    """A folder in the store.

    Attributes:
        digest: Digest of its manifest.
        files: Its files.
        prefix: Key prefix of their blobs.
    """

    digest: str
    files: tuple[FileEntry, ...]
    prefix: str


@dataclass(frozen=True)
class MergeJob:
    """One merge, from the store to the store.

    Attributes:
        kind: `lora` merges `checkpoint` into `base`; `full` verifies and rewrites `checkpoint`.
        hyperparameters: What the training run recorded; `checkpoint` must not contradict it.
        scratch_dir: An empty local folder for small files: configurations, tokenizers, a LoRA.
    """

    kind: CheckpointKind
    base_ref: BaseModelRef
    hyperparameters: Mapping[str, Any]
    base: Folder
    checkpoint: Folder
    scratch_dir: Path
    dtype: SaveDtype


@dataclass(frozen=True)
class Rendering:
    """Digests of the rendered probe conversation and of its token ids; None for a model without a chat template."""

    prompt_digest: str | None
    token_ids_digest: str | None


@dataclass(frozen=True)
class MergeResult:
    """A merged model in the store, not committed yet, and the measurements of its verification.

    Attributes:
        tokenizer: Where the tokenizer comes from.
        rendering: By the tokenizer that was read back.
        expected_rendering: By the tokenizer of the inputs.
        quantised_base: The quantised base that the checkpoint was trained on; None if nothing says so.
    """

    files: tuple[FileEntry, ...]
    parity: Parity
    tokenizer: TokenizerSource
    rendering: Rendering
    expected_rendering: Rendering
    peak_rss_bytes: int
    quantised_base: str | None = None


class Blobs(Protocol):
    """The store as a merge uses it; `shared.storage.blobs.Store` documents each method."""

    def read_into(self, file: FileEntry, start: int, out: memoryview, prefix: str = "") -> None:
        """Fill `out` with a part of a blob, which the caller verifies."""

    def fetch_files(
        self,
        files: Sequence[FileEntry],
        destination: Path,
        prefix: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Download files below a folder, each verified."""

    def put_blob(self, data: memoryview, name: str) -> FileEntry:
        """Upload bytes in memory as a blob, unless it exists already."""

    def put_file(self, path: Path, name: str) -> FileEntry:
        """Upload one file as a blob, unless it is there already."""


class Artifacts(Protocol):
    """Base models, checkpoints and merged models in the store. Synchronous; every read verifies digests."""

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Return the committed merged model of an output key; None if there is none."""

    def open_base(self, base: BaseModelRef) -> Folder:
        """Return the files of a base model; raise Permanent if it differs from the declared one."""

    def open_folder(self, ref: ArtifactRef, progress: ReportProgress) -> Folder:
        """Return the files of a folder; raise Permanent if it does not exist or has another digest.

        `progress` gets the step `import` while a folder from outside is copied into the store.
        """

    def read_texts(self, folder: Folder, names: Sequence[str]) -> Mapping[str, str]:
        """Return the texts of a folder's existing files; invalid UTF-8 is replaced."""

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Write the manifest, create-only, and return the committed one: another replica may have been first."""

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one unit of work; it is removed afterwards."""


class Templates(Protocol):
    """Runs chat templates in a separate process, under limits."""

    async def render_with(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return a template rendered with exactly these variables.

        Raises:
            Permanent: `bad_request` if the template rejects the conversation, `engine_failed` if it fails.
        """

    async def variables_of(self, template: str) -> frozenset[str]:
        """Return the variables that a template reads; raise Permanent `engine_failed` if it is broken."""


class MergeEngine(Protocol):
    """Checks, merges and verifies in a separate process."""

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that decide the bytes of a merge."""

    def merge(self, job: MergeJob, progress: ReportProgress) -> Awaitable[MergeResult]:
        """Check a checkpoint, write the merged model into the store, and verify it there against its inputs.

        Raises:
            Permanent: The checkpoint is rejected; the code says why.
        """
