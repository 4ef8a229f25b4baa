"""Manifests of the object store: written once, after the objects that they name."""

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
    """A file of a folder; its bytes are at `blobs/sha256/<2 hex>/<hex>`."""

    path: Annotated[str, AfterValidator(_safe_path)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class FolderManifest(Contract):
    """A folder of files, identified by the digest of its canonical JSON."""

    kind: Literal["folder"] = "folder"
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]

    @property
    def size_bytes(self) -> int:
        """Return the total size of the files in bytes."""
        return sum(file.size_bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON, files sorted by path."""
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
    """A model as files in the store, with cost and time of its creation.

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
    """A merged model: inputs, merge method and checks.

    Attributes:
        settings_of: Manifest of the same files with the checkpoint's own settings; None if this manifest has them.
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
        token_ids: Tokens of the merged model's tokenizer.
        reference_nll: Negative log-likelihood of all tokens but the first under the merged model, in nats.
        nll: The same under the stored variant.
        reference_token_nlls, token_nlls: The same by token, to score a prefix of the window.
    """

    token_ids: Annotated[tuple[int, ...], Field(min_length=2)]
    reference_nll: float
    nll: float
    reference_token_nlls: tuple[float, ...] = ()
    token_nlls: tuple[float, ...] = ()


class HeldOutText(Contract):
    """The held-out text of a variant's quality measurement, in a blob of its own that can be erased."""

    kind: Literal["held-out"] = "held-out"
    windows: tuple[HeldOutWindow, ...]


class VariantManifest(_StoredModel):
    """A quantised variant: source, engine, settings and measured quality.

    Attributes:
        held_out_text: Blob with the text of the measurement (`HeldOutText`), to repeat it on a server; may be erased.
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
        quantised_base: As in `MergeMethod`.
        policy: The frozen release policy as JSON.
        policy_digest: Digest of `policy`.
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
        approved_by: Identity that published the order.
        order_id: Id of the order's event.
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
    """A deployment of a version: `versions/<model>/<version>/deployments/<epoch>.json`.

    After epochs restarted, a second record of an epoch is `<epoch>-<cause>.json`.
    """

    kind: Literal["deployment"] = "deployment"
    target: Target
    epoch: int
    cause: str
    cause_id: str
    weight_ratio: float
    deployed_at: Instant


LockMode = Literal["governance", "compliance"]
"""`governance`: removable by a privileged user; no identity of Slipway is one. `compliance`: not removable."""


class _Report(Contract):
    output_key: Digest
    started_at: Instant
    duration_s: float


class BenchmarkReport(BenchmarkFigures, _Report):
    """A benchmark with its load and every request."""

    kind: Literal["benchmark"] = "benchmark"
    hardware: dict[str, Any]
    load: LoadProfile
    requests: tuple[dict[str, Any], ...]


class EvaluationReport(_Report):
    """The evaluations of a candidate with every limit, score and row.

    Attributes:
        evaluation: The checkpoint's evaluation set; None without one.
        method: Version of the scorers; scores of different versions are not comparable.
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
