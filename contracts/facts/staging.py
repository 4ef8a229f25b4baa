"""Staging: leases on the serving fleet, benchmark, evaluations, rehearsal."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..evaluations import Evaluations
from ..evaluations.results import Anchor, EvaluationSummary
from ..policy import LoadProfile, MetricGate, QualityGate, Trigger
from ..routes import ServedTarget
from ..vocabulary import (
    ArtifactRef,
    Contract,
    Deployable,
    Digest,
    Fact,
    Instant,
    Runtime,
    StagingPurpose,
    Target,
    Variant,
    Verdict,
)
from .variants import Quality


class StageRequested(Fact):
    """Request to load a candidate and its baseline."""

    TYPE: ClassVar[str] = "slipway.stage.requested.v1"

    release_id: str
    candidate: Deployable
    baseline: Deployable
    purpose: StagingPurpose
    load: LoadProfile
    gates: tuple[MetricGate, ...] = ()
    evaluation: ArtifactRef | None = None
    evaluations: Evaluations = Evaluations()
    anchors: tuple[Anchor, ...] = ()
    quality: Quality | None = None
    quality_gate: QualityGate | None = None
    attempt: int = 1


class StageReleased(Fact):
    """A staging lease ended; without `purpose`, all earlier leases of the candidate."""

    TYPE: ClassVar[str] = "slipway.stage.released.v1"

    release_id: str
    candidate: Target
    purpose: StagingPurpose | None = None


class VariantStaged(Fact):
    """Candidate and baseline of `request` are served in staging; loading took `load_s` seconds."""

    TYPE: ClassVar[str] = "slipway.variant.staged.v1"

    lease_id: str
    candidate: ServedTarget
    baseline: ServedTarget
    request: StageRequested
    load_s: float


class Statistics(Contract):
    """Statistics of one metric over requests, in its unit; quantiles are None if the sample is too small."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class NaturalAnswers(Contract):
    """Lengths of one side's greedy answers to prompts that both sides answered.

    Attributes:
        asked: Number of prompts.
        ended: Number of answers that stopped within `most_tokens`.
        mean_tokens: Mean length; a cut answer counts as `most_tokens`.
    """

    asked: int
    ended: int
    mean_tokens: float
    most_tokens: int


class SideSummary(Contract):
    """Measurements of one side of a benchmark; `natural` is None if no prompt was answered by both sides."""

    target: Target
    requests: int
    errors: int
    ttft_ms: Statistics
    itl_ms: Statistics
    e2e_ms: Statistics
    tps_request: Statistics
    tps_system: float
    output_tokens: int
    goodput_rps: float
    natural: NaturalAnswers | None = None


class RatioInterval(Contract):
    """Ratio of candidate to baseline with its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float


class GateResult(Contract):
    """The verdict of one gate."""

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    reason: str


class ServedQuality(Contract):
    """Quality measured through the serving engine, to detect faulty loads of correct files.

    Attributes:
        method: `prompt_logprobs`: the engine scored the held-out windows of the variant's manifest.
            `generated_logprobs`: log-probabilities of its own answers, compared with the baseline's.
            `none`: neither was available.
        tokens: Number of scored tokens.
        perplexity: Perplexity of the candidate.
        reference_perplexity: Recorded perplexity of the merged model on the same windows; by `generated_logprobs` that
            of the baseline.
        perplexity_ratio: `perplexity` / `reference_perplexity`.
        recorded_ratio: The same ratio as the quantiser measured it.
    """

    method: Literal["prompt_logprobs", "generated_logprobs", "none"]
    tokens: int = 0
    perplexity: float | None = None
    reference_perplexity: float | None = None
    perplexity_ratio: float | None = None
    recorded_ratio: float | None = None
    verdict: Verdict
    reason: str


class BenchmarkFigures(Contract):
    """Latency, throughput and quality of a candidate against its baseline, and the verdict per gate.

    Attributes:
        machine_price_per_hour: Price of the serving machine; None if not set.
        million_tokens_price: Price of a million output tokens of the candidate, in the same currency.
    """

    target: Target
    baseline: Target
    attempt: int
    candidate_summary: SideSummary
    baseline_summary: SideSummary
    ratios: tuple[RatioInterval, ...] = ()
    quality: Quality | None = None
    served_quality: ServedQuality | None = None
    gates: tuple[GateResult, ...]
    verdict: Verdict
    machine_price_per_hour: float | None = None
    million_tokens_price: float | None = None


class VariantBenchmarked(BenchmarkFigures, Fact):
    """The figures of a benchmark; `report` also has every request."""

    TYPE: ClassVar[str] = "slipway.variant.benchmarked.v1"

    report: ArtifactRef
    hardware: str


class VariantEvaluated(Fact):
    """The scores of a candidate and its baseline, and the verdict.

    Attributes:
        results: One per evaluation of the policy; `report` also has every row.
        verdict: `fail` if a limit is missed, `inconclusive` if a limit has too few rows.
        reason: The limits that decided.
    """

    TYPE: ClassVar[str] = "slipway.variant.evaluated.v1"

    target: Target
    baseline: Target
    report: ArtifactRef
    results: tuple[EvaluationSummary, ...]
    verdict: Verdict
    reason: str


class RehearsalRequested(Fact):
    """Request to rehearse a rollback in staging."""

    TYPE: ClassVar[str] = "slipway.rehearsal.requested.v1"

    release_id: str
    candidate: Deployable
    fallback: Deployable
    triggers: tuple[Trigger, ...]
    policy_digest: Digest | None = None
    valid_s: float = 604_800.0


class RehearsalCertificate(Contract):
    """Proof of a rehearsal for one trigger. Detection is rehearsed once for a policy and a runtime.

    Attributes:
        detect_s: Seconds from the injection to the alert.
        switch_s: Seconds from the alert to the changed route.
        verify_s: Seconds from the changed route to verified recovery.
        runtime: Runtime of the candidate.
        detected_with: Earlier version with which detection was rehearsed; fault, injection, alert and `detect_s` are of
            that rehearsal. None if detection was rehearsed with this version.
    """

    trigger: str = ""
    fault: str
    injected_at: Instant
    alert_event_id: str
    route_event_id: str
    detect_s: float
    switch_s: float
    verify_s: float
    candidate_digest: Digest
    fallback_digest: Digest
    policy_digest: Digest
    runtime: Runtime | None = None
    detected_with: int | None = None
    expires_at: Instant


class RehearsalCompleted(Fact):
    """A rehearsal ended."""

    TYPE: ClassVar[str] = "slipway.rehearsal.completed.v1"

    release_id: str
    variant: Variant
    verdict: Verdict
    reason: str
    certificates: tuple[RehearsalCertificate, ...] = ()
