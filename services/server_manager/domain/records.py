"""The record of a fleet, in the bucket `servers`, and the lease on it."""

from typing import Literal

from pydantic import Field, ValidationError

from contracts.envelope import Event
from contracts.facts import EndpointOrdered, StageRequested, TrafficRequested
from contracts.records import OutboxRecord
from contracts.vocabulary import Contract, Digest, Instant, StagingPurpose, Target

CLOSED_KEPT = 500
ANSWERED_KEPT = 500
FleetAlert = Literal["engine", "standby", "provenance"]


class Lease(Contract):
    """A staging order, waiting or held. Its id is the id of the event that asked for it."""

    event: Event[StageRequested]
    state: Literal["waiting", "loading", "staged"] = "waiting"

    @property
    def lease_id(self) -> str:
        """Name of the lease."""
        return self.event.id


class TrafficOrder(Contract):
    """A traffic order without an answer yet."""

    event: Event[TrafficRequested]
    received_at: Instant

    @property
    def order_id(self) -> str:
        """Name of the order: it becomes the route's cause."""
        return self.event.id


class Closed(Contract):
    """A release or candidate whose staging ended: its orders are void.

    `candidate` is None when the whole release ended. A release stages a candidate once for each purpose, so `purpose`
    names the ended order; None (facts of an earlier version) ends all orders before it.
    """

    release_id: str
    candidate: Target | None
    at: Instant
    purpose: StagingPurpose | None = None

    def covers(self, event: Event[StageRequested]) -> bool:
        """Return whether a staging order was ended by this, in whatever order the two facts arrive."""
        request = event.data
        if self.release_id != request.release_id:
            return False
        if self.candidate is None:
            return True
        if self.candidate != request.candidate.target:
            return False
        if self.purpose is None:
            return event.time <= self.at
        return request.purpose == self.purpose


def target_of(name: str) -> Target | None:
    """Return the target that an engine's model serves; None for a foreign model."""
    parts = name.split(".")
    if len(parts) != 3 or not parts[1].removeprefix("v").isdecimal():
        return None
    fields = {"model": parts[0], "version": int(parts[1].removeprefix("v")), "variant": parts[2]}
    try:
        target = Target.model_validate(fields)
    except ValidationError:
        return None
    return target if str(target) == name else None


class EndpointOrder(Contract):
    """An administrator's order about an endpoint that was not answered yet."""

    event: Event[EndpointOrdered]
    received_at: Instant

    @property
    def order_id(self) -> str:
        """Name of the order."""
        return self.event.id


class OrderedAt(Contract):
    """When an order was given by its sender's clock, and stored by the clock of the bus."""

    given_at: Instant
    stored_at: Instant


class DrainedEndpoint(Contract):
    """An endpoint that takes nothing new, and whose targets of production are loaded on others."""

    name: str
    actor: str
    reason: str
    since: Instant


class LoadedTarget(Contract):
    """A target that Triton holds, as others may see it."""

    target: Target
    manifest_digest: Digest
    phase: str
    memory_bytes: int
    reason: str = ""


class TargetCopies(Contract):
    """A target that is to be loaded on several endpoints.

    Attributes:
        target: the target.
        asked: on how many endpoints its release's policy asks to load it.
        serving: on how many it generates.
        memory_bytes: what it reserves beside its home.
    """

    target: Target
    asked: int
    serving: int
    memory_bytes: int = 0


class MeasuredFiles(Contract):
    """The most memory that a target of these files was seen to take on an engine."""

    digest: Digest
    peak_bytes: int


class OpenAlert(Contract):
    """An open alert about `target`: it does not generate, has no ready target to roll back to, or is not proven."""

    target: Target
    raised_at: Instant
    message: str
    kind: FleetAlert = "engine"

    @property
    def alert_id(self) -> str:
        """Stable name of the alert: one per target, or per model for its standby."""
        return f"standby-{self.target.model}" if self.kind == "standby" else f"{self.kind}-{self.target}"


class Servers(OutboxRecord):
    """The state of the serving fleet: `servers/<fleet>`."""

    memory_budget_bytes: int = 0
    loaded: tuple[LoadedTarget, ...] = ()
    copies: tuple[TargetCopies, ...] = ()
    """The targets of production that are to be loaded on several endpoints."""
    measured: tuple[MeasuredFiles, ...] = ()
    """The memory that targets took, by the digest of their manifests, the one measured last at the end."""
    lease: Lease | None = None
    waiting: tuple[Lease, ...] = ()
    orders: tuple[TrafficOrder, ...] = ()
    closed: tuple[Closed, ...] = ()
    alerts: tuple[OpenAlert, ...] = ()
    temporary: tuple[Target, ...] = ()
    """Loaded for a staging lease or a traffic order only: may be unloaded though their model has no route."""
    endpoint_orders: tuple[EndpointOrder, ...] = ()
    """Orders of administrators about endpoints that are not answered yet."""
    drained: tuple[DrainedEndpoint, ...] = ()
    """The endpoints that are drained; they stay so until an order says otherwise, whatever is configured."""
    ordered: dict[str, OrderedAt] = Field(default_factory=dict)
    """The newest order about each endpoint that was carried out: an earlier one comes too late."""
    addresses: tuple[str, ...] = ()
    """How gateways reached the endpoints that the fleet has had: one that is not configured any more was removed."""
    answered: tuple[str, ...] = ()
    """The ids of orders that were answered; one that is delivered again is not answered a second time."""


class Leader(Contract):
    """Which process acts on the fleet: `servers/<fleet>.leader`. Every renewal is a new revision."""

    holder: str
    term: int = 0
