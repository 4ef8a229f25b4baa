"""Ports of the quantiser: the object store, the quantisation engine, and the end of a release."""

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
    """One quantisation on local folders: it reads `merged` and writes `output`.

    Attributes:
        plan: How the variant is made.
        merged: Folder of the merged model.
        output: Folder of the variant; the same as `merged` if the plan passes the files through.
        calibration: JSONL file of the calibration set; None for the packaged text.
        evaluation: JSONL file of the evaluation set; None if there is none.
    """

    plan: QuantisationPlan
    merged: Path
    output: Path
    calibration: Path | None = None
    evaluation: Path | None = None


class QuantisationResult(Contract):
    """Result of a job: quality is measured on the written folder, after reloading it, on the windows `held_out`."""

    quality: Quality
    held_out: tuple[HeldOutWindow, ...] = ()
    calibration_tokens: int
    peak_rss_bytes: int
    evaluation_quality: Quality | None = None


@dataclass(frozen=True)
class PackagedText:
    """Digests of the text that the service is packaged with."""

    calibration: Digest
    held_out: Digest


class Artifacts(Protocol):
    """Merged models and variants in the store. Synchronous; every read verifies digests."""

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Return a merged model's manifest; raise Permanent if it does not exist or has another digest."""

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return the committed variant of an output key; None if there is none."""

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: ReportProgress) -> None:
        """Download files of a merged model into a folder."""

    def fetch_texts(self, ref: ArtifactRef, into: Path) -> Path:
        """Download a calibration or evaluation set, one JSONL file or a folder of them; return it as one file."""

    def put(self, merged: ArtifactRef, folder: Path, progress: ReportProgress) -> tuple[FileEntry, ...]:
        """Upload the files of a folder as blobs, with the prefix of the merged model, and return their entries."""

    def put_held_out(self, merged: ArtifactRef, windows: tuple[HeldOutWindow, ...]) -> FileEntry | None:
        """Store the windows that a variant was measured on as a blob, and return its entry; None if there are none."""

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Write the manifest, create-only, and return the committed one: another replica may have been first."""

    def scratch_dir(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one unit of work; it is removed afterwards."""


class ReleaseWatch(Protocol):
    """Watches whether one release finishes."""

    async def finished(self) -> ReleaseFinished | None:
        """Return the event that finished the release; None if there is none, or if the bus does not answer now."""


WatchRelease = Callable[[Event[VariantRequested]], ReleaseWatch]
"""Returns the watch of the release that a request belongs to."""


class Engine(Protocol):
    """Quantises and measures in a process of its own."""

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Return the library that makes a plan's output, with its version."""

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return the versions of the libraries that decide a plan's output and the figures measured of it."""

    def quantise(self, job: QuantisationJob, progress: ReportProgress) -> Awaitable[QuantisationResult]:
        """Write the variant to `job.output` and measure it.

        Raises:
            Permanent: It cannot be made; the code says why.
        """
