"""Edits of the fleet's record by events and decisions. Pure; every edit is idempotent."""

from datetime import datetime

from contracts.envelope import Event
from contracts.facts import ReleaseFinished, StageReleased, StageRequested, TrafficRequested
from contracts.records import OutboxEntry
from services.server_manager.domain.moves import MOVED
from services.server_manager.domain.records import (
    ANSWERED_KEPT,
    CLOSED_KEPT,
    Closed,
    Lease,
    OpenAlert,
    Servers,
    TrafficOrder,
)


def enqueue_staging(record: Servers, event: Event[StageRequested]) -> Servers:
    """Queue a staging order, unless it is queued, held, answered, or already ended."""
    known = [record.lease, *record.waiting]
    if event.id in record.answered or any(lease is not None and lease.lease_id == event.id for lease in known):
        return record
    if any(closed.covers(event) for closed in record.closed):
        return record
    return record.model_copy(update={"waiting": (*record.waiting, Lease(event=event))})


def release_staging(record: Servers, event: Event[StageReleased]) -> Servers:
    """End the staging, held or waiting, of one candidate of a release for one purpose."""
    ended = event.data
    closed = Closed(
        release_id=ended.release_id,
        candidate=ended.candidate,
        at=event.time,
        purpose=ended.purpose,
    )
    return _close(record, closed)


def finish_release(record: Servers, event: Event[ReleaseFinished]) -> Servers:
    """End the leases of a release, and record its end, so that its traffic orders are refused or undone.

    Traffic orders stay queued, because one may be in progress, or interrupted after its edit of the route. A promoted
    release has none: it ends after their answer.
    """
    return _close(record, Closed(release_id=event.data.release_id, candidate=None, at=event.time))


def ended_at(record: Servers, release_id: str) -> datetime | None:
    """Return the end of a release; None if it has not ended."""
    ends = (closed.at for closed in record.closed if closed.candidate is None and closed.release_id == release_id)
    return next(ends, None)


def _close(record: Servers, closed: Closed) -> Servers:
    if closed in record.closed:
        return record
    lease = None if record.lease is not None and closed.covers(record.lease.event) else record.lease
    waiting = tuple(waiting for waiting in record.waiting if not closed.covers(waiting.event))
    kept = (*record.closed, closed)[-CLOSED_KEPT:]
    return record.model_copy(update={"lease": lease, "waiting": waiting, "closed": kept})


def enqueue_order(record: Servers, event: Event[TrafficRequested], now: datetime) -> Servers:
    """Queue a traffic order, unless it is queued or answered: a second decision could differ from the first."""
    if event.id in record.answered or any(order.order_id == event.id for order in record.orders):
        return record
    return record.model_copy(update={"orders": (*record.orders, TrafficOrder(event=event, received_at=now))})


def grant_lease(record: Servers, lease_id: str) -> Servers:
    """Grant the free lease to a waiting order; unchanged if it is held."""
    if record.lease is not None:
        return record
    chosen = next((lease for lease in record.waiting if lease.lease_id == lease_id), None)
    if chosen is None:
        return record
    rest = tuple(lease for lease in record.waiting if lease.lease_id != lease_id)
    held = chosen.model_copy(update={"state": "loading"})
    return record.model_copy(update={"lease": held, "waiting": rest})


def return_lease(record: Servers, lease_id: str) -> Servers:
    """Return the held lease to the head of the queue, unless its targets are staged."""
    held = record.lease
    if held is None or held.lease_id != lease_id or held.state != "loading":
        return record
    again = held.model_copy(update={"state": "waiting"})
    return record.model_copy(update={"lease": None, "waiting": (again, *record.waiting)})


def mark_staged(record: Servers, lease_id: str) -> Servers:
    """Record that the targets of the held lease are staged."""
    if record.lease is None or record.lease.lease_id != lease_id:
        return record
    return record.model_copy(update={"lease": record.lease.model_copy(update={"state": "staged"})})


def drop_lease(record: Servers, lease_id: str) -> Servers:
    """Remove a staging order that was answered with a failure."""
    lease = None if record.lease is not None and record.lease.lease_id == lease_id else record.lease
    waiting = tuple(lease for lease in record.waiting if lease.lease_id != lease_id)
    if lease == record.lease and waiting == record.waiting:
        return record
    return record.model_copy(update={"lease": lease, "waiting": waiting, "answered": answered(record, lease_id)})


def drop_order(record: Servers, order_id: str) -> Servers:
    """Remove a traffic order that was answered."""
    orders = tuple(order for order in record.orders if order.order_id != order_id)
    if orders == record.orders:
        return record
    return record.model_copy(update={"orders": orders, "answered": answered(record, order_id)})


def note_verdict(record: Servers, verdict_id: str) -> Servers:
    """Mark a verdict on a suspended target as published."""
    if verdict_id in record.answered:
        return record
    return record.model_copy(update={"answered": answered(record, verdict_id)})


def note_move(record: Servers, model: str, cause_id: str) -> Servers:
    """Mark a model's newest move as published."""
    if cause_id in record.answered:
        return record
    others = tuple(known for known in record.answered if not known.startswith(f"{MOVED}{model}."))
    return record.model_copy(update={"answered": (*others, cause_id)})


def answered(record: Servers, order_id: str) -> tuple[str, ...]:
    """Return the answered ids with a new one, bounded by `ANSWERED_KEPT`; moves are never dropped here."""
    moves = tuple(known for known in record.answered if known.startswith(MOVED))
    orders = tuple(known for known in record.answered if not known.startswith(MOVED))
    return (*moves, *(*orders, order_id)[-ANSWERED_KEPT:])


def open_alert(record: Servers, alert: OpenAlert) -> Servers:
    """Record an alert, unless its id is open already."""
    if any(known.alert_id == alert.alert_id for known in record.alerts):
        return record
    return record.model_copy(update={"alerts": (*record.alerts, alert)})


def close_alert(record: Servers, alert: OpenAlert) -> Servers:
    """Remove a resolved alert."""
    return record.model_copy(update={"alerts": tuple(x for x in record.alerts if x.alert_id != alert.alert_id)})


def publish_if_changed(before: Servers, after: Servers, entry: OutboxEntry) -> Servers:
    """Return the edited record with the fact in its outbox; `before` if the edit changed nothing."""
    return before if after == before else after.model_copy(update={"outbox": (*after.outbox, entry)})
