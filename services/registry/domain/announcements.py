"""The announced checkpoints of a model that are not admitted or rejected yet, in the order of the stream. Pure."""

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
"""How often an announcement is tried that fails with an error that nothing maps."""

MOST_WAITING = 256
"""How many announcements of one model wait at most: its record is written whole for each of them."""

_SAME_TIME = timedelta(milliseconds=1)
"""What the client of the bus may round the same time by, depending on how a message is read."""

LONGEST_WAIT = timedelta(seconds=60)
"""More than the longest wait between two tries."""


class Announcement(Contract):
    """A `checkpoint.ready` in the inbox: where it is stored, and how often admitting it failed.

    The event itself stays in the stream, so that the record stays small however many wait.
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
        waiting: the first of them is admitted next; the others wait for it.
        last_sequence: the highest sequence that was ever written here, and `last_stored_at` when the stream stored it.
            Both together tell a message that is delivered again from one of a stream that was made anew.
        accepted: when the stream stored the announcements of the last minute that were accepted, if their team has a
            quota of them.
    """

    model: ModelName
    waiting: tuple[Announcement, ...] = ()
    last_sequence: int = 0
    last_stored_at: Instant | None = None
    accepted: tuple[Instant, ...] = ()


def add(record: Announcements, announcement: Announcement, *, counted: bool = False) -> Announcements:
    """Return the record with an announcement appended; unchanged if the announcement is known, settled or not.

    Args:
        record: the record of its model.
        announcement: the announcement.
        counted: whether its team has a quota of announcements, which needs its time.
    """
    if is_known(record, announcement):
        return record
    at = announcement.stored_at
    accepted = (*in_same_minute(record.accepted, at), at) if counted else ()
    update = {"waiting": (*record.waiting, announcement), "accepted": accepted}
    return _noted(record, announcement).model_copy(update=update)


def is_known(record: Announcements, announcement: Announcement) -> bool:
    """Return whether an announcement was here before, settled or not."""
    last = record.last_stored_at
    return (
        last is not None
        and announcement.sequence <= record.last_sequence
        and announcement.stored_at - last <= _SAME_TIME
    )


def assess_receipt(
    record: Announcements, announcement: Announcement, team: Team | None, elsewhere: Iterable[datetime] = ()
) -> Refusal | None:
    """Refuse an announcement if too many wait, or its team has announced too many; one that was here before is not.

    Args:
        record: the record of its model.
        announcement: the announcement.
        team: the team that owns the model; None if no team does.
        elsewhere: when the team's announcements of other models were stored that were accepted.
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
    """Return the record with an announcement noted and rejected before it waits in it."""
    return _with_rejection(_noted(record, announcement), announcement, rejection, now)


def recall(record: Announcements, failed: Announcement | None) -> Announcements:
    """Return the record with a failed try of its first announcement that could not be written."""
    first = record.waiting[0] if record.waiting else None
    if first is None or failed is None or not _same(first, failed) or failed.tries <= first.tries:
        return record
    return record.model_copy(update={"waiting": (failed, *record.waiting[1:])})


def due(record: Announcements, now: datetime) -> Announcement | None:
    """Return the announcement to admit now; None if none waits or the first one's next try is later.

    A next try that is further away than any wait was written by a clock that has been set back since: it is due.
    """
    first = record.waiting[0] if record.waiting else None
    if first is None or first.next_try_at is None:
        return first
    return None if timedelta() < first.next_try_at - now <= LONGEST_WAIT else first


def settle(record: Announcements, announcement: Announcement) -> Announcements:
    """Return the record without an announcement that was admitted."""
    return record.model_copy(
        update={"waiting": tuple(other for other in record.waiting if not _same(announcement, other))}
    )


def reject(
    record: Announcements, announcement: Announcement, rejection: CheckpointRejected, now: datetime
) -> Announcements:
    """Return the record without an announcement, its rejection in the outbox; unchanged if it does not wait here."""
    if not any(_same(announcement, other) for other in record.waiting):
        return record
    return _with_rejection(settle(record, announcement), announcement, rejection, now)


def postpone(
    record: Announcements, announcement: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime
) -> Announcements:
    """Return the record with an announcement's failed try noted, to be tried again after `wait_s`."""
    failed = failed_try(announcement, code=code, reason=reason, wait_s=wait_s, now=now)
    return record.model_copy(
        update={"waiting": tuple(failed if _same(announcement, other) else other for other in record.waiting)}
    )


def failed_try(announcement: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime) -> Announcement:
    """Return an announcement with one more failed try, to be tried again after `wait_s`."""
    return announcement.model_copy(
        update={
            "tries": announcement.tries + 1,
            "next_try_at": now + timedelta(seconds=wait_s),
            "code": code,
            "reason": reason[:2000],
        }
    )


def _noted(record: Announcements, announcement: Announcement) -> Announcements:
    """Return the record with an announcement noted as the last one, so that a redelivery is detected."""
    return record.model_copy(update={"last_sequence": announcement.sequence, "last_stored_at": announcement.stored_at})


def _with_rejection(
    record: Announcements, announcement: Announcement, rejection: CheckpointRejected, now: datetime
) -> Announcements:
    entry = outbox_entry(
        rejection,
        model=record.model,
        key=str(announcement.sequence),  # a publisher may give one id to two announcements
        cause_id=announcement.event_id,
        correlation_id=announcement.correlation_id,
        decided_at=now,
        environment=announcement.environment,
    )
    return record.model_copy(update={"outbox": (*record.outbox, entry)})


def _same(announcement: Announcement, other: Announcement) -> bool:
    return (announcement.sequence, announcement.event_id) == (other.sequence, other.event_id)
