"""Silences: what they hold back, and the summary of it that receivers get once they end."""

from collections.abc import Iterable
from datetime import datetime

from services.notifier.domain.receivers import Receiver
from services.notifier.domain.record import HeldBack, ModelNotices, Notice, Send, Silence, SilencedAlert, Summary

MOST_LISTED = 20
"""Alerts that a summary lists; it counts the others."""
MESSAGE_CHARS = 200


def silence(record: ModelNotices, ordered: Silence, now: datetime) -> ModelNotices:
    """Return the record with a silence in place of one of the same trigger, and without those that ended."""
    others = [silence for silence in record.silences if silence.trigger != ordered.trigger]
    kept = tuple(silence for silence in (*others, ordered) if silence.until > now)
    return record.model_copy(update={"silences": kept})


def is_silenced(record: ModelNotices, notice: Notice, now: datetime) -> bool:
    """Return whether a silence holds an alert back: a critical one only if the silence names its trigger or kind."""
    return _silence_of(record, notice, now) is not None


def _silence_of(record: ModelNotices, notice: Notice, now: datetime) -> Silence | None:
    names: set[str | None] = {notice.alert.trigger or notice.alert.kind, notice.alert.kind}
    if notice.alert.severity != "critical":
        names.add(None)
    holding = [silence for silence in record.silences if silence.until > now and silence.trigger in names]
    return max(holding, key=lambda silence: silence.until, default=None)


def note_silenced(record: ModelNotices, notice: Notice, now: datetime) -> ModelNotices:
    """Note an alert that has just ended, if a silence kept it from receivers until then.

    The newest alerts are kept, and the number of all: a silence may last for weeks.
    """
    held_from = tuple(name for name in notice.queues if name not in notice.notified)
    holding = _silence_of(record, notice, now)
    if not held_from or holding is None:
        return record
    key = f"{notice.alert.trigger or notice.alert.kind}/{notice.alert.severity == 'critical'}"
    before = record.held.get(key, HeldBack(newest=notice))
    counts = {**before.counts, **{name: before.counts.get(name, 0) + 1 for name in held_from}}
    alerts = (*before.alerts, _listed(notice, holding, held_from))[-MOST_LISTED:]
    return record.model_copy(
        update={"held": {**record.held, key: HeldBack(newest=notice, alerts=alerts, counts=counts)}}
    )


def summarise(record: ModelNotices, receivers: Iterable[Receiver], now: datetime) -> ModelNotices:
    """Queue a summary of the alerts that began and ended within silences that are over now, one for each receiver.

    It is sent with the newest of these alerts; those that are still open are sent by themselves.
    """
    over = {key: held for key, held in record.held.items() if not is_silenced(record, held.newest, now)}
    if not over:
        return record
    summaries = {
        receiver.name: _summary(over.values(), receiver.name) for receiver in receivers if receiver.takes_summaries
    }
    summaries = {name: summary for name, summary in summaries.items() if summary.count}
    newest = max((held.newest for held in over.values()), key=lambda notice: notice.raised_at)
    carrier = record.notices.get(newest.key) or newest.model_copy(update={"queues": {}, "forget_at": now})
    send = Send(transition="silence_ended", next_at=now)
    queues = {**carrier.queues, **{name: (*carrier.queues.get(name, ()), send) for name in summaries}}
    carrier = carrier.model_copy(update={"queues": queues, "summaries": summaries})
    left = {key: held for key, held in record.held.items() if key not in over}
    return record.model_copy(update={"notices": {**record.notices, carrier.key: carrier}, "held": left})


def _summary(over: Iterable[HeldBack], receiver: str) -> Summary:
    over = list(over)
    alerts = [alert for held in over for alert in held.alerts if receiver in alert.receivers]
    listed = tuple(sorted(alerts, key=lambda alert: alert.raised_at)[-MOST_LISTED:])
    return Summary(count=sum(held.counts.get(receiver, 0) for held in over), alerts=listed)


def _listed(notice: Notice, holding: Silence, held_from: tuple[str, ...]) -> SilencedAlert:
    alert = notice.alert
    return SilencedAlert(
        alert_id=alert.alert_id,
        target=alert.target,
        name=alert.trigger or alert.kind,
        severity=alert.severity,
        message=alert.message[:MESSAGE_CHARS],
        raised_at=notice.raised_at,
        resolved_at=notice.resolved_at or notice.raised_at,
        silenced_by=holding.by,
        silenced_because=holding.reason[:MESSAGE_CHARS],
        receivers=held_from,
    )
