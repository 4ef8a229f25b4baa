"""The record of a model in one environment, in the bucket `rollbacks`, and its basic edits."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from contracts.codes import Code
from contracts.facts import (
    Fact,
    RehearsalCompleted,
    RehearsalRequested,
    RollbackTimeline,
)
from contracts.policy import ReleasePolicy, Trigger
from contracts.records import OutboxEntry, OutboxRecord, outbox_entry
from contracts.routes import Route
from contracts.vocabulary import Contract, Environment, Instant, ModelName, Target, Verdict
from decisions.routes.versions import versions_on

ROLLBACKS_KEPT = 50
VERSIONS_KEPT = 64
HELD_KEPT = 100
REHEARSALS_KEPT = 20

Phase = Literal["decided", "switched", "completed", "failed"]
Origin = Literal["alert", "order", "canary", "shadow", "release"]


@dataclass(frozen=True)
class Rules:
    """Limits of the controller's decisions, the same for every model.

    Attributes:
        unnamed_s: Seconds after a rollback in which an order must name the target to roll back.
        verify_requests: Requests after the switch needed for its verification.
        verify_s: Seconds for these requests.
        alert_s: Seconds for which an alert may start a rollback; an open alert is published again.
        decided_s: Seconds after the decision in which a rollback may move traffic, such as after an outage.
    """

    unnamed_s: float = 120.0
    verify_requests: int = 5
    verify_s: float = 30.0
    alert_s: float = 900.0
    decided_s: float = 900.0


class Rollback(Contract):
    """One rollback, from the decision to its end.

    Attributes:
        cause_id: Id of the event that caused it.
        cause_sequence: The event's sequence number in the log.
        origin: The kind of event.
        expires_at: When its order expires; None without an order.
        epoch: The route's epoch in its order, if given.
        replicas: Replicas of the standby that must generate before the switch.
        judged_by: The trigger for judging the failed version's shadow; empty for none.
        good: Requests since the switch that are good by `trigger`; without a trigger, answered requests.
        bad: The other requests since the switch.
        route_event_id: Id of the `deployment.changed` about the switch.
    """

    rollback_id: str
    cause_id: str
    correlation_id: str
    origin: Origin
    mode: Literal["automatic", "manual"]
    failed: Target
    timeline: RollbackTimeline
    reason: str = ""
    alert_id: str = ""
    trigger: str = ""
    judged_by: str = ""
    cause_sequence: int = 0
    expires_at: Instant | None = None
    epoch: int | None = None
    to_version: int | None = None
    replicas: int = 1
    to: Target | None = None
    phase: Phase = "decided"
    route_event_id: str = ""
    good: int = 0
    bad: int = 0
    verdict: Verdict | None = None
    code: Code | None = None


class RollbackState(OutboxRecord):
    """State of one model in one environment.

    Attributes:
        triggers: The triggers of the frozen policy, by version.
        held: Error code by alert that starts no rollback, published once each.
        rehearsals: Rehearsal requests by release (production's record only).
        rehearsed: Rehearsal outcomes by release (production's record only).
        rehearsing: The trigger under rehearsal; other triggers' alerts start nothing in staging.
        rehearsing_since: Only alerts after this sequence number of the log belong to the rehearsal.
    """

    model: ModelName
    environment: Environment
    triggers: dict[str, tuple[Trigger, ...]] = Field(default_factory=dict)
    rollbacks: tuple[Rollback, ...] = ()
    held: dict[str, str] = Field(default_factory=dict)
    rehearsals: dict[str, RehearsalRequested] = Field(default_factory=dict)
    rehearsed: dict[str, RehearsalCompleted] = Field(default_factory=dict)
    rehearsing: str = ""
    rehearsing_since: int = 0

    def trigger(self, target: Target, name: str | None) -> Trigger | None:
        """Return a trigger of a target's version by name; None if not declared."""
        declared = self.triggers.get(str(target.version), ())
        return next((trigger for trigger in declared if trigger.name == name), None)

    def rollback(self, rollback_id: str) -> Rollback | None:
        """Return a rollback by id; None if unknown."""
        return next((rollback for rollback in self.rollbacks if rollback.rollback_id == rollback_id), None)


def add_rollback(state: RollbackState, rollback: Rollback) -> RollbackState:
    """Return the record with a new rollback.

    Beyond `ROLLBACKS_KEPT`, ended rollbacks are removed, first those without a switch.
    """
    ended = [known for known in state.rollbacks if known.phase in ("completed", "failed")]
    ended.sort(key=lambda known: known.timeline.switched_at is not None)
    excess = max(0, len(state.rollbacks) + 1 - ROLLBACKS_KEPT)
    removed = {known.rollback_id for known in ended[:excess]}
    kept = tuple(known for known in state.rollbacks if known.rollback_id not in removed)
    return state.model_copy(update={"rollbacks": (*kept, rollback)})


def publish(state: RollbackState, fact: Fact, about: Rollback, decided_at: datetime) -> RollbackState:
    """Return the record with a fact about a rollback in its outbox."""
    entry = outbox_entry(
        fact,
        key=about.rollback_id,
        model=state.model,
        environment=state.environment,
        cause_id=about.cause_id,
        correlation_id=about.correlation_id,
        decided_at=decided_at,
    )
    return with_entries(state, entry)


def with_entries(state: RollbackState, *entries: OutboxEntry) -> RollbackState:
    """Return the record with more facts in its outbox."""
    return state.model_copy(update={"outbox": (*state.outbox, *entries)})


def record_policy(
    state: RollbackState, version: int, policy: ReleasePolicy, route: Route | None = None
) -> RollbackState:
    """Record the triggers of a version's policy; the first policy of a version stays.

    Beyond `VERSIONS_KEPT`, the lowest versions that are not on the route are removed.
    """
    key = str(version)
    if key in state.triggers:
        return state
    known = {**state.triggers, key: policy.triggers}
    removable = sorted(known.keys() - {str(version) for version in versions_on(route)}, key=int)
    excess = set(removable[: max(0, len(known) - VERSIONS_KEPT)])
    return state.model_copy(update={"triggers": {name: known[name] for name in known if name not in excess}})
