"""Quantisation: what is asked for, what came out, what failed."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from ..codes import Code
from ..policy import QualityGate
from ..vocabulary import ArtifactRef, Contract, Digest, Ratio, StagingPurpose, Variant
from .fact import Fact


class QuantiseSettings(Contract):
    """What may be chosen about a quantisation; all of it goes into the output key."""

    calibration_samples: Annotated[int, Field(ge=0)] = 16
    """How many windows calibrate, none at all when 0; a request without it gets the method's own."""
    calibration_tokens: Annotated[int, Field(ge=8)] = 384
    """Length of a window; a request without it gets the method's own."""
    seed: int = 0


CALIBRATION_DEFAULTS: Mapping[Variant, QuantiseSettings] = {
    "bf16": QuantiseSettings(calibration_samples=0),
    "int8": QuantiseSettings(calibration_samples=16, calibration_tokens=384),
    "gptq-int4": QuantiseSettings(calibration_samples=32, calibration_tokens=512),
    "awq-int4": QuantiseSettings(calibration_samples=4, calibration_tokens=512),
}
"""What each method has where a request says nothing, by the figures in docs/benchmarks.md: AWQ tries 20 scales a layer
on every sample."""


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


class Processor(Contract):
    """What computed a measurement.

    Attributes:
        device: `cpu`, or the accelerator's name.
        instruction_set: The widest set that oneDNN's matrix products use, in the terms of `ONEDNN_MAX_CPU_ISA`; empty
            on an accelerator.
        capability: The set of torch's own kernels (`torch.backends.cpu.get_cpu_capability()`).
        amx: Whether matrix products use AMX tiles.
        threads: Threads of torch.
    """

    device: str
    instruction_set: str
    capability: str
    amx: bool
    threads: Annotated[int, Field(ge=1)]


class PrecisionCheck(Contract):
    """One window of held-out text, measured in the fast precision and in float32.

    `agreed`: the fast precision holds for the whole measurement. `differed`: all of it was computed in float32.
    `inconclusive`: float32 could not be computed, and the reason says why; the figures are those of the fast precision.
    """

    verdict: Literal["agreed", "differed", "inconclusive"]
    reason: str
    fast: Quality | None = None
    exact: Quality | None = None
    rounding_kl: float | None = None
    """Mean KL from the merged model in float32 to the same model in the fast precision, in nats."""


class Measurement(Contract):
    """How a quality was measured; `check` is None where all of it is float32 to begin with."""

    precision: Literal["float32", "bfloat16"]
    processor: Processor
    check: PrecisionCheck | None = None


class VariantRequested(Fact):
    """One precision of a merged model is wanted: one work item, shared by all quantiser replicas.

    What its settings leave out is the method's own. For a time requests said null instead, and are read as if they had
    left it out.

    A `measurement_number` above 1 asks for no new weights: the files of the manifest `made` are measured again.
    """

    TYPE: ClassVar[str] = "slipway.variant.requested.v1"

    release_id: str
    version: int
    variant: Variant
    merged: ArtifactRef
    calibration: ArtifactRef | None = None
    settings: QuantiseSettings = QuantiseSettings()
    gate: QualityGate | None = None
    evaluation: ArtifactRef | None = None
    measurement_number: Annotated[int, Field(ge=1)] = 1
    made: ArtifactRef | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_settings(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("variant") not in get_args(Variant):
            return data
        told = data.get("settings", {})
        if isinstance(told, QuantiseSettings):
            told = told.model_dump(exclude_unset=True)
        if not isinstance(told, dict):
            return data
        said = {name: value for name, value in told.items() if value is not None}
        return {**data, "settings": {**CALIBRATION_DEFAULTS[data["variant"]].model_dump(), **said}}


class VariantQuantised(Fact):
    """A variant is in the store, with its quality measured after reloading.

    With a `measurement_number` above 1 the manifest names the same files as the first one, and what they cost in that
    measurement.
    """

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
    """The same on the checkpoint's own evaluation set; None when there is none, or nothing of it can be measured."""
    measurement: Measurement | None = None
    """How both qualities were measured; None in events of an earlier time."""
    measurement_number: Annotated[int, Field(ge=1)] = 1


class _Details(Contract):
    """What the details of a failure said before the failure itself did."""

    purpose: StagingPurpose | None = None
    manifest: ArtifactRef | None = None
    quality: Quality | None = None


class VariantFailed(Fact):
    """A variant will not be served, and why.

    `purpose` says what it was staged for when it failed in staging. `manifest` and `quality` are those of a variant
    that was made and is outside its gate: it is kept, to be looked at. Events of an earlier time say all three in their
    details, and are read as if they said them here. `measurement_number` is that of the request or order which failed.
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
    measurement_number: Annotated[int, Field(ge=1)] = 1

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
