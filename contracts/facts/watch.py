"""Telemetry, alerts and rollbacks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from ..codes import Code
from ..evaluations.results import EvaluationSummary
from ..trigger_metrics import TriggerMetric
from ..vocabulary import ArtifactRef, Contract, Environment, Fact, Instant, Party, Ratio, Target, Verdict

AlertKind = Literal[
    "latency",
    "errors",
    "quality",
    "drift",
    "standby",
    "engine",
    "provenance",
    "store",
    "blind",
    "suspended",
]
Severity = Literal["info", "warning", "critical"]
CHECKS_IN_A_ROW: Final = 2
"""Number of consecutive scheduled checks with the same result before it counts."""


class Window(Contract):
    """A span of time."""

    from_: Annotated[Instant, Field(alias="from")]
    to: Instant


class InterTokenLatency(Contract):
    """Inter-token latency of one answer, in milliseconds."""

    mean: float
    p95: float
    max: float


class Features(Contract):
    """Numeric features of an answer; the text is not stored.

    Attributes:
        language_ratio: Share of the answer in the language of the user's last text; None if unknown or not examined.
        valid_json: Whether the answer satisfies the JSON Schema or tools of its request; None without either.
    """

    prompt_chars: int
    output_chars: int
    non_letter_ratio: Ratio = 0.0
    repetition_ratio: Ratio = 0.0
    refusal: bool = False
    empty: bool = False
    language_ratio: Ratio | None = None
    valid_json: bool | None = None


class Inference(Contract):
    """One request as observed by the gateway; durations in milliseconds.

    Attributes:
        caused_by: The party that prevented a complete answer; None if it is complete, or the party unknown
            (`decisions.evidence.attribution`).
        queue_ms: Wait in the engine before computation; None if unknown.
        logprob_mean: Mean log-probability of the generated tokens before temperature, in nats; None if not computed.
        nan_logits: Whether the engine met NaN logits; None if not checked.
        forced_metrics: Metrics that the request's parameters force; it is no evidence for them.
        rescued_by: Version that answered the caller after this one failed before its first token.
        caller: Pseudonym of the API key, the same at all gateways; None without a key.
        holder: Pseudonym of the key's team, or of its name without a team; None without a key.
        engine_died: Whether the engine died during the request, or was dead before; None for neither.
        pinned: The caller named the version, or is excluded from the canary: no evidence about a candidate.
        is_evidence: False for keys of `slipway keys issue --no-evidence`.
        body: Prefix of the body's digest if the target failed the request; else None.
    """

    request_id: str
    target: Target
    endpoint: str
    environment: Environment = "production"
    canary: bool = False
    pinned: bool = False
    drill: str | None = None
    scheduled_at: Instant
    sent_at: Instant
    ttft_ms: float | None = None
    itl_ms: InterTokenLatency | None = None
    e2e_ms: float
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    caused_by: Party | None = None
    queue_ms: float | None = None
    logprob_mean: float | None = None
    nan_logits: bool | None = None
    forced_metrics: tuple[TriggerMetric, ...] = ()
    features: Features | None = None
    caller: str | None = None
    rescued_by: Target | None = None
    holder: str | None = None
    engine_died: Literal["meanwhile", "before"] | None = None
    is_evidence: bool = True
    body: str | None = None


class MirroredPair(Contract):
    """A request that was sent again to two versions after its caller was answered; its answers are discarded.

    Requests are drawn before their outcome is known. Failures are attributed to the target on both sides.

    Attributes:
        served: Result of the target that answered the caller.
        shadow: The mirrored target takes no traffic yet: only it is judged.
    """

    served: Inference
    mirrored: Inference
    shadow: Annotated[bool, Field(exclude_if=lambda shadow: not shadow)] = False


class InferenceBatch(Fact):
    """Telemetry of live traffic without text, batched by the gateway."""

    TYPE: ClassVar[str] = "slipway.inference.v1"

    gateway: str
    records: tuple[Inference, ...]
    pairs: tuple[MirroredPair, ...] = ()


class PairCounts(Contract):
    """Requests that two versions answered, counted by the versions on which they are bad for a trigger.

    Attributes:
        both, neither: Bad on both versions, or on neither: no evidence.
        only_target: Bad on the target only.
        only_other: Bad on the other version only.
    """

    both: int = 0
    neither: int = 0
    only_target: int = 0
    only_other: int = 0

    @property
    def total(self) -> int:
        """Return the number of pairs."""
        return self.both + self.neither + self.only_target + self.only_other


class WindowSummarised(Fact):
    """The requests of one target in one window.

    Attributes:
        errors: Failed requests by error code, whatever their cause.
        observed: Requests and bad requests by trigger.
        blocks: Closed blocks of two seconds by trigger: seconds from the window's begin, requests, bad requests.
        target_failures: Requests that failed because of the target.
        ttft_histogram, e2e_histogram, itl_histogram: Latencies of complete answers in microseconds (HdrHistogram,
            base64), without those that callers' parameters shape; `itl_histogram` has the mean of each answer.
    """

    TYPE: ClassVar[str] = "slipway.window.summarised.v1"

    target: Target
    window: Window
    requests: int
    errors: dict[str, int] = {}
    ttft_histogram: str
    e2e_histogram: str
    observed: dict[str, tuple[int, int]] = {}
    blocks: dict[str, tuple[tuple[int, int, int], ...]] = {}
    target_failures: int = 0
    itl_histogram: str = ""


class _Alert(Fact):
    """An alert.

    Attributes:
        answers_nothing: The target is down: last replica dead, loaded nowhere, or all requests of three blocks of two
            seconds failed, at least eight.
    """

    alert_id: str
    kind: AlertKind
    severity: Severity
    target: Target
    trigger: str | None = None
    value: float | None = None
    limit: float | None = None
    window: Window | None = None
    requests: int | None = None
    evidence: ArtifactRef | None = None
    runbook: str = ""
    message: str
    e_value: float | None = None
    first_bad_at: Instant | None = None
    raised_at: Instant
    drill: str | None = None
    release_id: str | None = None
    answers_nothing: bool = False


class AlertRaised(_Alert):
    """An alert condition was detected."""

    TYPE: ClassVar[str] = "slipway.alert.raised.v1"


class AlertUpdated(_Alert):
    """The figures of an open alert changed."""

    TYPE: ClassVar[str] = "slipway.alert.updated.v1"


class AlertResolved(_Alert):
    """The alert's condition has ended."""

    TYPE: ClassVar[str] = "slipway.alert.resolved.v1"


class EvaluationCheck(Contract):
    """The present scores of a served version, compared with its scores at release.

    Attributes:
        results: One per evaluation: `candidate` has the present scores, `active` those at release; empty if the version
            did not answer.
        is_fallen: Whether a limit is missed.
        in_a_row: Number of consecutive checks with the same result, without undecided ones.
    """

    target: Target
    results: tuple[EvaluationSummary, ...]
    is_fallen: bool
    in_a_row: Annotated[int, Field(ge=0)]

    @property
    def lasts(self) -> bool:
        """Return whether the last `CHECKS_IN_A_ROW` decided checks had the same result."""
        return self.in_a_row >= CHECKS_IN_A_ROW


class VersionEvaluated(Fact):
    """A scheduled evaluation of the served versions ended.

    Attributes:
        checked_at: Begin of the check.
        checks: The active version's, then the previous version's if it was evaluated at its release.
    """

    TYPE: ClassVar[str] = "slipway.version.evaluated.v1"

    checked_at: Instant
    checks: Annotated[tuple[EvaluationCheck, ...], Field(min_length=1)]
    message: str


class SuspensionJudged(Fact):
    """The shadow of a suspended target ended with a verdict, or without one at its deadline.

    A target that does not load again is confirmed without requests.

    Attributes:
        since: Time of the suspension.
        trigger: The trigger that moved traffic; its metric judges the target.
        verdict: `confirmed`: worse than the active target. `cleared`: within twice the limit. `undecided`: neither.
        pairs: Requests that it and the active target were asked.
        returns: Whether its policy returns it as a canary if cleared.
    """

    TYPE: ClassVar[str] = "slipway.suspension.judged.v1"

    target: Target
    since: Instant
    trigger: str
    verdict: Literal["confirmed", "cleared", "undecided"]
    pairs: PairCounts = PairCounts()
    reason: str
    returns: bool = False


class RollbackTimeline(Contract):
    """Times of the steps of a rollback; None for steps that did not happen."""

    first_bad_at: Instant | None = None
    detected_at: Instant
    decided_at: Instant | None = None
    switched_at: Instant | None = None
    verified_at: Instant | None = None


class _Rollback(Fact):
    rollback_id: str
    cause_id: str
    failed: Target
    to: Target | None = None
    mode: Literal["automatic", "manual"]
    timeline: RollbackTimeline


class RollbackStarted(_Rollback):
    """A rollback was decided."""

    TYPE: ClassVar[str] = "slipway.rollback.started.v1"


class RollbackCompleted(_Rollback):
    """Traffic is back on the previous target; `verdict` is that on the recovery."""

    TYPE: ClassVar[str] = "slipway.rollback.completed.v1"

    verdict: Verdict
    reason: str = ""


class RollbackFailed(_Rollback):
    """A rollback was not carried out.

    Attributes:
        alert_id: Id of the alert that caused it; empty for another cause.
    """

    TYPE: ClassVar[str] = "slipway.rollback.failed.v1"

    alert_id: str = ""
    code: Code
    reason: str
