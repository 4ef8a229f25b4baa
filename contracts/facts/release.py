"""The release: registration, approval, traffic, outcome."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..codes import Code
from ..routes import Route
from ..vocabulary import (
    MAX_COPIES,
    ArtifactRef,
    Contract,
    Deployable,
    Digest,
    Fact,
    Instant,
    ModelName,
    OnlyFor,
    Ratio,
    ServingSettings,
    Target,
    Verdict,
)
from .admission import BaseModelRef, EvalResult, Training
from .progress import Outcome, ReleaseProgress
from .variants import RegisteredVariant
from .watch import PairCounts


class VersionRegistered(Fact):
    """An immutable version was registered; its manifest never changes."""

    TYPE: ClassVar[str] = "slipway.version.registered.v1"

    version: Annotated[int, Field(ge=0)]
    manifest: ArtifactRef
    base: BaseModelRef
    training: Training
    evals: tuple[EvalResult, ...] = ()
    variants: tuple[RegisteredVariant, ...]
    serving: ServingSettings | None = None


class ApprovalRequested(Fact):
    """A release waits for approvals by `approvals` different people."""

    TYPE: ClassVar[str] = "slipway.approval.requested.v1"

    release_id: str
    target: Target
    manifest_digest: Digest
    deadline_at: Instant
    approvals: int = 1


class TrafficRequested(Fact):
    """Order to give a target a share of production traffic, valid only while the route is at `epoch`.

    Attributes:
        weight_ratio: The share; 0 for a shadow, which gets copies of `shadow_ratio` of the active target's requests.
        fallback: The previous target if none was active before; None for none.
        pair_ratio: Share of requests that canary and active version are both asked again.
        copies: Number of endpoints to load the target on.
        only_for: Callers with requests for the canary; empty for all.
    """

    TYPE: ClassVar[str] = "slipway.traffic.requested.v1"

    release_id: str
    target: Deployable
    weight_ratio: Ratio
    epoch: Annotated[int, Field(ge=0)]
    fallback: Deployable | None = None
    pair_ratio: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    copies: Annotated[int, Field(ge=1, le=MAX_COPIES)] = 1
    shadow_ratio: Annotated[Ratio, Field(exclude_if=lambda ratio: ratio == 0.0)] = 0.0
    only_for: OnlyFor = ()


class DeploymentChanged(Fact):
    """The route of production after a change.

    Attributes:
        cause: `restore`: endpoints changed, or a newer route was written back to a restored
            bucket. `confirm`: a suspended target was quarantined. `return`: it took all traffic again. `judge`: its
            verdict or its return as a canary was recorded, or a canary's traffic was taken away for a minute.
    """

    TYPE: ClassVar[str] = "slipway.deployment.changed.v1"

    route: Route
    cause: Literal["promote", "canary", "shadow", "abort", "rollback", "restore", "confirm", "return", "judge"]
    at: Instant


class PromotionRefused(Fact):
    """A `traffic.requested` was refused."""

    TYPE: ClassVar[str] = "slipway.promotion.refused.v1"

    target: Target
    code: Code
    reason: str


class TriggerCounts(Contract):
    """Requests that count for a trigger, over the shadow and all traffic shares.

    Attributes:
        requests, bad: Requests of the candidate, and the bad ones among them.
        active_requests, active_bad: The same of the active target in the same period.
        mirrored: Counts of requests that both versions were asked; None without any.
    """

    requests: int = 0
    bad: int = 0
    active_requests: int = 0
    active_bad: int = 0
    mirrored: PairCounts | None = None


class _Assessed(Fact):
    """The results of a candidate so far; a verdict needs about `requests_needed` more requests."""

    target: Target
    requests: int
    requests_needed: int = 0
    verdict: Verdict
    reason: str = ""


class CanaryAssessed(_Assessed):
    """The canary's results so far.

    Attributes:
        requests: Requests of the candidate at this share.
        e_values: E-values by test: `NAME` against the trigger's limit, `NAME:baseline` against the active target's
            requests in the same seconds.
        counts: Counts by trigger, over the shadow and all steps.
        take_away: Both versions are beyond a limit: the candidate's traffic is to stop for a minute, to observe the
            active version without it.
    """

    TYPE: ClassVar[str] = "slipway.canary.assessed.v1"

    weight_ratio: Ratio
    e_values: dict[str, float] = {}
    counts: dict[str, TriggerCounts] = {}
    take_away: bool = False


class ShadowCounts(Contract):
    """The results of a shadow for one trigger.

    Attributes:
        pairs: Counts of requests that both versions were asked; the candidate is the target.
        e_value: Evidence that the candidate is beyond the limit, or worse than the active version.
    """

    pairs: PairCounts
    e_value: float


class ShadowAssessed(_Assessed):
    """The shadow's results so far: requests sent to the active target and to the candidate.

    Attributes:
        share_ratio: Share of the active target's requests that are drawn.
        requests: Number of compared requests.
        counts: By trigger; `errors-in-shadow` and `empty-in-shadow` if the policy has no trigger for either metric.
        seconds_needed: Least remaining time.
    """

    TYPE: ClassVar[str] = "slipway.shadow.assessed.v1"

    share_ratio: Ratio
    counts: dict[str, ShadowCounts] = {}
    seconds_needed: float = 0.0


class TimelineStep(Contract):
    """One step of a release's timeline; `duration_s` is the time since the step before."""

    step: str
    at: Instant
    duration_s: float


class ReleaseFinished(Fact):
    """A release ended; every release ends exactly once.

    Attributes:
        returned_by: Id of the event that returned its suspended version; empty for other releases, None if the record
            was lost.
    """

    TYPE: ClassVar[str] = "slipway.release.finished.v1"

    release_id: str
    model: ModelName
    version: int
    outcome: Outcome
    code: Code | None = None
    reason: str
    target: Target | None = None
    returned_by: str | None = ""
    timeline: tuple[TimelineStep, ...] = ()


class ReleaseProgressed(Fact):
    """The complete progress of a release after a change; it replaces earlier ones."""

    TYPE: ClassVar[str] = "slipway.release.progressed.v1"

    release_id: str
    progress: ReleaseProgress


class DeadlinePassed(Fact):
    """A step took longer than the release's policy allows."""

    TYPE: ClassVar[str] = "slipway.deadline.passed.v1"

    release_id: str
    step: str
    waiting_for: str


class WorkAbandoned(Fact):
    """A message of a release was dead-lettered; the release does not wait for its answer."""

    TYPE: ClassVar[str] = "slipway.work.abandoned.v1"

    service: str
    cause_type: str
    cause_id: str
    dead_letter_sequence: int
    code: str
    reason: str
