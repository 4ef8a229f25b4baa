"""What the rollback-controller remembers of a model in one environment: one record in the bucket `rollbacks`."""

import hashlib
from typing import Literal

from pydantic import Field

from contracts.codes import Code
from contracts.facts import RehearsalCompleted, RehearsalRequested, RollbackTimeline
from contracts.outbox import OutboxRecord
from contracts.policy import Trigger
from contracts.vocabulary import Contract, Instant, Target, Verdict

ROLLBACKS_KEPT = 50
VERSIONS_KEPT = 64
HELD_KEPT = 100
REHEARSALS_KEPT = 20

State = Literal["decided", "switched", "completed", "failed"]
Asked = Literal["alert", "order", "canary", "release"]


class Rollback(Contract):
    """One way back, from the decision to its end.

    Attributes:
        cause_id: the fact that asked for it, and `cause_sequence` its place in the log.
        expires_at: when the order that asked for it is void; None where none asked.
        epoch: the route's epoch that the order named, if any.
        good: requests since the switch that were well, as far as `trigger` says; without one, that were answered.
        route_event_id: the `deployment.changed` that says that traffic moved.
    """

    rollback_id: str
    cause_id: str
    correlation_id: str
    asked: Asked
    mode: Literal["automatic", "manual"]
    failed: Target
    timeline: RollbackTimeline
    reason: str = ""
    alert_id: str = ""
    trigger: str = ""
    cause_sequence: int = 0
    expires_at: Instant | None = None
    epoch: int | None = None
    to_version: int | None = None
    to: Target | None = None
    state: State = "decided"
    route_event_id: str = ""
    good: int = 0
    bad: int = 0
    verdict: Verdict | None = None
    code: Code | None = None


class Book(OutboxRecord):
    """Everything about one model in one environment.

    Attributes:
        triggers: by version, as its frozen policy declares them.
        held: alerts that a guard kept from leading back, and by which code: each is said once.
        rehearsals: by release, what was asked for; `rehearsed`: what came of it (both in production's record).
        rehearsing: the trigger under rehearsal: staging alerts of others lead nowhere meanwhile.
    """

    triggers: dict[str, tuple[Trigger, ...]] = Field(default_factory=dict)
    rollbacks: tuple[Rollback, ...] = ()
    held: dict[str, str] = Field(default_factory=dict)
    rehearsals: dict[str, RehearsalRequested] = Field(default_factory=dict)
    rehearsed: dict[str, RehearsalCompleted] = Field(default_factory=dict)
    rehearsing: str = ""

    def trigger(self, target: Target, name: str | None) -> Trigger | None:
        """Return the declared trigger of a target's version by name."""
        declared = self.triggers.get(str(target.version), ())
        return next((one for one in declared if one.name == name), None)

    def rollback(self, rollback_id: str) -> Rollback | None:
        """Return a rollback by its id."""
        return next((one for one in self.rollbacks if one.rollback_id == rollback_id), None)


def rollback_id(cause_id: str) -> str:
    """Name the rollback that a fact leads to: always the same one."""
    return "rb-" + hashlib.sha256(cause_id.encode()).hexdigest()[:16]
