"""The record of a release: the facts received, the facts emitted, and the inputs of its state machine."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from contracts.evaluations.results import Anchor
from contracts.facts import (
    ApprovalDenied,
    ApprovalGranted,
    CanaryAdvanced,
    CanaryAssessed,
    CheckpointMerged,
    CheckpointRejected,
    Fact,
    PromotionRefused,
    RehearsalCompleted,
    ReleaseCancelled,
    ReleaseFinished,
    ReleaseHeld,
    ReleaseOpened,
    ShadowAssessed,
    VariantBenchmarked,
    VariantEvaluated,
    VariantFailed,
    VariantQuantised,
    WorkAbandoned,
)
from contracts.facts.progress import ReleaseProgress
from contracts.policy import ReleasePolicy
from contracts.records import OutboxRecord
from contracts.vocabulary import ArtifactRef, Contract, Deployable, Digest, Instant, Target, Variant
from services.registry.domain.release_holds import HoldOrder


class ManifestWritten(Contract):
    """The immutable version manifest was stored."""

    ref: ArtifactRef


class TurnGranted(Contract):
    """The release is in progress: it got its baseline, the route's epoch, and the model's evaluation anchors."""

    baseline: Deployable
    epoch: int
    first: bool
    anchors: tuple[Anchor, ...] = ()


class DeadlineReached(Contract):
    """A step's deadline may have passed; ignored if the release no longer waits for the step."""

    step: str


class Superseded(Contract):
    """A newer release of the model replaces this one."""

    by: str


InputData = Fact | ManifestWritten | TurnGranted | DeadlineReached | Superseded


@dataclass(frozen=True)
class Input:
    """An input of the state machine.

    Attributes:
        id: The input's ID; a repeated ID changes nothing.
        at: Its time; for a fact, the event's time.
        cause_id: The event that caused it, if not the input itself.
        sender: The identity that published it.
    """

    id: str
    at: datetime
    data: InputData
    cause_id: str = ""
    sender: str = ""


class Deployed(Contract):
    """A traffic order that was carried out."""

    epoch: int
    target: Target


class Approval(Contract):
    """An approval and the identity that sent it."""

    sender: str
    order: ApprovalGranted


class Cancellation(Contract):
    """A cancellation and the identity that sent it."""

    sender: str
    order: ReleaseCancelled


class Hold(Contract):
    """The newest order to pause or resume the release, and the identity that sent it.

    Attributes:
        at: Time when the bus stored the order.
        event_id: ID of its event.
    """

    at: Instant
    event_id: str
    sender: str
    order: ReleaseHeld

    @property
    def as_order(self) -> HoldOrder:
        """The order in the form that `release_holds` compares."""
        return HoldOrder(self.at, self.event_id, self.order.paused)


class Advance(Contract):
    """An order to advance a canary to its next share, and the identity that sent it."""

    sender: str
    order: CanaryAdvanced


class Denial(Contract):
    """A denied approval and the identity that sent it."""

    sender: str
    order: ApprovalDenied


Order = ApprovalGranted | ReleaseCancelled | ReleaseHeld | CanaryAdvanced | ApprovalDenied


class RouteSeen(Contract):
    """The model's newest known route; `serving` includes the shadow."""

    epoch: int
    serving: tuple[Target, ...]
    quarantined: tuple[Target, ...]


class Release(OutboxRecord):
    """The record of a release: a field per received fact, and the emitted facts.

    The first fact of each kind wins, but a failed shadow or canary replaces an earlier pass. `outbox` alone may shrink.

    Attributes:
        times: Time when each field was filled.
        emitted: Time when each fact was decided.
        progress: The last published progress.
        timed_out: Variants that the registry failed because they missed the quantisation deadline.
        asked: Digest of the manifest that awaits approval.
    """

    opened: ReleaseOpened
    opened_at: Instant
    applied: tuple[str, ...] = ()
    times: dict[str, Instant] = Field(default_factory=dict)
    emitted: dict[str, Instant] = Field(default_factory=dict)

    merged: CheckpointMerged | None = None
    quantised: dict[Variant, VariantQuantised] = Field(default_factory=dict)
    failed: dict[str, VariantFailed] = Field(default_factory=dict)
    timed_out: tuple[Variant, ...] = ()
    manifest: ArtifactRef | None = None
    turn: TurnGranted | None = None
    staged: tuple[Variant, ...] = ()
    benchmarked: dict[Variant, VariantBenchmarked] = Field(default_factory=dict)
    evaluated: VariantEvaluated | None = None
    rehearsed: RehearsalCompleted | None = None
    asked: Digest | None = None
    approvals: dict[str, tuple[Approval, ...]] = Field(default_factory=dict)
    deployed: dict[str, Deployed] = Field(default_factory=dict)
    shadowed: ShadowAssessed | None = None
    assessed: dict[str, CanaryAssessed] = Field(default_factory=dict)
    waived: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    advanced: dict[str, Advance] = Field(default_factory=dict)
    hold: Hold | None = None
    route: RouteSeen | None = None

    rejected: CheckpointRejected | None = None
    refused: PromotionRefused | None = None
    abandoned: WorkAbandoned | None = None
    cancelled: Cancellation | None = None
    denied: Denial | None = None
    superseded: Superseded | None = None
    expired: str | None = None
    finished: ReleaseFinished | None = None
    progress: ReleaseProgress | None = None

    @property
    def id(self) -> str:
        """The release ID: correlation ID of all facts of the release."""
        return self.opened.release_id

    @property
    def model(self) -> str:
        """The model that is released."""
        return self.opened.model

    @property
    def version(self) -> int:
        """The version number reserved for the release."""
        return self.opened.version

    @property
    def policy(self) -> ReleasePolicy:
        """The release policy, frozen at admission."""
        return self.opened.policy

    def is_ours(self, target: Target) -> bool:
        """Return whether a target is a variant of this release's version."""
        return target.model == self.model and target.version == self.version

    @property
    def hold_order(self) -> HoldOrder | None:
        """The pause or resume order in effect."""
        return self.hold.as_order if self.hold is not None else None

    @property
    def is_paused(self) -> bool:
        """Whether the release is paused before its next step."""
        return self.hold is not None and self.hold.order.paused

    def has_recorded(self, event_id: str, order: Order, sender: str) -> bool:
        """Return whether this order by this sender was recorded; False if its event ID belongs to another order.

        Only the newest pause or resume is kept; the content of an older one is not compared.
        """
        match order:
            case ReleaseCancelled():
                return self.cancelled == Cancellation(sender=sender, order=order)
            case ReleaseHeld():
                known = self.hold
                return known is not None and (
                    known.event_id != event_id or (known.sender, known.order) == (sender, order)
                )
            case CanaryAdvanced():
                return self.advanced.get(weight_key(order.weight_ratio)) == Advance(sender=sender, order=order)
            case ApprovalDenied():
                return self.denied == Denial(sender=sender, order=order)
            case _:
                return Approval(sender=sender, order=order) in self.approvals.get(order.manifest_digest, ())


SHADOW = "shadow"
"""Key of the shadow where others name a traffic share."""


def weight_key(weight_ratio: float) -> str:
    """Format a traffic share for keys: `0.1`, `1`."""
    return f"{weight_ratio:g}"
