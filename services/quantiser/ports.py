"""What the quantiser needs from outside."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contracts.envelope import Event
from contracts.facts import EngineVersion, Measurement, Processor, Quality, ReleaseFinished, VariantRequested
from contracts.manifests import FileEntry, HeldOutWindow, MergedManifest, VariantManifest
from contracts.vocabulary import ArtifactRef, Contract, Digest
from services.quantiser.domain import QuantisationPlan

Progress = Callable[[str, float, float, str], None]
"""Called with step, done, total, unit; from any thread."""


class Order(Contract):
    """One quantisation on local folders: read `merged`, write `output`; the two sets are JSONL, if given.

    Where the plan passes the merged files through, both are the same folder, and it is only measured.

    Attributes:
        measure_again: `output` is written already: it is only measured, in plain float32 throughout.
    """

    plan: QuantisationPlan
    merged: Path
    output: Path
    calibration: Path | None = None
    evaluation: Path | None = None
    measure_again: bool = False


class Made(Contract):
    """What the engine made: quality is measured on the written folder, after reloading it; `held_out` says on what."""

    quality: Quality
    held_out: tuple[HeldOutWindow, ...] = ()
    calibration_tokens: int
    peak_rss_bytes: int
    evaluation_quality: Quality | None = None
    measurement: Measurement


@dataclass(frozen=True)
class PackagedText:
    """Digests of the text that comes with the service."""

    calibration: Digest
    held_out: Digest


class Artifacts(Protocol):
    """Merged models and variants in the store. Synchronous; every read verifies digests."""

    def open_merged(self, ref: ArtifactRef) -> MergedManifest:
        """Read a merged model's manifest; raise Permanent when it is not there or not what was announced."""
        ...

    def open_variant(self, ref: ArtifactRef) -> VariantManifest:
        """Read a variant's manifest; raise Permanent when it is not there or not what was announced."""
        ...

    def find_variant(self, merged: ArtifactRef, output_key: str) -> tuple[VariantManifest, ArtifactRef] | None:
        """Return the committed output of an earlier run, if there is one."""
        ...

    def fetch(self, merged: ArtifactRef, files: Sequence[FileEntry], into: Path, progress: Progress) -> None:
        """Download files of a merged model into a folder."""
        ...

    def fetch_texts(self, ref: ArtifactRef, into: Path) -> Path:
        """Download a calibration or evaluation set, one JSONL file or a folder of them, into one file."""
        ...

    def put(self, merged: ArtifactRef, folder: Path, progress: Progress) -> tuple[FileEntry, ...]:
        """Upload the files of a folder as blobs, beside those of the merged model."""
        ...

    def commit(self, merged: ArtifactRef, manifest: VariantManifest) -> tuple[VariantManifest, ArtifactRef]:
        """Write the manifest, create-only; give the one that is there in the end."""
        ...

    def workshop(self, name: str) -> AbstractAsyncContextManager[Path]:
        """Return an empty folder for one piece of work, gone afterwards."""
        ...


class End(Protocol):
    """Watches for the end of one release."""

    async def look(self) -> ReleaseFinished | None:
        """Return the fact that ended the release; None when there is none, or when it cannot be known now."""
        ...


FindEnd = Callable[[Event[VariantRequested]], End]


class Engine(Protocol):
    """Does the heavy work, outside this process."""

    def version(self, plan: QuantisationPlan) -> EngineVersion:
        """Name the library that makes a plan's output, with its version."""
        ...

    def library_versions(self, plan: QuantisationPlan) -> dict[str, str]:
        """Return the versions of the libraries that decide the bytes of a plan's output and what is measured of it."""
        ...

    def processor(self) -> Awaitable[Processor]:
        """Return what computes the work of this engine: a part of the output key."""
        ...

    def quantise(self, order: Order, progress: Progress) -> Awaitable[Made]:
        """Write the variant to `order.output` and measure it.

        Raises:
            Permanent: It cannot be made, with its code.
            Transient: What computed it is not what `processor` named.
        """
        ...
