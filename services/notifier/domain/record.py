"""What the notifier keeps of a model: alerts with what is still to be sent of each, and silences."""

from typing import Literal

from pydantic import Field

from contracts.codes import Code
from contracts.facts import AlertRaised
from contracts.facts.watch import Severity
from contracts.records import OutboxRecord
from contracts.vocabulary import Contract, Instant, ModelName, Target

Transition = Literal["raised", "rollback_failed", "acknowledged", "resolved", "silence_ended"]


class Send(Contract):
    """A notification that a receiver is yet to get.

    Attributes:
        attempts: How often it was begun.
        first_at: When it was begun the first time.
        next_at: When it is due.
    """

    transition: Transition
    attempts: int = 0
    first_at: Instant | None = None
    next_at: Instant


class SilencedAlert(Contract):
    """An alert that began and ended within a silence, as the summary lists it."""

    alert_id: str
    target: Target
    name: str
    severity: Severity
    message: str
    raised_at: Instant
    resolved_at: Instant
    silenced_by: str
    silenced_because: str
    receivers: tuple[str, ...] = ()


class Summary(Contract):
    """What silences held back from a receiver: how many alerts, and the newest of them."""

    count: int
    alerts: tuple[SilencedAlert, ...]


class Notice(Contract):
    """An alert, from raised to resolved.

    Attributes:
        alert: Its newest figures.
        raised_at: When it was raised.
        resolved_at: When it ended; None while it is open.
        forget_at: When it is removed, unless something is yet to be sent of it.
        sequences: Sequence in the log of the event of each transition.
        queues: What is to be sent, in its order, by receiver.
        notified: Receivers that it was sent to, or may have been: what follows goes to them only.
        dead: Receivers that a notification was given up for.
        acknowledged_by: Who acknowledged it, and why; empty if it was not acknowledged.
        rollback_code: Why no automatic rollback follows from it; None unless one failed, or was held.
        rollback_reason: The same as a sentence.
        summaries: What silences held back that are over, by the receiver that is sent it with this alert.
    """

    alert: AlertRaised
    raised_at: Instant
    resolved_at: Instant | None = None
    forget_at: Instant | None = None
    sequences: dict[str, int] = Field(default_factory=dict)
    queues: dict[str, tuple[Send, ...]] = Field(default_factory=dict)
    notified: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    acknowledged_by: str = ""
    acknowledged_because: str = ""
    rollback_code: Code | None = None
    rollback_reason: str = ""
    summaries: dict[str, Summary] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same from raised to resolved, another one for the next occurrence of the same alert."""
        return f"{self.alert.alert_id}@{self.raised_at.isoformat()}"


class Silence(Contract):
    """Until when alerts are not sent; by whose order, and why."""

    trigger: str | None
    until: Instant
    by: str
    reason: str
    order_id: str


class HeldBack(Contract):
    """Alerts of one trigger or kind that began and ended within a silence that is not over.

    Attributes:
        newest: The last of them that ended.
        alerts: The newest ones.
        counts: How many there were, by the receiver that they were kept from.
    """

    newest: Notice
    alerts: tuple[SilencedAlert, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)


class FailedRollback(Contract):
    """An automatic rollback that failed, of an alert that another consumer is yet to read."""

    target: Target
    code: Code
    reason: str
    sequence: int
    at: Instant


class ModelNotices(OutboxRecord):
    """The record of a model.

    Attributes:
        notices: Its notices, by their key.
        silences: Until when which alerts are not sent.
        failed_rollbacks: Rollbacks that failed, of alerts that are not known yet.
        held: What silences hold back that is over, by trigger or kind, and whether it is critical.
    """

    model: ModelName
    notices: dict[str, Notice] = Field(default_factory=dict)
    silences: tuple[Silence, ...] = ()
    failed_rollbacks: tuple[FailedRollback, ...] = ()
    held: dict[str, HeldBack] = Field(default_factory=dict)
