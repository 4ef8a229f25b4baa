"""Alerts computed from the events of the log: state, time, last figures. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from clients.cli.views.timeline import short_span
from contracts.envelope import Event, plain
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackCompleted, RollbackFailed, RollbackStarted

AlertFact = AlertRaised | AlertUpdated | AlertResolved
RollbackFact = RollbackStarted | RollbackCompleted | RollbackFailed
SEVERITIES = ("critical", "warning", "info")
COLUMNS = ("severity", "kind", "target", "trigger", "value / limit", "since")


@dataclass(frozen=True)
class AlertView:
    """An alert; `event` is its last event."""

    event: Event[Any]
    since: datetime
    resolved_at: datetime | None = None
    updates: int = 0

    @property
    def fact(self) -> AlertFact:
        """Return the data of its last event."""
        fact: AlertFact = self.event.data
        return fact

    @property
    def open(self) -> bool:
        """Return whether the alert is not resolved."""
        return self.resolved_at is None


def fold(events: Iterable[Event[Any]]) -> list[AlertView]:
    """Return the alerts of events in the order of the log; open alerts first, the most severe first, then the oldest.

    An alert id that is raised again after its resolution is a new alert. Repeated events change nothing.
    """
    by_id: dict[str, list[AlertView]] = {}
    for event in events:
        if isinstance(event.data, AlertFact):
            of_id = by_id.setdefault(event.data.alert_id, [])
            _take(of_id, event)
    alerts = [alert for of_id in by_id.values() for alert in of_id]
    return sorted(alerts, key=lambda alert: (not alert.open, SEVERITIES.index(alert.fact.severity), alert.since))


def _take(of_id: list[AlertView], event: Event[Any]) -> None:
    last = of_id[-1] if of_id else None
    over = isinstance(event.data, AlertResolved)
    if last is None or not last.open:
        stale = last is not None and (not isinstance(event.data, AlertRaised) or event.time <= last.event.time)
        if not stale:
            of_id.append(AlertView(event, event.data.raised_at, event.time if over else None))
        return
    if isinstance(event.data, AlertRaised):  # repeated
        return
    updates = last.updates + (not over)
    of_id[-1] = replace(last, event=event, resolved_at=event.time if over else None, updates=updates)


def figures(fact: AlertFact) -> str:
    """Return value and limit as text: `0.31 / 0.05`."""
    value, limit = ("-" if number is None else f"{number:.3g}" for number in (fact.value, fact.limit))
    return "-" if (value, limit) == ("-", "-") else f"{value} / {limit}"


def row(alert: AlertView) -> tuple[str, ...]:
    """Return an alert as cells: state, the cells of `COLUMNS`, message, runbook and evidence."""
    fact = alert.fact
    return (
        "open" if alert.open else "resolved",
        *_head(alert),
        _one_line(fact.message),
        fact.runbook or "-",
        fact.evidence.uri if fact.evidence is not None else "-",
    )


def describe(alert: AlertView) -> list[str]:
    """Return an alert as lines for a terminal: the cells of `COLUMNS`, message, id, runbook and evidence."""
    fact = alert.fact
    ended = "" if alert.resolved_at is None else f"resolved {alert.resolved_at:%Y-%m-%d %H:%M:%S}: "
    runbook = [f"runbook {fact.runbook}"] if fact.runbook else []
    evidence = [f"evidence {fact.evidence.uri}"] if fact.evidence is not None else []
    return ["  ".join(_head(alert)), f"{ended}{_one_line(fact.message)}", f"id {fact.alert_id}", *runbook, *evidence]


def _head(alert: AlertView) -> tuple[str, ...]:
    fact = alert.fact
    about = (fact.severity, fact.kind, str(fact.target), fact.trigger or "-", figures(fact))
    return (*about, f"{alert.since:%Y-%m-%d %H:%M:%S}")


def as_data(alert: AlertView) -> dict[str, Any]:
    """Return an alert as JSON data: the data of its last event, and its state."""
    fact = plain(alert.event)["data"]
    return {
        **fact,
        "state": "open" if alert.open else "resolved",
        "since": alert.since.isoformat(),
        "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at is not None else None,
        "updates": alert.updates,
        "environment": alert.event.environment,
    }


def rollback_line(fact: RollbackFact) -> str:
    """Return one line about the state of a rollback."""
    if isinstance(fact, RollbackStarted):
        return f"rollback started   {fact.mode:<9} {fact.failed} is being rolled back"
    if isinstance(fact, RollbackFailed):
        return f"rollback failed    {fact.mode:<9} {fact.failed} was not rolled back: {fact.code}: {fact.reason}"
    times = fact.timeline
    took = ""
    if times.switched_at is not None:
        took = f" {short_span((times.switched_at - times.detected_at).total_seconds())} after detection"
    verified = f"recovery {fact.verdict}" + (f": {fact.reason}" if fact.reason else "")
    return f"rollback completed {fact.mode:<9} {fact.failed} -> {fact.to or 'nothing'}{took}; {verified}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
