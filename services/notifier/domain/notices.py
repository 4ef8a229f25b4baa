"""The notifier's record of a model: its alerts, what receivers took of them, and the effect of events."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from contracts.facts.watch import Severity
from contracts.vocabulary import Contract, Instant, ModelName, StoredRecord

KEPT = timedelta(days=7)
"""How long a resolved alert is remembered; an older event of an unknown alert is ignored."""
MOST_ENDED = 1000
Alert = AlertRaised | AlertUpdated | AlertResolved
Kind = Literal["alertmanager", "webhook", "slack"]
Taken = tuple[str, str, str]
"""The key of a notice, the name of a receiver, and the transition that it took."""


class Receiver(Contract):
    """A system that alerts are sent to.

    Attributes:
        url: Its address; that of an incoming webhook of Slack is a secret.
        secrets: Of a webhook: what signs; two while one replaces the other.
        severities: Severities that it gets.
        models: Models that it gets alerts of; empty for all.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    kind: Kind
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+", repr=False)]
    secrets: Annotated[tuple[str, ...], Field(repr=False)] = ()
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = ("info", "warning", "critical")
    models: tuple[ModelName, ...] = ()

    def takes(self, alert: AlertRaised) -> bool:
        """Return whether it gets an alert."""
        return alert.severity in self.severities and (not self.models or alert.target.model in self.models)


class Notice(Contract):
    """An alert with its newest figures, from raised to resolved.

    Attributes:
        resolved_at: When it ended; None while it is open.
        rollback: Why no automatic rollback follows from it; None unless one failed, or was held.
        sent: What each receiver took of it; those that were added later have no entry.
    """

    alert: AlertRaised
    resolved_at: Instant | None = None
    rollback: RollbackFailed | None = None
    sent: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def due(self, receiver: Receiver, *, repeated: bool) -> list[str]:
        """Return what is due, in order: `raised`, `rollback_failed/CODE`, `resolved`; `repeated`: open alerts again."""
        taken = self.sent.get(receiver.name, ())
        is_late = self.resolved_at is not None and receiver.name not in self.sent
        if is_late or (not taken and not receiver.takes(self.alert)):
            return []
        due = ["raised"]
        if self.resolved_at is not None:
            due.append("resolved")
        elif self.rollback is not None:
            due.append(f"rollback_failed/{self.rollback.code}")
        again = due[:1] if repeated and self.resolved_at is None else []
        return [transition for transition in due if transition not in taken] or again


class ModelNotices(StoredRecord):
    """The record of a model: its notices by the id of the alert and when it was raised."""

    model: ModelName
    notices: dict[str, Notice] = Field(default_factory=dict)

    def with_changes(self, key: str, notice: Notice, **changes: object) -> "ModelNotices":
        """Return the record with a changed notice."""
        return self.model_copy(update={"notices": {**self.notices, key: notice.model_copy(update=changes)}})


def note_alert(
    record: ModelNotices, alert: Alert, at: datetime, now: datetime, receivers: Iterable[Receiver]
) -> ModelNotices:
    """Return the record with an alert, its newer figures, or its end; one of a drill is ignored, unless it is known."""
    key = f"{alert.alert_id}@{alert.raised_at.isoformat()}"
    notice = record.notices.get(key)
    if notice is None and (alert.drill is not None or now - at > KEPT):
        return record
    if notice is not None and (notice.resolved_at is not None or isinstance(alert, AlertRaised)):
        return record
    newest = AlertRaised.model_validate(alert.model_dump(by_alias=True))
    resolved_at = at if isinstance(alert, AlertResolved) else None
    notice = notice or Notice(alert=newest, sent={receiver.name: () for receiver in receivers})
    return record.with_changes(key, notice, alert=newest, resolved_at=resolved_at)


def note_rollback_failed(record: ModelNotices, rollback: RollbackFailed) -> ModelNotices:
    """Return the record with why no rollback follows from an alert, if that is open."""
    for key, notice in record.notices.items():
        if notice.alert.alert_id == rollback.alert_id and notice.resolved_at is None:
            return record.with_changes(key, notice, rollback=rollback)
    return record


def note_sent(record: ModelNotices, taken: Iterable[Taken]) -> ModelNotices:
    """Return the record with what receivers took of notices."""
    for key, receiver, transition in taken:
        notice = record.notices.get(key)
        before = notice.sent.get(receiver, ()) if notice is not None else ()
        if notice is not None and transition not in before:
            record = record.with_changes(key, notice, sent={**notice.sent, receiver: (*before, transition)})
    return record


def prune(record: ModelNotices, now: datetime) -> ModelNotices:
    """Return the record without alerts that ended a while ago."""
    ended = sorted((each.resolved_at, key) for key, each in record.notices.items() if each.resolved_at is not None)
    kept = {key for resolved_at, key in ended[-MOST_ENDED:] if now - resolved_at < KEPT}
    notices = {key: each for key, each in record.notices.items() if each.resolved_at is None or key in kept}
    return record.model_copy(update={"notices": notices})
