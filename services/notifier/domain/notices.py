"""The notifier's record of a model: its alerts, the deliveries to each receiver, and the effect of events."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from contracts.codes import Code
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from contracts.facts.watch import Severity
from contracts.storage.stored import StoredRecord
from contracts.vocabulary import Contract, Instant, ModelName

Transition = Literal["raised", "rollback_failed", "resolved"]

KEPT = timedelta(days=1)
"""How long a resolved alert is remembered, so that what comes again is not sent again."""
OLDEST = timedelta(days=7)
"""An alert that was raised longer ago and is not in the record is not sent."""
OLD, SETTLES = timedelta(minutes=5), timedelta(minutes=2)
"""An alert that was raised longer ago than `OLD` is sent `SETTLES` later: its end may follow in the log."""
MOST_NOTICES = 1000


class Receiver(Contract):
    """A system that alerts are sent to.

    Attributes:
        kind: One of `payloads.CHANNELS`.
        url: Its address; that of an incoming webhook of Slack is a secret.
        secrets: Of a webhook: what signs; two while one replaces the other.
        severities: Severities that it gets.
        models: Models that it gets alerts of; empty for all.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    kind: Literal["alertmanager", "webhook", "slack"]
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
        read_at: When its event was read.
        resolved_at: When it ended; None while it is open.
        rollback_code: Why no automatic rollback follows from it; None unless one failed, or was held.
        rollback_reason: The same as a sentence.
        sent: What its receivers took of it, by their names: keys of transitions, and their `try_of`.
    """

    alert: AlertRaised
    raised_at: Instant
    read_at: Instant
    resolved_at: Instant | None = None
    rollback_code: Code | None = None
    rollback_reason: str = ""
    sent: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def key_of(self, transition: Transition) -> str:
        """Return the key of a transition among those of its alert."""
        return f"{transition}/{self.rollback_code}" if transition == "rollback_failed" else transition

    def try_of(self, transition: Transition) -> str:
        """Return the record before a transition's first delivery."""
        return f"tried/{self.key_of(transition)}"

    def taken_with(self, transition: Transition) -> tuple[str, ...]:
        """Return the keys that a delivered transition settles: a raised notice also names the failed rollback."""
        told = (self.key_of("rollback_failed"),) if transition == "raised" and self.rollback_code is not None else ()
        return (self.key_of(transition), *told)

    def repeats(self, receiver: str) -> list[Transition]:
        """Return the transitions of an open alert to repeat to a receiver that expires alerts."""
        is_open = self.resolved_at is None and "raised" in self.sent.get(receiver, ())
        return ["raised"] if is_open else []

    def due(self, receiver: str, now: datetime) -> list[Transition]:
        """Return the pending deliveries of a receiver, in order."""
        sent = self.sent.get(receiver)
        if self.read_at - self.raised_at > OLD and now - self.read_at < SETTLES:
            return []
        if sent is None or "resolved" in sent or (self.resolved_at is not None and not sent):
            return []
        due: list[Transition] = [] if "raised" in sent else ["raised"]
        if self.resolved_at is not None:
            return [*due, "resolved"]
        if due or self.rollback_code is None or self.key_of("rollback_failed") in sent:
            return due
        return ["rollback_failed"]


class ModelNotices(StoredRecord):
    """The record of a model: its notices by the id of the alert and when it was raised."""

    model: ModelName
    notices: dict[str, Notice] = Field(default_factory=dict)

    def with_notice(self, key: str, notice: Notice) -> "ModelNotices":
        """Return the record with a notice."""
        return self.model_copy(update={"notices": {**self.notices, key: notice}})


def key_of(alert: AlertRaised | AlertUpdated | AlertResolved, at: datetime) -> str:
    """Return the key of an alert's notice, which differs for each occurrence of the alert."""
    return f"{alert.alert_id}@{(alert.raised_at or at).isoformat()}"


def note_raised(
    record: ModelNotices,
    alert: AlertRaised | AlertUpdated,
    *,
    at: datetime,
    receivers: Iterable[Receiver],
    now: datetime,
) -> ModelNotices:
    """Return the record with an alert, or its newer figures, for its receivers; an unknown drill alert is ignored."""
    key, newest = key_of(alert, at), AlertRaised.model_validate(alert.model_dump(by_alias=True))
    notice = record.notices.get(key)
    if notice is None:
        if alert.drill is not None or now - at > OLDEST:
            return record
        notice = Notice(alert=newest, raised_at=alert.raised_at or at, read_at=now)
    elif notice.resolved_at is not None:
        return record
    elif isinstance(alert, AlertRaised):
        newest = notice.alert
    taken: dict[str, tuple[str, ...]] = {receiver.name: () for receiver in receivers if receiver.takes(newest)}
    return record.with_notice(key, notice.model_copy(update={"alert": newest, "sent": taken | notice.sent}))


def note_resolved(record: ModelNotices, alert: AlertResolved, *, at: datetime, now: datetime) -> ModelNotices:
    """Note the end of an alert. One that comes before the beginning is remembered, and nothing is sent."""
    key, raised_at = key_of(alert, at), alert.raised_at or at
    notice = record.notices.get(key)
    if notice is None and (alert.drill is not None or now - raised_at > OLDEST):
        return record
    newest = AlertRaised.model_validate(alert.model_dump(by_alias=True))
    notice = notice or Notice(alert=newest, raised_at=raised_at, read_at=now)
    changes = {"alert": newest, "resolved_at": notice.resolved_at or at}
    return record.with_notice(key, notice.model_copy(update=changes))


def find_alert(record: ModelNotices, rollback: RollbackFailed, at: datetime) -> str | None:
    """Return the key of the open alert that a rollback failed after; None if the target has none.

    It is the newest alert that was raised before, rather one of a trigger.
    """
    before = [
        (notice.alert.trigger is not None, notice.raised_at, key)
        for key, notice in record.notices.items()
        if notice.resolved_at is None and notice.alert.target == rollback.failed and notice.raised_at <= at
    ]
    return max(before)[2] if before else None


def note_rollback_failed(record: ModelNotices, rollback: RollbackFailed, at: datetime) -> ModelNotices:
    """Note that no automatic rollback follows from an alert, if the target has one open."""
    key = find_alert(record, rollback, at)
    if key is None:
        return record
    changes = {"rollback_code": rollback.code, "rollback_reason": rollback.reason}
    return record.with_notice(key, record.notices[key].model_copy(update=changes))


def note_sent(record: ModelNotices, taken: Mapping[tuple[str, str], tuple[str, ...]]) -> ModelNotices:
    """Return the record with delivered transitions, by the alert's key and the receiver's name."""
    for (key, receiver), added in taken.items():
        if (notice := record.notices.get(key)) is not None:
            sent = {**notice.sent, receiver: tuple(dict.fromkeys((*notice.sent.get(receiver, ()), *added)))}
            record = record.with_notice(key, notice.model_copy(update={"sent": sent}))
    return record


def prune(record: ModelNotices, now: datetime) -> ModelNotices:
    """Return the record without alerts that ended a while ago."""
    ended = sorted((each.resolved_at, key) for key, each in record.notices.items() if each.resolved_at is not None)
    gone = {key for _, key in ended[: max(0, len(ended) - MOST_NOTICES)]}
    gone |= {key for resolved_at, key in ended if now - resolved_at >= KEPT}
    return record.model_copy(update={"notices": {key: each for key, each in record.notices.items() if key not in gone}})
