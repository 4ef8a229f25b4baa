"""Screens of those on duty: rehearsals, drills, dead letters. Pure."""

from typing import Any

from services.console.domain.release_data import Certificate
from services.console.domain.screens import RollbackSummary, Screen, Time


class Rehearsal(Screen):
    """A rehearsed rollback: variant, release, verdict, and duration for each trigger."""

    release_id: str
    model: str
    version: int | None
    variant: str
    at: Time
    verdict: str
    reason: str
    certificates: tuple[Certificate, ...]
    expires_at: Time | None


class Drill(Screen):
    """A drill that a person ordered, and its effects.

    Attributes:
        share: Share of requests that it affects; 0 ends the drill of that target.
        fault: What it does to them, by the fields of `DrillOrdered`.
        ended_at: When a later order for the model ended or replaced it; None if none did before it expired.
        outcome: What became of the order: `accepted`, `refused`, or empty.
        alerts: Alerts that it raised.
        rollbacks: Rollbacks that these led to.
    """

    drill_id: str
    model: str
    target: str
    environment: str
    at: Time
    expires_at: Time
    ended_at: Time | None
    by: str
    reason: str
    share: float
    fault: dict[str, Any]
    outcome: str
    detail: str
    alerts: tuple[str, ...]
    detected_ms: float | None
    rollbacks: tuple[RollbackSummary, ...]


class DeadLetter(Screen):
    """A message that a service gave up on, and why; its content is not shown."""

    number: int
    at: Time
    model: str
    service: str
    subject: str
    code: str
    reason: str
    deliveries: int
