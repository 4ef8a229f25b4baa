"""Quantisation: requests, results and failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from ..codes import Code
from ..policy import QualityGate
from ..precisions import PRECISIONS
from ..vocabulary import ArtifactRef, Contract, Fact, Ratio, StagingPurpose, Variant


class QuantiseSettings(Contract):
    """Settings of a quantisation, all part of the output key; by default those of the method."""

    calibration_samples: Annotated[int, Field(ge=0)] = 16
    """Number of calibration windows."""
    calibration_tokens: Annotated[int, Field(ge=8)] = 384
    """Tokens of a window."""
    seed: int = 0


CALIBRATION_DEFAULTS: Mapping[Variant, QuantiseSettings] = {
    variant: QuantiseSettings(calibration_samples=precision.samples, calibration_tokens=precision.tokens)
    for variant, precision in PRECISIONS.items()
}


class EngineVersion(Contract):
    """Name and version of the quantising library."""

    name: str
    version: str


class Quality(Contract):
    """Quality of a variant relative to the merged model on held-out text; KL divergences in nats per token."""

    perplexity_ratio: float
    mean_kl: float
    p99_kl: float
    top1_agreement_ratio: Ratio
    tokens: Annotated[int, Field(ge=0)]
    perplexity: float | None = None
    reference_perplexity: float | None = None


class VariantRequested(Fact):
    """Order to quantise a merged model; omitted settings take the method's defaults."""

    TYPE: ClassVar[str] = "slipway.variant.requested.v1"

    release_id: str
    variant: Variant
    merged: ArtifactRef
    calibration: ArtifactRef | None = None
    settings: QuantiseSettings = QuantiseSettings()
    gate: QualityGate | None = None
    evaluation: ArtifactRef | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_settings(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("variant") not in get_args(Variant):
            return data
        given = data.get("settings", {})
        if isinstance(given, QuantiseSettings):
            given = given.model_dump(exclude_unset=True)
        if not isinstance(given, dict):
            return data
        return {**data, "settings": {**CALIBRATION_DEFAULTS[data["variant"]].model_dump(), **given}}


class RegisteredVariant(Contract):
    """A variant as part of an immutable version."""

    variant: Variant
    manifest: ArtifactRef
    weights_bytes: int
    size_ratio: float
    quality: Quality


class VariantQuantised(RegisteredVariant, Fact):
    """A variant was stored; its quality was measured after reloading."""

    TYPE: ClassVar[str] = "slipway.variant.quantised.v1"

    engine: EngineVersion
    settings: dict[str, Any] = {}
    duration_s: float
    evaluation_quality: Quality | None = None
    """Quality on the checkpoint's evaluation set; None without one, or without measurable text."""


class VariantFailed(Fact):
    """A variant failed and will not be served.

    Attributes:
        step: The failed step.
        purpose: Purpose of the staging, if it failed there.
        manifest, quality: Set if the variant failed its quality gate; its files are kept for inspection.
    """

    TYPE: ClassVar[str] = "slipway.variant.failed.v1"

    variant: Variant
    step: Literal["quantise", "stage", "benchmark", "evaluate"]
    code: Code
    reason: str
    details: dict[str, Any] = {}
    purpose: StagingPurpose | None = None
    manifest: ArtifactRef | None = None
    quality: Quality | None = None


class WorkProgressed(Fact):
    """Progress of long work, published on core NATS and not stored."""

    TYPE: ClassVar[str] = "slipway.work.progressed.v1"

    step: str
    done: float
    total: float
    unit: str
    variant: Variant | None = None
    detail: str = ""

    @property
    def ratio(self) -> float:
        """Return the share of the work that is done."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0
