"""What is known about one release: which facts were seen, and what was said because of them."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from contracts.facts import (
    ApprovalGranted,
    CanaryAssessed,
    CheckpointMerged,
    CheckpointRejected,
    Fact,
    PromotionRefused,
    RehearsalCompleted,
    ReleaseCancelled,
    ReleaseFinished,
    ReleaseOpened,
    VariantBenchmarked,
    VariantFailed,
    VariantQuantised,
    WorkAbandoned,
)
from contracts.policy import ReleasePolicy
from contracts.records import OutboxRecord
from contracts.vocabulary import ArtifactRef, Contract, Deployable, Instant, Target, Variant


class ManifestWritten(Contract):
    """The immutable version manifest lies in the store."""

    ref: ArtifactRef


class SlotGranted(Contract):
    """This release may go beyond registration: what serves production now, and at which epoch of the route."""

    baseline: Deployable
    epoch: int
    first: bool


class DeadlineReached(Contract):
    """The clock says that a step may have waited too long; decided against the release, stale ones are ignored."""

    step: str


class Superseded(Contract):
    """A newer release of the same model takes this one's place."""

    by: str


Heard = Fact | ManifestWritten | SlotGranted | DeadlineReached | Superseded


@dataclass(frozen=True)
class Input:
    """Something that happened: its id, when (for a fact: its event's time), and what.

    `cause_id` is the event that what follows is due to, where that is not the input itself.
    """

    id: str
    at: datetime
    what: Heard
    cause_id: str = ""


class Deployed(Contract):
    """A traffic order that was carried out."""

    epoch: int
    target: Target


class RouteSeen(Contract):
    """The newest route of the model that was heard of."""

    epoch: int
    serving: tuple[Target, ...]
    quarantined: tuple[Target, ...]


SECOND = 2
"""Number of the measurement that a suspect record is answered with; there is no third."""


class Again(Contract):
    """What came of the second measurement of a variant: the same slots as for the first."""

    made: VariantQuantised | None = None
    failed: VariantFailed | None = None
    staged: bool = False
    benchmarked: VariantBenchmarked | None = None


class Release(OutboxRecord):
    """The record of a release: slots for facts (the first of each wins), and what was emitted.

    `times` holds when each slot was filled, `emitted` when each fact was decided. Only `outbox` ever shrinks.
    `given_up` lists the variants that the registry itself failed, because they were not made in time. `again` holds the
    second measurement of variants; it counts only where the first benchmark asks for one.
    """

    opened: ReleaseOpened
    opened_at: Instant
    applied: tuple[str, ...] = ()
    times: dict[str, Instant] = Field(default_factory=dict)
    emitted: dict[str, Instant] = Field(default_factory=dict)

    merged: CheckpointMerged | None = None
    made: dict[Variant, VariantQuantised] = Field(default_factory=dict)
    failed: dict[str, VariantFailed] = Field(default_factory=dict)
    given_up: tuple[Variant, ...] = ()
    manifest: ArtifactRef | None = None
    slot: SlotGranted | None = None
    staged: tuple[Variant, ...] = ()
    benchmarked: dict[Variant, VariantBenchmarked] = Field(default_factory=dict)
    again: dict[Variant, Again] = Field(default_factory=dict)
    rehearsed: RehearsalCompleted | None = None
    approvals: dict[str, ApprovalGranted] = Field(default_factory=dict)
    deployed: dict[str, Deployed] = Field(default_factory=dict)
    assessed: dict[str, CanaryAssessed] = Field(default_factory=dict)
    waived: tuple[str, ...] = ()
    route: RouteSeen | None = None

    rejected: CheckpointRejected | None = None
    refused: PromotionRefused | None = None
    abandoned: WorkAbandoned | None = None
    cancelled: ReleaseCancelled | None = None
    superseded: Superseded | None = None
    expired: str | None = None
    finished: ReleaseFinished | None = None

    @property
    def id(self) -> str:
        """The release id, which is the correlation id of all its facts."""
        return self.opened.release_id

    @property
    def model(self) -> str:
        """Name of the model that this is a release of."""
        return self.opened.model

    @property
    def version(self) -> int:
        """The version number that was reserved for it."""
        return self.opened.version

    @property
    def policy(self) -> ReleasePolicy:
        """The policy as it was when the release was opened."""
        return self.opened.policy

    def is_ours(self, target: Target) -> bool:
        """Return whether a target is a variant of this release's version."""
        return target.model == self.model and target.version == self.version


def weight_key(weight_ratio: float) -> str:
    """Name a share of traffic the same way everywhere: `0.1`, `1`."""
    return f"{weight_ratio:g}"
