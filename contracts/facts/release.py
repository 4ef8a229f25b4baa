"""The release: registration, approval, traffic, outcome."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..codes import Code
from ..routes import Route
from ..vocabulary import ArtifactRef, Contract, Deployable, Digest, Instant, ModelName, Ratio, Target, Verdict
from .admission import BaseModelRef, EvalResult, Training
from .choice import Choice
from .fact import Fact
from .variants import RegisteredVariant

Outcome = Literal["promoted", "rejected", "aborted", "expired", "superseded", "cancelled"]


class VersionRegistered(Fact):
    """An immutable version exists: its manifest can never change."""

    TYPE: ClassVar[str] = "slipway.version.registered.v1"

    version: Annotated[int, Field(ge=0)]
    manifest: ArtifactRef
    base: BaseModelRef
    training: Training
    evals: tuple[EvalResult, ...] = ()
    variants: tuple[RegisteredVariant, ...]


class ApprovalAwaited(Fact):
    """A person must approve this release before it takes traffic."""

    TYPE: ClassVar[str] = "slipway.approval.awaited.v1"

    release_id: str
    target: Target
    manifest_digest: Digest
    deadline_at: Instant
    choice: Choice | None = None


class TrafficRequested(Fact):
    """Send this share of production traffic to a target; valid only while the route is at `epoch`."""

    TYPE: ClassVar[str] = "slipway.traffic.requested.v1"

    release_id: str
    target: Deployable
    weight_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    epoch: Annotated[int, Field(ge=0)]
    fallback: Deployable | None = None
    note: str = ""
    choice: Choice | None = None


class DeploymentChanged(Fact):
    """The route after a change: what serves production now."""

    TYPE: ClassVar[str] = "slipway.deployment.changed.v1"

    route: Route
    cause: Literal["promote", "canary", "abort", "rollback", "restore"]
    at: Instant


class PromotionRefused(Fact):
    """A traffic order that was not carried out."""

    TYPE: ClassVar[str] = "slipway.promotion.refused.v1"

    target: Target
    code: Code
    reason: str


class CanaryAssessed(Fact):
    """What the canary's traffic proved so far."""

    TYPE: ClassVar[str] = "slipway.canary.assessed.v1"

    target: Target
    weight_ratio: Ratio
    events: int
    e_values: dict[str, float] = {}
    needed_more: int = 0
    verdict: Verdict
    reason: str = ""


class Step(Contract):
    """One step of a release's timeline; `duration_s` is the time since the step before."""

    step: str
    at: Instant
    duration_s: float


class ReleaseFinished(Fact):
    """The one end of a release."""

    TYPE: ClassVar[str] = "slipway.release.finished.v1"

    release_id: str
    model: ModelName
    version: int
    outcome: Outcome
    code: Code | None = None
    reason: str
    target: Target | None = None
    timeline: tuple[Step, ...] = ()
    choice: Choice | None = None


class DeadlinePassed(Fact):
    """A release waited too long for something."""

    TYPE: ClassVar[str] = "slipway.deadline.passed.v1"

    release_id: str
    step: str
    awaited: str


class WorkAbandoned(Fact):
    """A work item went to the dead letters: its release must not wait for it."""

    TYPE: ClassVar[str] = "slipway.work.abandoned.v1"

    service: str
    cause_type: str
    cause_id: str
    dead_letter_sequence: int
    code: str
    reason: str
