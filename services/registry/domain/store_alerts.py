"""Alerts about the store and the records of versions."""

from datetime import datetime
from typing import TypeVar

from contracts.envelope import derived_id
from contracts.facts import AlertRaised, AlertResolved
from contracts.records import OutboxEntry, outbox_entry
from contracts.vocabulary import Contract, Instant, Target
from decisions.alerts import RUNBOOKS

A = TypeVar("A", AlertRaised, AlertResolved)


class StoreAlert(Contract):
    """An open alert about objects or records of a version."""

    target: Target
    raised_at: Instant
    message: str

    @property
    def alert_id(self) -> str:
        """Stable name of the alert: one per version and occurrence."""
        return f"store-{self.target}-{self.raised_at:%Y%m%dT%H%M%S}"


def alert_fact(fact: type[A], alert: StoreAlert, message: str) -> A:
    """Return the fact that raises or resolves an alert."""
    return fact(
        alert_id=alert.alert_id,
        kind="store",
        severity="critical",
        target=alert.target,
        runbook=RUNBOOKS["store"],
        message=message,
        raised_at=alert.raised_at,
    )


def alert_entry(fact: type[A], alert: StoreAlert, message: str, now: datetime) -> OutboxEntry:
    """Return the fact that raises or resolves an alert, as a record publishes it."""
    return outbox_entry(
        alert_fact(fact, alert, message),
        model=alert.target.model,
        cause_id=None,
        correlation_id=alert.alert_id,
        decided_at=now,
        id=derived_id(alert.alert_id, fact.TYPE),
    )
