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
    """Request for `approvals` by as many people before a release takes traffic."""

    TYPE: ClassVar[str] = "slipway.approval.requested.v1"

    release_id: str
    target: Target
    manifest_digest: Digest
    deadline_at: Instant
    approvals: int = 1


class TrafficRequested(Fact):
    """Order to give a target this share of production traffic, valid only while the route is at `epoch`.

    `pair_ratio` is the share of
    the requests that a canary and the active version are both asked, `copies` on how many endpoints the target is
    to be loaded. With weight 0 the target takes no traffic: it is asked what `shadow_ratio` of the active target's
    callers asked. `only_for` restricts the callers whose requests are drawn.
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

    `cause` is `restore` when a quarantine was lifted, or when a newer route was written back to a restored bucket;
    `confirm` when a suspended target was quarantined, `return` when it took all traffic again, `judge` when the verdict
    on one was written down, that it returns as a canary, or that a canary's traffic is away for a minute.
    """

    TYPE: ClassVar[str] = "slipway.deployment.changed.v1"

    route: Route
    cause: Literal["promote", "canary", "shadow", "abort", "rollback", "restore", "confirm", "return", "judge"]
    at: Instant


class PromotionRefused(Fact):
    """A requested change of traffic was refused."""

    TYPE: ClassVar[str] = "slipway.promotion.refused.v1"

    target: Target
    code: Code
    reason: str


class TriggerCounts(Contract):
    """The numbers of requests that a trigger judged, and of bad ones, over the shadow and all shares.

    Attributes:
        requests: Of the candidate.
        bad: Those of them that were bad.
        active_requests: Of the active target at the same time.
        active_bad: Those of them that were bad.
        mirrored: What pairs showed: requests that both versions answered. None if there was none.
    """

    requests: int = 0
    bad: int = 0
    active_requests: int = 0
    active_bad: int = 0
    mirrored: PairCounts | None = None


class _Assessed(Fact):
    """The results of a candidate so far, and how many more requests a verdict needs."""

    target: Target
    requests: int
    requests_needed: int = 0
    verdict: Verdict
    reason: str = ""


class CanaryAssessed(_Assessed):
    """The canary's results so far, and how many more requests a verdict needs.

    Attributes:
        requests: Requests of the candidate at this share so far.
        e_values: The e-value of each test, which decides: `NAME` against the trigger's limit,
            `NAME:baseline` beside requests of the active target in the same seconds.
        counts: Requests counted by trigger, over the shadow and all steps.
        take_away: Both versions are beyond a limit: the candidate's traffic is to be taken away for a minute, so that
            the active version is seen without it.
    """

    TYPE: ClassVar[str] = "slipway.canary.assessed.v1"

    weight_ratio: Ratio
    e_values: dict[str, float] = {}
    counts: dict[str, TriggerCounts] = {}
    take_away: bool = False


class ShadowCounts(Contract):
    """The results of a shadow for one trigger.

    Attributes:
        pairs: Of the requests that both versions were asked: `only_target` were bad on the candidate only.
        e_value: The evidence that the candidate is beyond its limit, or worse than the active version.
    """

    pairs: PairCounts
    e_value: float


class ShadowAssessed(_Assessed):
    """The results of requests sent to both the active target and the candidate, before the candidate takes traffic.

    Attributes:
        target: The candidate.
        share_ratio: Share of the active target's requests that are drawn.
        requests: How many were compared.
        counts: By trigger; `errors-in-shadow` and `empty-in-shadow` where the policy has no trigger for either.
        requests_needed: How many more a verdict needs.
        seconds_needed: How much longer it lasts at least.
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
        returned_by: The event by which its version returned after it was suspended; empty for any other release, None
            if its record was lost.
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
    """The complete progress of a release after a change. The last such event replaces all earlier ones."""

    TYPE: ClassVar[str] = "slipway.release.progressed.v1"

    release_id: str
    progress: ReleaseProgress


class DeadlinePassed(Fact):
    """A release waited longer for a step than its policy allows."""

    TYPE: ClassVar[str] = "slipway.deadline.passed.v1"

    release_id: str
    step: str
    waiting_for: str


class WorkAbandoned(Fact):
    """A message of a release was dead-lettered, so the release does not wait for its answer."""

    TYPE: ClassVar[str] = "slipway.work.abandoned.v1"

    service: str
    cause_type: str
    cause_id: str
    dead_letter_sequence: int
    code: str
    reason: str
