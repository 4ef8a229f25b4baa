"""Staging: a lease on the serving fleet, the benchmark, the evaluations, the rehearsal."""

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
    """A candidate and its baseline are to be loaded side by side."""

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
    """End of a staging lease: the lease for this purpose, or without a purpose all earlier leases."""

    TYPE: ClassVar[str] = "slipway.stage.released.v1"

    release_id: str
    candidate: Target
    purpose: StagingPurpose | None = None


class VariantStaged(Fact):
    """Candidate and baseline are served in staging; `request` is the request that this answers."""

    TYPE: ClassVar[str] = "slipway.variant.staged.v1"

    candidate: ServedTarget
    baseline: ServedTarget
    request: StageRequested
    load_s: float


class Statistics(Contract):
    """Quantiles of one metric in milliseconds; p99 is absent where the sample is too small for it."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class NaturalAnswers(Contract):
    """Lengths of one side's greedy answers, until it stops by itself, to prompts that both sides answered.

    Attributes:
        ended: Number of answers that stopped within `most_tokens`.
        mean_tokens: Mean length; a cut answer counts as `most_tokens`.
    """

    asked: int
    ended: int
    mean_tokens: float
    most_tokens: int


class SideSummary(Contract):
    """The measurements of one side of a benchmark; `natural` is None if no prompt was answered by both sides."""

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
    """A candidate-to-baseline ratio with its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float


class GateResult(Contract):
    """The verdict of one gate, with the figures compared and the reason."""

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    reason: str


class ServedQuality(Contract):
    """Quality as measured through the serving engine, which also shows a faulty load of correct files.

    Attributes:
        method: `prompt_logprobs`: the engine scored the held-out windows of the variant's manifest, token by token.
            `generated_logprobs`: the log-probabilities of its own answers, compared with the baseline's.
            `none`: neither was available.
        tokens: How many tokens were scored.
        perplexity: The candidate's.
        reference_perplexity: The merged model's on the same windows, as recorded; by `generated_logprobs`, the
            baseline's.
        perplexity_ratio: The first over the second.
        recorded_ratio: The same ratio before serving, as the quantiser measured it on the same windows.
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
        machine_price_per_hour: Price of the serving machine; None if it is not set. All prices are in its currency.
        million_tokens_price: Price of a million of the candidate's output tokens at the load of the benchmark.
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
    """The scores of a candidate's answers beside its baseline's, and the verdict.

    Attributes:
        results: One for each evaluation of the policy; the report also has every row.
        verdict: `fail` if a limit is missed, `inconclusive` if the rows of one do not suffice.
        reason: The limits behind the verdict.
    """

    TYPE: ClassVar[str] = "slipway.variant.evaluated.v1"

    target: Target
    baseline: Target
    report: ArtifactRef
    results: tuple[EvaluationSummary, ...]
    verdict: Verdict
    reason: str


class RehearsalRequested(Fact):
    """A rollback is to be rehearsed in staging before the release takes traffic."""

    TYPE: ClassVar[str] = "slipway.rehearsal.requested.v1"

    release_id: str
    candidate: Deployable
    fallback: Deployable
    triggers: tuple[Trigger, ...]
    policy_digest: Digest | None = None
    valid_s: float = 604_800.0


class RehearsalCertificate(Contract):
    """The proof of a rehearsal for one trigger; promotion cites it.

    `detect_s` runs from the injection to the alert, `switch_s` from the alert to the changed route, `verify_s` from
    there to verified recovery. Detection is rehearsed once for a policy and a runtime.

    Attributes:
        runtime: Runtime of the candidate.
        detected_with: The earlier version with which detection was rehearsed; None if it was with this one. Fault, time
            of injection, alert and `detect_s` are those of then, the rest is this version's.
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
    """A rehearsal ended, with its verdict."""

    TYPE: ClassVar[str] = "slipway.rehearsal.completed.v1"

    release_id: str
    variant: Variant
    verdict: Verdict
    reason: str
    certificates: tuple[RehearsalCertificate, ...] = ()
