"""What follows from alerts, silences and acknowledgements, and what is due to be sent: edits of a model's record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from decisions.event_archive import NOTICE_AGE
from services.notifier.domain.receivers import Receiver
from services.notifier.domain.record import FailedRollback, ModelNotices, Notice, Send, Transition
from services.notifier.domain.silences import is_silenced, note_silenced, summarise

KEPT = timedelta(days=1)
"""How long a resolved alert is remembered, so that what comes again is not sent again."""
OLD = timedelta(minutes=5)
SETTLES = timedelta(minutes=2)
"""An alert that was raised longer ago than `OLD` is sent this much later: its end may follow in the log."""
OLDEST = NOTICE_AGE
"""An alert that was raised longer ago and is not in the record is not sent: the notifier starts anew."""
MOST_NOTICES = 1000
LONGEST_WAIT_S = 300.0


@dataclass(frozen=True)
class Due:
    """A notification that is to be sent now."""

    notice: Notice
    receiver: str
    transition: Transition


@dataclass(frozen=True)
class Times:
    """When notifications are repeated and given up."""

    claim_s: float
    resend_s: float
    give_up_s: float


def wait_s(attempts: int) -> float:
    """Return the seconds until the next try, after so many."""
    return min(2.0 ** min(attempts, 16), LONGEST_WAIT_S)


def key_of(alert: AlertRaised | AlertUpdated | AlertResolved, at: datetime) -> str:
    """Return the key of an alert's notice."""
    return f"{alert.alert_id}@{(alert.raised_at or at).isoformat()}"


def note_raised(
    record: ModelNotices,
    alert: AlertRaised,
    *,
    at: datetime,
    sequence: int,
    again: bool,
    receivers: Iterable[Receiver],
    now: datetime,
) -> ModelNotices:
    """Queue an alert for all who get it; nothing for one of a drill, or one that is known.

    Args:
        record: The model's record.
        alert: The alert.
        at: The time of its event.
        sequence: Where the log has it.
        again: An administrator requeued it: it is sent again to those that it was given up for.
        receivers: All receivers.
        now: The time.
    """
    if alert.drill is not None or now - at > OLDEST:
        return record
    known = record.notices.get(key_of(alert, at))
    if known is not None:
        return _requeue(record, known, receivers, now) if again else record
    due = now + (SETTLES if now - at > OLD else timedelta())
    queues = {
        receiver.name: (Send(transition="raised", next_at=due),) for receiver in receivers if receiver.takes(alert)
    }
    notice = Notice(alert=alert, raised_at=alert.raised_at or at, sequences={"raised": sequence}, queues=queues)
    for failed in record.failed_rollbacks:
        if failed.target == alert.target and failed.at >= notice.raised_at:
            notice = _note_failed(notice, failed, now)
    return _with(record, notice)


def _requeue(record: ModelNotices, notice: Notice, receivers: Iterable[Receiver], now: datetime) -> ModelNotices:
    transition: Transition = "raised" if notice.resolved_at is None else "resolved"
    names = [receiver.name for receiver in receivers if receiver.name in notice.dead]
    again: dict[str, Transition] = {name: "silence_ended" if name in notice.summaries else transition for name in names}
    queues = {**notice.queues, **{name: (Send(transition=sent, next_at=now),) for name, sent in again.items()}}
    return _with(record, notice.model_copy(update={"queues": queues, "dead": ()}))


def note_updated(
    record: ModelNotices,
    alert: AlertUpdated,
    *,
    at: datetime,
    sequence: int,
    receivers: Iterable[Receiver],
    now: datetime,
) -> ModelNotices:
    """Keep an alert's newer figures, which are sent from now on. One that is not known is open, too.

    Receivers that take it only since its severity rose are sent it now.
    """
    newest = _as_raised(alert)
    notice = record.notices.get(key_of(alert, at))
    if notice is None:
        return note_raised(record, newest, at=at, sequence=sequence, again=False, receivers=receivers, now=now)
    if notice.resolved_at is not None:
        return record
    reached = {
        receiver.name: (Send(transition="raised", next_at=now),)
        for receiver in receivers
        if receiver.name not in notice.queues and receiver.takes(newest)
    }
    return _with(record, notice.model_copy(update={"alert": newest, "queues": {**notice.queues, **reached}}))


def _as_raised(alert: AlertUpdated | AlertResolved) -> AlertRaised:
    return AlertRaised.model_validate(alert.model_dump(by_alias=True))


def note_resolved(
    record: ModelNotices, alert: AlertResolved, *, at: datetime, sequence: int, now: datetime
) -> ModelNotices:
    """Queue the end of an alert for the receivers that it was sent to; no other receiver gets it.

    The end may come before the beginning, which another consumer reads: it is remembered, and nothing is sent.
    """
    raised_at = alert.raised_at or at
    known = record.notices.get(key_of(alert, at))
    if known is None and (alert.drill is not None or now - raised_at > OLDEST):
        return record
    notice = known or Notice(alert=_as_raised(alert), raised_at=raised_at)
    if notice.resolved_at is not None:
        return record
    notice = notice.model_copy(
        update={
            "alert": _as_raised(alert),
            "resolved_at": at,
            "forget_at": now + KEPT,
            "sequences": {**notice.sequences, "resolved": sequence},
        }
    )
    return _with(note_silenced(record, notice, now), _follow(notice, "resolved", now))


def _follow(notice: Notice, transition: Transition, now: datetime) -> Notice:
    """Return a notice with a transition behind what its receivers were sent; repeats that wait are dropped."""
    queues: dict[str, tuple[Send, ...]] = {}
    for name, queue in notice.queues.items():
        if name in notice.notified:
            begun = tuple(send for send in queue if send.attempts > 0 or send.transition != "raised")
            queues[name] = (*begun, Send(transition=transition, next_at=now))
        elif transition != "resolved":
            queues[name] = queue  # what is sent first says it, too
    return notice.model_copy(update={"queues": queues})


def acknowledge(
    record: ModelNotices, alert_id: str, *, by: str, reason: str, sequence: int, now: datetime
) -> ModelNotices | None:
    """Queue an acknowledgement for the receivers of an open alert; None if no alert of this id is open."""
    notice = next((open_notice for open_notice in open_notices(record) if open_notice.alert.alert_id == alert_id), None)
    if notice is None:
        return None
    if notice.acknowledged_by:
        return record
    notice = notice.model_copy(
        update={
            "acknowledged_by": by,
            "acknowledged_because": reason,
            "sequences": {**notice.sequences, "acknowledged": sequence},
        }
    )
    return _with(record, _follow(notice, "acknowledged", now))


def note_rollback_failed(
    record: ModelNotices, rollback: RollbackFailed, *, at: datetime, sequence: int, now: datetime
) -> ModelNotices:
    """Queue that no automatic rollback follows from an alert, and why: a person has to decide.

    It concerns the newest open alert of the target, rather one of a trigger. One that is read before its alert waits
    for it. A rollback that a person ordered is not sent: that person is told.
    """
    if rollback.mode == "manual" or now - at > OLDEST:
        return record
    failed = FailedRollback(
        target=rollback.failed, code=rollback.code, reason=rollback.reason, sequence=sequence, at=at
    )
    concerned = [notice for notice in open_notices(record) if notice.alert.target == failed.target]
    if not concerned:
        kept = [earlier for earlier in record.failed_rollbacks if earlier.target != failed.target]
        return record.model_copy(update={"failed_rollbacks": (*kept, failed)})
    newest = max(concerned, key=lambda notice: (notice.alert.trigger is not None, notice.raised_at))
    return _with(record, _note_failed(newest, failed, now))


def _note_failed(notice: Notice, failed: FailedRollback, now: datetime) -> Notice:
    if notice.rollback_code == failed.code:
        return notice
    sequences = {**notice.sequences, "rollback_failed": failed.sequence}
    changes = {"rollback_code": failed.code, "rollback_reason": failed.reason, "sequences": sequences}
    return _follow(notice.model_copy(update=changes), "rollback_failed", now)


def open_notices(record: ModelNotices) -> list[Notice]:
    """Return the alerts that are not resolved."""
    return [notice for notice in record.notices.values() if notice.resolved_at is None]


def claim(
    record: ModelNotices, receivers: Sequence[Receiver], now: datetime, times: Times
) -> tuple[ModelNotices, list[Due]]:
    """Return what is due, and the record in which it counts as begun: no other process begins it for `claim_s`."""
    due: list[Due] = []
    notices = {}
    record = summarise(prune(_known(record, {receiver.name for receiver in receivers}), now), receivers, now)
    for key, notice in record.notices.items():
        heads = {name: queue[0] for name, queue in notice.queues.items() if queue and queue[0].next_at <= now}
        held = is_silenced(record, notice, now)
        heads = {name: head for name, head in heads.items() if name in notice.notified or not held}
        begun = {name: _begin(head, now, times.claim_s) for name, head in heads.items()}
        if begun:
            queues = {**notice.queues, **{name: (head, *notice.queues[name][1:]) for name, head in begun.items()}}
            notified = tuple(dict.fromkeys((*notice.notified, *begun)))
            notice = notice.model_copy(update={"queues": queues, "notified": notified})  # noqa: PLW2901
            due += [Due(notice, name, head.transition) for name, head in begun.items()]
        notices[key] = notice
    return record.model_copy(update={"notices": notices}), due


def _known(record: ModelNotices, names: set[str]) -> ModelNotices:
    """Return the record without what was to be sent to receivers that are no longer configured."""
    if all(names.issuperset(notice.queues) for notice in record.notices.values()):
        return record
    notices = {}
    for key, notice in record.notices.items():
        queues = {name: queue for name, queue in notice.queues.items() if name in names}
        notices[key] = notice.model_copy(update={"queues": queues})
    return record.model_copy(update={"notices": notices})


def _begin(send: Send, now: datetime, claim_s: float) -> Send:
    return send.model_copy(
        update={
            "attempts": send.attempts + 1,
            "first_at": send.first_at or now,
            "next_at": now + timedelta(seconds=claim_s),
        }
    )


def succeeded(record: ModelNotices, due: Due, receiver: Receiver, now: datetime, times: Times) -> ModelNotices:
    """Return the record without what was sent; an open alert is sent again later to a receiver that repeats."""
    return _finish(record, due, receiver, now, times, dead=False)


def failed(
    record: ModelNotices, due: Due, receiver: Receiver, now: datetime, times: Times
) -> tuple[ModelNotices, bool]:
    """Return the record in which a notification waits for its next try, and whether it is given up instead."""
    notice = record.notices.get(due.notice.key)
    head = next(iter(notice.queues.get(due.receiver, ())), None) if notice is not None else None
    if notice is None or head is None or head.transition != due.transition:
        return record, False
    if head.first_at is not None and now - head.first_at >= timedelta(seconds=times.give_up_s):
        return _finish(record, due, receiver, now, times, dead=True), due.receiver not in notice.dead
    later = head.model_copy(update={"next_at": now + timedelta(seconds=wait_s(head.attempts))})
    queues = {**notice.queues, due.receiver: (later, *notice.queues[due.receiver][1:])}
    return _with(record, notice.model_copy(update={"queues": queues})), False


def _finish(
    record: ModelNotices, due: Due, receiver: Receiver, now: datetime, times: Times, *, dead: bool
) -> ModelNotices:
    notice = record.notices.get(due.notice.key)
    queue = notice.queues.get(due.receiver, ()) if notice is not None else ()
    if notice is None or not queue or queue[0].transition != due.transition:
        return record
    rest = queue[1:]
    if not rest and receiver.repeats and notice.resolved_at is None:
        rest = (Send(transition="raised", next_at=now + timedelta(seconds=times.resend_s)),)
    changes: dict[str, object] = {"queues": {**notice.queues, due.receiver: rest}}
    if dead:
        changes["dead"] = tuple(dict.fromkeys((*notice.dead, due.receiver)))
    return _with(record, notice.model_copy(update=changes))


def prune(record: ModelNotices, now: datetime) -> ModelNotices:
    """Return the record without alerts that ended a while ago and that nothing is to be sent of."""
    kept = {
        key: notice
        for key, notice in record.notices.items()
        if notice.forget_at is None or any(notice.queues.values()) or now < notice.forget_at
    }
    finished = sorted((notice.forget_at, key) for key, notice in kept.items() if notice.forget_at is not None)
    for _, key in finished[: max(0, len(kept) - MOST_NOTICES)]:
        del kept[key]
    changes = {
        "notices": kept,
        "silences": tuple(silence for silence in record.silences if silence.until > now),
        "failed_rollbacks": tuple(failed for failed in record.failed_rollbacks if now - failed.at < OLD),
    }
    if all(len(getattr(record, name)) == len(left) for name, left in changes.items()):
        return record
    return record.model_copy(update=changes)


def is_waiting(record: ModelNotices) -> bool:
    """Return whether anything of a model is yet to be sent, or a silence is to end."""
    return bool(record.held) or any(any(notice.queues.values()) for notice in record.notices.values())


def _with(record: ModelNotices, notice: Notice) -> ModelNotices:
    return record.model_copy(update={"notices": {**record.notices, notice.key: notice}})
