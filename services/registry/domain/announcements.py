"""The announced checkpoints of a model that are not admitted or rejected yet, in the order of the stream. Pure."""

from datetime import datetime, timedelta

from contracts.codes import Code
from contracts.vocabulary import Contract, Environment, Instant, ModelName

UNKNOWN_ERROR_TRIES = 5
"""How often an announcement is tried that fails with an error that nothing maps."""

MOST_WAITING = 256
"""How many announcements of one model wait at most: its record is written whole for each of them."""

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


class Announcements(Contract):
    """The record of a model's announcements.

    Attributes:
        waiting: the first of them is admitted next; the others wait for it.
        last_sequence: the highest sequence that was ever written here, and `last_stored_at` when the stream stored it.
            Both together tell a message that is delivered again from one of a stream that was made anew.
    """

    model: ModelName
    waiting: tuple[Announcement, ...] = ()
    last_sequence: int = 0
    last_stored_at: Instant | None = None


def add(record: Announcements, one: Announcement) -> Announcements:
    """Return the record with an announcement at the end; unchanged if it was here before, settled or not."""
    if is_known(record, one):
        return record
    return pass_over(record, one).model_copy(update={"waiting": (*record.waiting, one)})


def is_known(record: Announcements, one: Announcement) -> bool:
    """Return whether an announcement was here before, settled or not."""
    last = record.last_stored_at
    return last is not None and one.sequence <= record.last_sequence and one.stored_at <= last


def pass_over(record: Announcements, one: Announcement) -> Announcements:
    """Return the record with an announcement known that does not wait in it: it is refused."""
    return record.model_copy(update={"last_sequence": one.sequence, "last_stored_at": one.stored_at})


def has_room(record: Announcements, one: Announcement) -> bool:
    """Return whether an announcement can wait here; one that was here before can."""
    return is_known(record, one) or len(record.waiting) < MOST_WAITING


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


def settle(record: Announcements, one: Announcement) -> Announcements:
    """Return the record without an announcement that was admitted or rejected."""
    return record.model_copy(update={"waiting": tuple(other for other in record.waiting if not _same(one, other))})


def postpone(
    record: Announcements, one: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime
) -> Announcements:
    """Return the record with an announcement's failed try noted, to be tried again after `wait_s`."""
    failed = failed_try(one, code=code, reason=reason, wait_s=wait_s, now=now)
    return record.model_copy(
        update={"waiting": tuple(failed if _same(one, other) else other for other in record.waiting)}
    )


def failed_try(one: Announcement, *, code: Code, reason: str, wait_s: float, now: datetime) -> Announcement:
    """Return an announcement with one more failed try, to be tried again after `wait_s`."""
    return one.model_copy(
        update={
            "tries": one.tries + 1,
            "next_try_at": now + timedelta(seconds=wait_s),
            "code": code,
            "reason": reason[:2000],
        }
    )


def _same(one: Announcement, other: Announcement) -> bool:
    return (one.sequence, one.event_id) == (other.sequence, other.event_id)
