"""The record of one release: which facts were received, and which were emitted because of them."""

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
    """The immutable version manifest is in the store."""

    ref: ArtifactRef


class TurnGranted(Contract):
    """This release is in progress now: what serves production, at which epoch of the route, and the model's anchors."""

    baseline: Deployable
    epoch: int
    first: bool
    anchors: tuple[Anchor, ...] = ()


class DeadlineReached(Contract):
    """A step whose deadline may have passed; ignored if the release no longer waits for the step."""

    step: str


class Superseded(Contract):
    """A newer release of the same model replaces this one."""

    by: str


InputData = Fact | ManifestWritten | TurnGranted | DeadlineReached | Superseded


@dataclass(frozen=True)
class Input:
    """An input of the state machine: its ID, its time (for a fact, the time of the event), and its data.

    `cause_id` is the event that caused it, where that is not the input itself. `sender` published it.
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
    """An approval, and the identity that published it."""

    sender: str
    order: ApprovalGranted


class Cancellation(Contract):
    """A cancellation, and the identity that published it."""

    sender: str
    order: ReleaseCancelled


class Hold(Contract):
    """The newest order to hold the release or to let it go on, and the identity that published it.

    Attributes:
        at: When the bus stored it.
        event_id: Id of its event.
    """

    at: Instant
    event_id: str
    sender: str
    order: ReleaseHeld

    @property
    def as_order(self) -> HoldOrder:
        """The order as `services.registry.domain.release_holds` compares it."""
        return HoldOrder(self.at, self.event_id, self.order.paused)


class Advance(Contract):
    """An order to let a canary take the next share, and the identity that published it."""

    sender: str
    order: CanaryAdvanced


class Denial(Contract):
    """A denied approval, and the identity that published it."""

    sender: str
    order: ApprovalDenied


Order = ApprovalGranted | ReleaseCancelled | ReleaseHeld | CanaryAdvanced | ApprovalDenied


class RouteSeen(Contract):
    """The newest route of the model that was received; `serving` has the shadow, too."""

    epoch: int
    serving: tuple[Target, ...]
    quarantined: tuple[Target, ...]


class Release(OutboxRecord):
    """The record of a release: a field for each fact, and the emitted facts.

    The first of each fact wins; the failure of a shadow or a canary also replaces its pass.

    `times` holds when each field was filled, `emitted` when each fact was decided. Only `outbox` ever shrinks.
    `progress` is what was published last of it.
    `timed_out` lists the variants that the registry itself failed, because they were not quantised in time. `asked` is
    the digest that approval was requested of.
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
        """The release id, which is the correlation id of all its facts."""
        return self.opened.release_id

    @property
    def model(self) -> str:
        """The model that this is a release of."""
        return self.opened.model

    @property
    def version(self) -> int:
        """The version number reserved for the release."""
        return self.opened.version

    @property
    def policy(self) -> ReleasePolicy:
        """The policy as it was when the release was opened."""
        return self.opened.policy

    def is_ours(self, target: Target) -> bool:
        """Return whether a target is a variant of this release's version."""
        return target.model == self.model and target.version == self.version

    @property
    def hold_order(self) -> HoldOrder | None:
        """The order to hold it, or to let it go on, that counts."""
        return self.hold.as_order if self.hold is not None else None

    @property
    def is_paused(self) -> bool:
        """Return whether it is held before its next step."""
        return self.hold is not None and self.hold.order.paused

    def has_recorded(self, event_id: str, order: Order, sender: str) -> bool:
        """Return whether this order of this sender was recorded; not if another order has the same event ID.

        Of orders to pause and to resume only the newest is kept: what an older one said is not known any more.
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
"""Stands for a share of traffic in keys: the target takes none yet."""


def weight_key(weight_ratio: float) -> str:
    """Return a share of traffic as it is written in keys: `0.1`, `1`."""
    return f"{weight_ratio:g}"
