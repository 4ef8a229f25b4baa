"""Records of a fleet in the bucket `servers`: its state, and the lease on it."""

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
    """A staging order, waiting or held."""

    event: Event[StageRequested]
    state: Literal["waiting", "loading", "staged"] = "waiting"

    @property
    def lease_id(self) -> str:
        """Id of the lease: the id of its event."""
        return self.event.id


class TrafficOrder(Contract):
    """An unanswered traffic order."""

    event: Event[TrafficRequested]
    received_at: Instant

    @property
    def order_id(self) -> str:
        """Id of the order, which becomes the route's `cause_id`."""
        return self.event.id


class Closed(Contract):
    """The end of a release, or of a candidate's staging: its orders are void.

    `candidate` is None if the whole release ended. `purpose` selects one of a candidate's stagings; None (in facts of
    an earlier Slipway) selects all before `at`.
    """

    release_id: str
    candidate: Target | None
    at: Instant
    purpose: StagingPurpose | None = None

    def covers(self, event: Event[StageRequested]) -> bool:
        """Return whether this end applies to a staging order, whichever event arrived first."""
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
    """Return the target with an engine's model name; None for a foreign model."""
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
    """An administrator's unanswered order about an endpoint."""

    event: Event[EndpointOrdered]
    received_at: Instant

    @property
    def order_id(self) -> str:
        """Id of the order."""
        return self.event.id


class OrderedAt(Contract):
    """Times of an order: given, by its sender's clock; stored, by the clock of the bus."""

    given_at: Instant
    stored_at: Instant


class DrainedEndpoint(Contract):
    """A drained endpoint: it takes no new targets, and its production targets move to others."""

    name: str
    actor: str
    reason: str
    since: Instant


class LoadedTarget(Contract):
    """Public state of a target on an engine."""

    target: Target
    manifest_digest: Digest
    phase: str
    memory_bytes: int
    reason: str = ""


class TargetCopies(Contract):
    """A target with several replicas.

    Attributes:
        target: the target.
        asked: replicas requested by its release's policy.
        serving: replicas that generate.
        memory_bytes: reserved memory of its copies.
    """

    target: Target
    asked: int
    serving: int
    memory_bytes: int = 0


class MeasuredFiles(Contract):
    """Peak memory of an engine with a target, by the target's manifest digest."""

    digest: Digest
    peak_bytes: int


class OpenAlert(Contract):
    """An open alert: `target` does not generate, has no ready standby, or is not proven."""

    target: Target
    raised_at: Instant
    message: str
    kind: FleetAlert = "engine"

    @property
    def alert_id(self) -> str:
        """Stable id: one alert per kind and target, or per model for `standby`."""
        return f"standby-{self.target.model}" if self.kind == "standby" else f"{self.kind}-{self.target}"


class Servers(OutboxRecord):
    """The state of the serving fleet: `servers/<fleet>`."""

    memory_budget_bytes: int = 0
    loaded: tuple[LoadedTarget, ...] = ()
    copies: tuple[TargetCopies, ...] = ()
    """Production targets with several replicas."""
    measured: tuple[MeasuredFiles, ...] = ()
    """Measured peak memory, the latest last."""
    lease: Lease | None = None
    waiting: tuple[Lease, ...] = ()
    orders: tuple[TrafficOrder, ...] = ()
    closed: tuple[Closed, ...] = ()
    alerts: tuple[OpenAlert, ...] = ()
    temporary: tuple[Target, ...] = ()
    """Targets loaded only for a staging lease or traffic order: may be unloaded even without a route."""
    endpoint_orders: tuple[EndpointOrder, ...] = ()
    """Unanswered endpoint orders."""
    drained: tuple[DrainedEndpoint, ...] = ()
    """Drained endpoints, until an order returns them to use."""
    ordered: dict[str, OrderedAt] = Field(default_factory=dict)
    """Newest executed order by endpoint; earlier orders are refused."""
    addresses: tuple[str, ...] = ()
    """Addresses of past and current endpoints; those no longer configured are removed endpoints."""
    answered: tuple[str, ...] = ()
    """Ids of answered orders, so that a redelivered order is not answered twice."""


class Leader(Contract):
    """The process that holds the fleet lease: `servers/<fleet>.leader`. Every renewal is a new revision."""

    holder: str
    term: int = 0
