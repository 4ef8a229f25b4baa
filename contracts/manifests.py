"""Manifests: the commits of the object store. Written once, after everything that they name."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .evaluations.results import EvaluationResult
from .facts import (
    BaseModelRef,
    EngineVersion,
    MergeMethod,
    Parity,
    Quality,
    RegisteredVariant,
    RehearsalCompleted,
    Weights,
)
from .facts.admission import Lineage
from .facts.staging import BenchmarkFigures
from .policy import LoadProfile
from .provenance.steps import RequiredAttestations
from .vocabulary import (
    ArtifactRef,
    Contract,
    Digest,
    Instant,
    ModelName,
    ServingSettings,
    Target,
    Variant,
    Verdict,
    canonical_json,
)

_SAFE_PATH = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")


def _safe_path(path: str) -> str:
    if not _SAFE_PATH.fullmatch(path) or len(path) > 512:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


class FileEntry(Contract):
    """One file of a folder; its bytes are stored at `blobs/sha256/<2 hex>/<hex>` beside the manifests."""

    path: Annotated[str, AfterValidator(_safe_path)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class FolderManifest(Contract):
    """A folder of files. The digest of its canonical JSON identifies the folder wherever it is stored."""

    kind: Literal["folder"] = "folder"
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]

    @property
    def size_bytes(self) -> int:
        """Return the total size of the files, in bytes."""
        return sum(file.size_bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: files sorted by path."""
        files = sorted((file.model_dump(mode="json") for file in self.files), key=lambda file: str(file["path"]))
        return canonical_json({"kind": self.kind, "files": files})


class BaseManifest(Contract):
    """An imported base model: `bases/<name>/<revision>.json`."""

    kind: Literal["base"] = "base"
    name: str
    revision: str
    folder: ArtifactRef
    weights_bytes: int
    architecture: str
    imported_at: Instant
    source: str


class _StoredModel(Contract):
    """A model as files in the store, and how it was made.

    Attributes:
        serving: The serving settings of the version; None if none are set.
    """

    model: ModelName
    output_key: Digest
    files: tuple[FileEntry, ...]
    weights_bytes: int
    duration_s: float
    peak_rss_bytes: int
    created_at: Instant
    serving: ServingSettings | None = None


class MergedManifest(_StoredModel):
    """A merged model: inputs, merge method, passed checks, files.

    Attributes:
        settings_of: The manifest of the same files with the checkpoint's own settings; None if this is it.
    """

    kind: Literal["merged"] = "merged"
    base: BaseModelRef
    weights: Weights
    method: MergeMethod
    parity: Parity | None
    tokenizer_digest: Digest
    rendered_prompt_digest: Digest | None
    settings_of: ArtifactRef | None = None


class HeldOutWindow(Contract):
    """A window of held-out text as token ids, with its negative log-likelihood under two models.

    Attributes:
        token_ids: The tokens, as the merged model's tokenizer returns them.
        reference_nll: Negative log-likelihood of all tokens but the first under the merged model, in nats.
        nll: The same under the variant, reloaded from what was written.
        reference_token_nlls: `reference_nll` token by token, so that a beginning of the window can be scored as well.
        token_nlls: `nll` token by token.
    """

    token_ids: Annotated[tuple[int, ...], Field(min_length=2)]
    reference_nll: float
    nll: float
    reference_token_nlls: tuple[float, ...] = ()
    token_nlls: tuple[float, ...] = ()


class HeldOutText(Contract):
    """The held-out text of a variant's quality measurement: a separate blob, so that it can be erased."""

    kind: Literal["held-out"] = "held-out"
    windows: tuple[HeldOutWindow, ...]


class VariantManifest(_StoredModel):
    """A quantised variant: its source, engine, settings, measured quality, and its files.

    Attributes:
        held_out_text: The blob with what the quality was measured on (`HeldOutText`), so that a server of the files can
            measure again on the same tokens. Erasing it changes no manifest.
    """

    kind: Literal["variant"] = "variant"
    variant: Variant
    merged: ArtifactRef
    engine: EngineVersion
    settings: dict[str, Any]
    calibration_digest: Digest | None
    held_out_digest: Digest
    held_out_text: FileEntry | None = None
    size_ratio: float
    quality: Quality
    evaluation_digest: Digest | None = None
    evaluation_quality: Quality | None = None


class VersionManifest(Lineage):
    """An immutable model version with its lineage: `versions/<model>/<version>/manifest.json`.

    Attributes:
        quantised_base: The quantised base that the checkpoint was trained on, as in `MergeMethod`.
        policy: The frozen release policy as JSON, which `policy_digest` is of.
    """

    kind: Literal["version"] = "version"
    version: int
    release_id: str
    release_key: Digest
    merged: ArtifactRef
    variants: tuple[RegisteredVariant, ...]
    quantised_base: str | None = None
    policy_digest: Digest
    policy: dict[str, Any]
    registered_at: Instant
    attestations: RequiredAttestations


class RehearsalRecord(Contract):
    """The outcome of a rehearsal: `versions/<model>/<version>/rehearsals/<release>-<digest>.json`."""

    kind: Literal["rehearsal"] = "rehearsal"
    target: Target
    manifest_digest: Digest
    completed: RehearsalCompleted


class ApprovalRecord(Contract):
    """An approval of a variant: `versions/<model>/<version>/approvals/<digest of the order's id>.json`.

    Attributes:
        approved_by: The credential that published the order.
        order_id: The order's event.
    """

    kind: Literal["approval"] = "approval"
    target: Target
    manifest_digest: Digest
    release_id: str
    approved_by: str
    order_id: str
    reason: str = ""
    approved_at: Instant


class DeploymentRecord(Contract):
    """One deployment of a version, appended: `versions/<model>/<version>/deployments/<epoch>.json`.

    If epochs restarted, a second record of the same epoch is `<epoch>-<cause>.json`.
    """

    kind: Literal["deployment"] = "deployment"
    target: Target
    epoch: int
    cause: str
    cause_id: str
    weight_ratio: float
    deployed_at: Instant


LockMode = Literal["governance", "compliance"]
"""`governance`: a right of its own can lift it, which no identity of Slipway has. `compliance`: nothing can."""


class _Report(Contract):
    output_key: Digest
    started_at: Instant
    duration_s: float


class BenchmarkReport(BenchmarkFigures, _Report):
    """A benchmark in full: load, both sides, ratios, quality, verdicts, prices, and every request."""

    kind: Literal["benchmark"] = "benchmark"
    hardware: dict[str, Any]
    load: LoadProfile
    requests: tuple[dict[str, Any], ...]


class EvaluationReport(_Report):
    """The evaluations of a candidate in full: every limit, every score, and every row.

    Attributes:
        evaluation: The checkpoint's evaluation set; None without one.
        method: Which scorers it was made by: scores of other ones are not comparable.
    """

    kind: Literal["evaluation"] = "evaluation"
    target: Target
    baseline: Target
    attempt: int
    evaluation: ArtifactRef | None = None
    method: str = ""
    results: tuple[EvaluationResult, ...]
    verdict: Verdict
    reason: str
