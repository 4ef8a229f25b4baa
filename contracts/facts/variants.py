"""Quantisation: what is asked for, what came out, what failed."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from ..codes import Code
from ..policy import QualityGate
from ..vocabulary import ArtifactRef, Contract, Digest, Ratio, StagingPurpose, Variant
from .fact import Fact


class QuantiseSettings(Contract):
    """What may be chosen about a quantisation; all of it goes into the output key."""

    calibration_samples: Annotated[int, Field(ge=0)] | None = None
    """How many windows calibrate; the method's own default when absent, none at all when 0."""
    calibration_tokens: Annotated[int, Field(ge=8)] | None = None
    """Length of a window; the method's own default when absent."""
    seed: int = 0


class EngineVersion(Contract):
    """The library that quantised."""

    name: str
    version: str


class Quality(Contract):
    """A variant against the merged model on held-out text; the perplexities are absent where only ratios are known."""

    perplexity_ratio: float
    mean_kl: float
    p99_kl: float
    top1_agreement_ratio: Ratio
    tokens: Annotated[int, Field(ge=0)]
    perplexity: float | None = None
    reference_perplexity: float | None = None


class VariantRequested(Fact):
    """One precision of a merged model is wanted: one work item, shared by all quantiser replicas."""

    TYPE: ClassVar[str] = "slipway.variant.requested.v1"

    release_id: str
    version: int
    variant: Variant
    merged: ArtifactRef
    calibration: ArtifactRef | None = None
    settings: QuantiseSettings = QuantiseSettings()
    gate: QualityGate | None = None
    evaluation: ArtifactRef | None = None


class VariantQuantised(Fact):
    """A variant lies in the store, with its quality measured after reloading."""

    TYPE: ClassVar[str] = "slipway.variant.quantised.v1"

    variant: Variant
    manifest: ArtifactRef
    weights_bytes: int
    engine: EngineVersion
    settings: dict[str, Any] = {}
    calibration_digest: Digest | None = None
    size_ratio: float
    quality: Quality
    duration_s: float
    peak_rss_bytes: int
    evaluation_quality: Quality | None = None
    """The same on the checkpoint's own evaluation set; None when there is none, or not one whole window of it."""


class _Details(Contract):
    """What the details of a failure said before the failure itself did."""

    purpose: StagingPurpose | None = None
    manifest: ArtifactRef | None = None
    quality: Quality | None = None


class VariantFailed(Fact):
    """A variant will not be served, and why.

    `purpose` says what it was staged for when it failed in staging. `manifest` and `quality` are those of a variant
    that was made and is outside its gate: it is kept, to be looked at. Events of an earlier time say all three in their
    details, and are read as if they said them here.
    """

    TYPE: ClassVar[str] = "slipway.variant.failed.v1"

    variant: Variant
    stage: Literal["quantise", "stage", "benchmark"]
    code: Code
    reason: str
    details: dict[str, Any] = {}
    purpose: StagingPurpose | None = None
    manifest: ArtifactRef | None = None
    quality: Quality | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_details(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            told = _Details.model_validate(data.get("details"))
        except ValidationError:  # details are free: other things under these names are no error
            return data
        return {**data, **{name: value for name, value in told if value is not None and data.get(name) is None}}


class WorkProgressed(Fact):
    """Live progress of long work; core NATS only, never stored."""

    TYPE: ClassVar[str] = "slipway.work.progressed.v1"

    step: str
    done: float
    total: float
    unit: str
    variant: Variant | None = None
    note: str = ""


class RegisteredVariant(Contract):
    """A variant as part of an immutable version."""

    variant: Variant
    manifest: ArtifactRef
    weights_bytes: int
    size_ratio: float
    quality: Quality
