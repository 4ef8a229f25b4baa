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
"""So many checks of a schedule must show a fall, or none, before it counts."""


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
    """Numeric features of an answer; the text itself is never stored.

    Attributes:
        language_ratio: Share of the answer that is in the language of the user's last text; None if it cannot be told,
            or is not looked at.
        valid_json: Whether the answer to a request with a JSON Schema or tools is as these say; None of other requests.
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
    """One request as observed by the gateway.

    Attributes:
        caused_by: What kept the request from a complete answer; None if it has one, or if the gateway does not
            know. `decisions.evidence.attribution` defines what counts as evidence.
        queue_ms: Time that the request waited in the engine before the engine began to compute it, in milliseconds,
            0 or more; None if unknown.
        logprob_mean: Mean log-probability of the generated tokens, before temperature, in nats, 0 or less; None where
            the engine computed none.
        nan_logits: The engine met a NaN among the logits of this request; None where it does not check for them.
        forced_metrics: The metrics that the parameters of the request force: it is no evidence for them.
        rescued_by: The version that answered the caller in the end, after this one failed before its first token. The
            failure counts as any other.
        caller: A pseudonym of the key that was presented, the same at all gateways; None without one.
        holder: A pseudonym of the team of that key, or of its name if it is of no team; None without a key.
        engine_died: The engine died while it had the request, or was dead before; None if it did neither.
        pinned: The caller named the version, or is none of those for whom the canary is drawn: no evidence about a
            candidate.
        is_evidence: Whether the caller's key is evidence (`slipway keys issue --no-evidence`).
        body: Of a request that its target failed: the first characters of a digest of what it asked; None of others.
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
    """One request that two versions were asked after its caller: `served` by the target that answered it.

    The request was drawn before its outcome, so that neither side is chosen for how it ended. Both sides have the same
    limits, neither answer goes to the caller, and neither counts elsewhere. What failed is the target's on both sides.

    Attributes:
        shadow: The mirrored target takes no traffic yet: only it is judged.
    """

    served: Inference
    mirrored: Inference
    shadow: Annotated[bool, Field(exclude_if=lambda shadow: not shadow)] = False


class InferenceBatch(Fact):
    """Telemetry of live traffic, batched by the gateway; never text."""

    TYPE: ClassVar[str] = "slipway.inference.v1"

    gateway: str
    records: tuple[Inference, ...]
    pairs: tuple[MirroredPair, ...] = ()


class PairCounts(Contract):
    """The pairs of one trigger: of the requests that both versions answered, the number bad on each.

    Attributes:
        both, neither: Bad on both, or on neither: evidence against neither.
        only_target: Bad on the target only.
        only_other: Bad on the version that it is compared with only.
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
        errors: Requests that ended with an error, by code, whatever caused it.
        observed: Per trigger, how many requests it observed and how many of them were bad.
        blocks: Per trigger, the blocks of two seconds that became evidence since the last window:
            seconds from the begin of the window, requests, and the bad ones among them.
        target_failures: Requests that failed because of the target.
        ttft_histogram, e2e_histogram, itl_histogram: Latencies of the complete answers that the
            caller's parameters do not shape, in microseconds (HdrHistogram, base64); empty if unknown. `itl_histogram`
            has the mean of each answer.
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
        answers_nothing: The target answers nothing: its last replica is reported dead, it is loaded nowhere, or every
            request of three blocks of two seconds failed, eight or more.
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
    """An open alert has newer figures."""

    TYPE: ClassVar[str] = "slipway.alert.updated.v1"


class AlertResolved(_Alert):
    """The alert's condition has ended."""

    TYPE: ClassVar[str] = "slipway.alert.resolved.v1"


class EvaluationCheck(Contract):
    """The scores of a served version on rows of its evaluations, beside its scores at release.

    Attributes:
        results: One for each evaluation: `candidate` are its scores now, `active` those at its release; none if it did
            not answer.
        is_fallen: A limit is missed.
        in_a_row: Checks in a row that showed the same; one that decides nothing is left out.
    """

    target: Target
    results: tuple[EvaluationSummary, ...]
    is_fallen: bool
    in_a_row: Annotated[int, Field(ge=0)]

    @property
    def lasts(self) -> bool:
        """Return whether the last `CHECKS_IN_A_ROW` checks that decided have all shown the same."""
        return self.in_a_row >= CHECKS_IN_A_ROW


class VersionEvaluated(Fact):
    """A scheduled evaluation of the served versions ended; it needs no traffic of callers.

    Attributes:
        checked_at: When the check began.
        checks: Of the active version, then of the previous one, if it was evaluated at its release.
    """

    TYPE: ClassVar[str] = "slipway.version.evaluated.v1"

    checked_at: Instant
    checks: Annotated[tuple[EvaluationCheck, ...], Field(min_length=1)]
    message: str


class SuspensionJudged(Fact):
    """The shadow of a suspended target has shown whether it was the cause, or has shown nothing in its time.

    It is confirmed, too, if it does not load again; then no requests were asked.

    Attributes:
        since: Since when the target is suspended.
        trigger: The trigger that moved traffic, by whose metric it was judged.
        verdict: `confirmed`: it is the worse version. `cleared`: it is within twice the limit. `undecided`: neither.
        pairs: Requests that it and the active target were both asked.
        returns: Its policy has it return as a canary if it is cleared.
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
    """When each step of a rollback happened."""

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
    """Traffic is back on the previous target; `verdict` says whether recovery was verified."""

    TYPE: ClassVar[str] = "slipway.rollback.completed.v1"

    verdict: Verdict
    reason: str = ""


class RollbackFailed(_Rollback):
    """A rollback was not carried out, and why.

    Attributes:
        alert_id: The alert that asked for it; empty for another cause.
    """

    TYPE: ClassVar[str] = "slipway.rollback.failed.v1"

    alert_id: str = ""
    code: Code
    reason: str
