"""The record of a model's announced checkpoints that await admission, in stream order. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from contracts.codes import Code
from contracts.facts import CheckpointRejected
from contracts.records import OutboxRecord, outbox_entry
from contracts.teams import Team
from contracts.vocabulary import Contract, Environment, Instant, ModelName
from services.registry.domain.admission import Refusal
from services.registry.domain.team_quotas import find_excess_rate, in_same_minute

UNKNOWN_ERROR_TRIES = 5
"""Attempts to admit a checkpoint while an unknown error recurs."""

MOST_WAITING = 256
"""Maximum waiting announcements of a model; each change rewrites the whole record."""

_SAME_TIME = timedelta(milliseconds=1)
"""Largest rounding difference between reads of the same stored time."""

LONGEST_WAIT = timedelta(seconds=60)
"""Upper bound on the wait between two attempts."""


class Announcement(Contract):
    """A `checkpoint.ready` in the inbox: its position in the stream and its failed attempts.

    The stream keeps the event itself, so that the record stays small.
    """

    sequence: int
    event_id: str
    correlation_id: str
    environment: Environment
    stored_at: Instant
    tries: int = 0
    next_try_at: Instant | None = None
    code: Code | None = None
    reason: str = ""


class Announcements(OutboxRecord):
    """The record of a model's announcements.

    Attributes:
        waiting: Announcements to admit, in this order.
        last_sequence: Highest recorded sequence number. Together with `last_stored_at`, it tells a redelivery from
            a message of a recreated stream.
        last_stored_at: Time when the stream stored that message.
        accepted: Stream times of the announcements accepted within the last minute; only if the team has a quota.
    """

    model: ModelName
    waiting: tuple[Announcement, ...] = ()
    last_sequence: int = 0
    last_stored_at: Instant | None = None
    accepted: tuple[Instant, ...] = ()


def add(record: Announcements, announcement: Announcement, *, counted: bool = False) -> Announcements:
    """Append an announcement to the record, unless the record has seen it before.

    Args:
        record: The record of the model.
        announcement: The announcement.
        counted: Whether its team has a quota of announcements.
    """
    if is_known(record, announcement):
        return record
    at = announcement.stored_at
    accepted = (*in_same_minute(record.accepted, at), at) if counted else ()
    update = {"waiting": (*record.waiting, announcement), "accepted": accepted}
    return _noted(record, announcement).model_copy(update=update)


def is_known(record: Announcements, announcement: Announcement) -> bool:
    """Return whether the record has seen an announcement before, even if it was settled since."""
    last = record.last_stored_at
    return (
        last is not None
        and announcement.sequence <= record.last_sequence
        and announcement.stored_at - last <= _SAME_TIME
    )


def assess_receipt(
    record: Announcements, announcement: Announcement, team: Team | None, elsewhere: Iterable[datetime] = ()
) -> Refusal | None:
    """Refuse an announcement if too many wait or its team exceeds its rate; a redelivery is not refused.

    Args:
        record: The record of the model.
        announcement: The announcement.
        team: The team that owns the model; None if no team does.
        elsewhere: Stream times of the accepted announcements of the team's other models.
    """
    if is_known(record, announcement):
        return None
    waiting = len(record.waiting)
    if waiting >= MOST_WAITING:
        reason = f"{waiting} announcements of {record.model} wait; the limit is {MOST_WAITING}. Publish it later."
        return Refusal("too_large", reason)
    accepted = (*record.accepted, *elsewhere)
    excess = find_excess_rate(team, accepted, announcement.stored_at) if team is not None else None
    return Refusal("team_quota_exceeded", excess) if excess is not None else None


def turn_away(
    record: Announcements, announcement: Announcement, rejection: CheckpointRejected, now: datetime
) -> Announcements:
    """Record the rejection of an announcement that was refused on receipt."""
    return _with_rejection(_noted(record, announcement), announcement, rejection, now)


def recall(record: Announcements, failed: Announcement | None) -> Announcements:
    """Return the record with the failed attempt of its first announcement, if writing the attempt failed."""
    first = record.waiting[0] if record.waiting else None
    if first is None or failed is None or not _same(first, failed) or failed.tries <= first.tries:
        return record
    return record.model_copy(update={"waiting": (failed, *record.waiting[1:])})


def due(record: Announcements, now: datetime) -> Announcement | None:
    """Return the announcement to admit now; None if none waits or the next attempt is later.

    An attempt further away than `LONGEST_WAIT` is due: the clock was set back after it was planned.
    """
    first = record.waiting[0] if record.waiting else None
    if first is None or first.next_try_at is None:
        return first
    return None if timedelta() < first.next_try_at - now <= LONGEST_WAIT else first


def settle(record: Announcements, announcement: Announcement) -> Announcements:
    """Return the record without an admitted announcement."""
    return record.model_copy(
        update={"waiting": tuple(other for other in record.waiting if not _same(announcement, other))}
    )


def reject(
    record: Announcements, announcement: Announcement, rejection: CheckpointRejected, now: datetime
) -> Announcements:
    """Remove an announcement and put its rejection into the outbox; unchanged if it does not wait."""
    if not any(_same(announcement, other) for other in record.waiting):
        return record
    return _with_rejection(settle(record, announcement), announcement, rejection, now)


def postpone(
    record: Announcements, announcement: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime
) -> Announcements:
    """Record a failed attempt of an announcement and plan the next after `wait_s` seconds."""
    failed = failed_try(announcement, code=code, reason=reason, wait_s=wait_s, now=now)
    return record.model_copy(
        update={"waiting": tuple(failed if _same(announcement, other) else other for other in record.waiting)}
    )


def failed_try(announcement: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime) -> Announcement:
    """Return an announcement with one more failed attempt and the next after `wait_s` seconds."""
    return announcement.model_copy(
        update={
            "tries": announcement.tries + 1,
            "next_try_at": now + timedelta(seconds=wait_s),
            "code": code,
            "reason": reason[:2000],
        }
    )


def _noted(record: Announcements, announcement: Announcement) -> Announcements:
    """Record an announcement as the last one seen, so that its redelivery is detected."""
    return record.model_copy(update={"last_sequence": announcement.sequence, "last_stored_at": announcement.stored_at})


def _with_rejection(
    record: Announcements, announcement: Announcement, rejection: CheckpointRejected, now: datetime
) -> Announcements:
    entry = outbox_entry(
        rejection,
        model=record.model,
        key=str(announcement.sequence),  # two announcements may share a publisher's event ID
        cause_id=announcement.event_id,
        correlation_id=announcement.correlation_id,
        decided_at=now,
        environment=announcement.environment,
    )
    return record.model_copy(update={"outbox": (*record.outbox, entry)})


def _same(announcement: Announcement, other: Announcement) -> bool:
    return (announcement.sequence, announcement.event_id) == (other.sequence, other.event_id)
