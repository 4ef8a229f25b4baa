"""The merger's ports: object store, chat templates and merge engine."""

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
    """A merge of folders in the store, with its result in the store.

    Attributes:
        kind: `lora` merges `checkpoint` into `base`; `full` verifies and rewrites `checkpoint`.
        hyperparameters: Hyperparameters of the training run; `checkpoint` must not contradict them.
        scratch_dir: Empty local folder for small files: configurations, tokenizers, a LoRA.
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
    """Digests of the rendered probe conversation and its token IDs; None without a chat template."""

    prompt_digest: str | None
    token_ids_digest: str | None


@dataclass(frozen=True)
class MergeResult:
    """A merged model in the store, not committed, with its verification.

    Attributes:
        tokenizer: Source of its tokenizer.
        rendering: Rendering by the stored tokenizer.
        expected_rendering: Rendering by the inputs' tokenizer.
        quantised_base: Quantised base that the checkpoint was trained on; None if unknown.
    """

    files: tuple[FileEntry, ...]
    parity: Parity
    tokenizer: TokenizerSource
    rendering: Rendering
    expected_rendering: Rendering
    peak_rss_bytes: int
    quantised_base: str | None = None


class Blobs(Protocol):
    """The store as used by a merge; see `shared.storage.blobs.Store`."""

    def read_into(self, file: FileEntry, start: int, out: memoryview, prefix: str = "") -> None:
        """Fill `out` with a part of a blob, not verified."""

    def fetch_files(
        self,
        files: Sequence[FileEntry],
        destination: Path,
        prefix: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Download files into a folder and verify each."""

    def put_blob(self, data: memoryview, name: str) -> FileEntry:
        """Upload bytes in memory as a blob, unless it exists."""

    def put_file(self, path: Path, name: str) -> FileEntry:
        """Upload a file as a blob, unless it exists."""


class Artifacts(Protocol):
    """Base models, checkpoints and merged models in the store. Synchronous; every read verifies digests."""

    def find_merged(self, output_key: str) -> tuple[MergedManifest, ArtifactRef] | None:
        """Return the committed merged model with this output key; None if there is none."""

    def open_base(self, base: BaseModelRef) -> Folder:
        """Return a base model's files; raise Permanent if its digest is not the declared one."""

    def open_folder(self, ref: ArtifactRef, progress: ReportProgress) -> Folder:
        """Return a folder's files; raise Permanent if it does not exist or has another digest.

        `progress` reports step `import` while an external folder is copied into the store.
        """

    def read_texts(self, folder: Folder, names: Sequence[str]) -> Mapping[str, str]:
        """Return the texts of the named files that exist; invalid UTF-8 is replaced."""

    def commit(self, manifest: MergedManifest) -> tuple[MergedManifest, ArtifactRef]:
        """Write a manifest, create-only; return the stored one, which may be another replica's."""

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Yield an empty folder for one job; it is removed afterwards."""


class Templates(Protocol):
    """Runs chat templates in a separate, limited process."""

    async def render_with(self, template: str, variables: Mapping[str, Any]) -> str:
        """Render a template with exactly these variables.

        Raises:
            Permanent: `bad_request` if the template rejects the conversation, `engine_failed` if it fails.
        """

    async def variables_of(self, template: str) -> frozenset[str]:
        """Return the variables that a template reads; raise Permanent `engine_failed` if it is broken."""


class MergeEngine(Protocol):
    """Checks, merges and verifies in a separate process."""

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that determine a merge's bytes."""

    def merge(self, job: MergeJob, progress: ReportProgress) -> Awaitable[MergeResult]:
        """Check a checkpoint, write the merged model into the store, and verify it there against its inputs.

        Raises:
            Permanent: The checkpoint is rejected, for the reason in the code.
        """
