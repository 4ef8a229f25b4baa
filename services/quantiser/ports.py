"""The quantiser's ports: object store, quantisation engine, and end of a release."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contracts.envelope import Event
from contracts.facts import EngineVersion, Quality, ReleaseFinished, VariantRequested
from contracts.manifests import FileEntry, HeldOutWindow, MergedManifest, VariantManifest
from contracts.vocabulary import ArtifactRef, Contract, Digest
from services.quantiser.domain import QuantisationPlan
from shared.runtime.progress import ReportProgress


class QuantisationJob(Contract):
    """A quantisation of local folders.

    Attributes:
        plan: How the variant is made.
        merged: Folder of the merged model.
        output: Folder of the variant; same as `merged` for a pass-through plan.
        calibration: JSONL file of the calibration set; None for the packaged text.
        evaluation: JSONL file of the evaluation set; None without one.
    """

    plan: QuantisationPlan
    merged: Path
    output: Path
    calibration: Path | None = None
    evaluation: Path | None = None


class QuantisationResult(Contract):
    """Result of a job. Quality is measured on the written folder after reloading, on the windows `held_out`."""

    quality: Quality
    held_out: tuple[HeldOutWindow, ...] = ()
    calibration_tokens: int
    peak_rss_bytes: int
    evaluation_quality: Quality | None = None


@dataclass(frozen=True)
class PackagedText:
    """Digests of the packaged text."""

    calibration: Digest
    held_out: Digest


class Artifacts(Protocol):
    """Merged models and variants in the store. Synchronous; every read verifies digests."""

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Return a merged model's manifest; raise Permanent if it does not exist or has another digest."""

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return the committed variant with this output key; None if there is none."""

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: ReportProgress) -> None:
        """Download files of a merged model into a folder."""

    def fetch_texts(self, ref: ArtifactRef, into: Path) -> Path:
        """Download a calibration or evaluation set (a JSONL file or a folder of them) as one file."""

    def put(self, merged: ArtifactRef, folder: Path, progress: ReportProgress) -> tuple[FileEntry, ...]:
        """Upload a folder's files as blobs under the merged model's prefix; return their entries."""

    def put_held_out(self, merged: ArtifactRef, windows: tuple[HeldOutWindow, ...]) -> FileEntry | None:
        """Store a variant's held-out windows as a blob; return its entry, or None without windows."""

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Write a manifest, create-only; return the stored one, which may be another replica's."""

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Yield an empty folder for one job; it is removed afterwards."""


class ReleaseWatch(Protocol):
    """Watches for the end of one release."""

    async def finished(self) -> ReleaseFinished | None:
        """Return the release's `release.finished`; None if there is none or the bus does not answer."""


WatchRelease = Callable[[Event[VariantRequested]], ReleaseWatch]
"""Returns a request's release watch."""


class Engine(Protocol):
    """Quantises and measures in a separate process."""

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Return name and version of the engine that makes a plan's output."""

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return the versions of the libraries that determine a plan's output and measurements."""

    def quantise(self, job: QuantisationJob, progress: ReportProgress) -> Awaitable[QuantisationResult]:
        """Write the variant to `job.output` and measure it.

        Raises:
            Permanent: The variant cannot be made, for the reason in the code.
        """
