"""Facts from checkpoint to merged model."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..codes import Code
from ..limits import AtMost
from ..policy import ReleasePolicy
from ..vocabulary import (
    ArtifactRef,
    Contract,
    Deployable,
    Digest,
    Fact,
    Instant,
    ModelName,
    Ratio,
    ServingSettings,
    Variant,
)


class BaseModelRef(Contract):
    """The base model of a checkpoint; `digest` is that of its folder manifest."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    revision: Annotated[str, Field(min_length=1, max_length=200)]
    uri: Annotated[str, AtMost(characters=2048)]
    digest: Digest


class Weights(Contract):
    """A LoRA or full weights, as a folder manifest."""

    kind: Literal["lora", "full"]
    ref: ArtifactRef


class Training(Contract):
    """The training run of a checkpoint, as its publisher states it."""

    run_id: Annotated[str, Field(min_length=1, max_length=200)]
    data_hash: Digest
    hyperparameters: Annotated[dict[str, Any], AtMost(items=256, json_bytes=32_768)] = {}
    framework: Annotated[str, AtMost(characters=200)] = ""
    finished_at: Instant | None = None


class EvalResult(Contract):
    """A metric of the checkpoint, measured by the training system."""

    name: Annotated[str, AtMost(characters=200)]
    metric: Annotated[str, AtMost(characters=200)]
    value: float
    higher_is_better: bool = True


class Lineage(Contract):
    """A checkpoint with its base model, training and serving settings."""

    model: ModelName
    base: BaseModelRef
    weights: Weights
    training: Training
    evals: Annotated[tuple[EvalResult, ...], AtMost(items=256)] = ()
    serving: ServingSettings | None = None
    """How the version is served; in `checkpoint.ready`, `serving.json` of the checkpoint sets what is left out."""


class _Checkpoint(Lineage, Fact):
    """A checkpoint with the sets of texts that it is measured on.

    Attributes:
        attempt: Distinguishes releases of the same checkpoint.
    """

    calibration: ArtifactRef | None = None
    evaluation: ArtifactRef | None = None
    attempt: Annotated[int, Field(ge=1)] = 1


class CheckpointReady(_Checkpoint):
    """A training system published a complete checkpoint for release."""

    TYPE: ClassVar[str] = "slipway.checkpoint.ready.v1"

    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = ("int8",)
    policy: ReleasePolicy | None = None


class ReleaseOpened(_Checkpoint):
    """The registry admitted a checkpoint, reserved a version number and froze the policy.

    Attributes:
        publishers: Identities that announced the checkpoint: its sender, and the administrator who requeued it.
        returns: Suspended version that this release returns as a canary without building or measuring it again.
    """

    TYPE: ClassVar[str] = "slipway.release.opened.v1"

    release_id: str
    version: Annotated[int, Field(ge=1)]
    release_key: Digest
    variants: tuple[Variant, ...]
    policy: ReleasePolicy
    source_event_id: str
    publishers: tuple[str, ...] = ()
    returns: Annotated[Deployable | None, Field(exclude_if=lambda returns: returns is None)] = None


class CheckpointRejected(Fact):
    """A checkpoint was refused; `reason` includes advice."""

    TYPE: ClassVar[str] = "slipway.checkpoint.rejected.v1"

    code: Code
    reason: str
    details: dict[str, Any] = {}


class MergeMethod(Contract):
    """The method of a merge."""

    dtype: Literal["bfloat16", "float16", "float32"]
    library_versions: dict[str, str]
    quantised_base: Annotated[str, AtMost(characters=200)] | None = None
    """Name of the quantised base of a QLoRA checkpoint, or the recorded setting that shows quantised loading."""


class Parity(Contract):
    """The stored merged model compared with base + LoRA on prompts (logits in fp32)."""

    prompts: int
    max_abs_logit_difference: float
    mean_kl: float
    top1_agreement_ratio: Ratio
    effect_kl: float | None = None
    """Mean KL divergence of the base from base + LoRA, for comparison with `mean_kl`."""


class CheckpointMerged(Fact):
    """The merged model was stored, reloaded and verified."""

    TYPE: ClassVar[str] = "slipway.checkpoint.merged.v1"

    manifest: ArtifactRef
    method: MergeMethod
    parity: Parity | None = None
    duration_s: float
    serving: ServingSettings | None = None
    """The version's serving settings, verified with its chat template; None if none are set."""
