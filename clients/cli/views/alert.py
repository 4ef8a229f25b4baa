"""The alerts of a log, folded: which are open, since when, and how they stand. Pure."""

from collections.abc import Iterable, Sequence
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
class Alarm:
    """One alert, from its raising on; `event` is the last that was said of it."""

    event: Event[Any]
    since: datetime
    resolved_at: datetime | None = None
    updates: int = 0

    @property
    def fact(self) -> AlertFact:
        """What was said last."""
        found: AlertFact = self.event.data
        return found

    @property
    def open(self) -> bool:
        """Return whether it lasts."""
        return self.resolved_at is None


def fold(events: Iterable[Event[Any]]) -> list[Alarm]:
    """Fold alert facts, in the order of the log, into alerts; the worst first, then the oldest.

    An alert id that is raised again after it was resolved is a new alert; what was said before the resolution and
    comes again changes nothing.
    """
    found: dict[str, list[Alarm]] = {}
    for event in events:
        if isinstance(event.data, AlertFact):
            of_id = found.setdefault(event.data.alert_id, [])
            _take(of_id, event)
    alarms = [alarm for of_id in found.values() for alarm in of_id]
    return sorted(alarms, key=lambda one: (not one.open, SEVERITIES.index(one.fact.severity), one.since))


def _take(of_id: list[Alarm], event: Event[Any]) -> None:
    last = of_id[-1] if of_id else None
    over = isinstance(event.data, AlertResolved)
    if last is None or not last.open:
        stale = last is not None and (not isinstance(event.data, AlertRaised) or event.time <= last.event.time)
        if not stale:
            since = event.data.raised_at or event.time
            of_id.append(Alarm(event, since, event.time if over else None))
        return
    if isinstance(event.data, AlertRaised):  # said twice
        return
    updates = last.updates + (not over)
    of_id[-1] = replace(last, event=event, resolved_at=event.time if over else None, updates=updates)


def figures(fact: AlertFact) -> str:
    """Write value against limit: `0.31 / 0.05`."""
    value, limit = ("-" if one is None else f"{one:.3g}" for one in (fact.value, fact.limit))
    return "-" if (value, limit) == ("-", "-") else f"{value} / {limit}"


def row(alarm: Alarm) -> tuple[str, ...]:
    """Return an alert as cells for programs: state, those of `COLUMNS`, message, runbook and evidence."""
    fact = alarm.fact
    return (
        "open" if alarm.open else "resolved",
        *_head(alarm),
        _one_line(fact.message),
        fact.runbook or "-",
        fact.evidence.uri if fact.evidence is not None else "-",
    )


def blocks(alarms: Sequence[Alarm]) -> list[tuple[str, list[str]]]:
    """Write alerts for a terminal: the cells of `COLUMNS` in line, and beneath them message, runbook and evidence.

    The first block is the head of the table. Nothing is cut: an address that is cut cannot be opened.
    """
    table = [COLUMNS, *(_head(alarm) for alarm in alarms)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(COLUMNS))]
    padded = [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in table]
    lines = ["  ".join(cells).rstrip() for cells in padded]
    return list(zip(lines, [[], *(_below(alarm) for alarm in alarms)], strict=True))


def _below(alarm: Alarm) -> list[str]:
    fact = alarm.fact
    ended = "" if alarm.resolved_at is None else f"resolved {alarm.resolved_at:%Y-%m-%d %H:%M:%S}: "
    lines = [f"{ended}{_one_line(fact.message)}"]
    lines += [f"runbook {fact.runbook}"] if fact.runbook else []
    lines += [f"evidence {fact.evidence.uri}"] if fact.evidence is not None else []
    return lines


def _head(alarm: Alarm) -> tuple[str, ...]:
    fact = alarm.fact
    about = (fact.severity, fact.kind, str(fact.target), fact.trigger or "-", figures(fact))
    return (*about, f"{alarm.since:%Y-%m-%d %H:%M:%S}")


def as_data(alarm: Alarm) -> dict[str, Any]:
    """Return an alert as JSON data: its last fact, and how it stands."""
    fact = plain(alarm.event)["data"]
    return {
        **fact,
        "state": "open" if alarm.open else "resolved",
        "since": alarm.since.isoformat(),
        "resolved_at": alarm.resolved_at.isoformat() if alarm.resolved_at is not None else None,
        "updates": alarm.updates,
        "environment": alarm.event.environment,
    }


def news_line(event: Event[Any]) -> str | None:
    """Say in one line what an alert or a rollback fact says; None for another fact."""
    data = event.data
    if isinstance(data, AlertFact):
        what = event.type.rsplit(".", 2)[1]
        runbook = f"  {data.runbook}" if data.runbook and not isinstance(data, AlertResolved) else ""
        evidence = f"  {data.evidence.uri}" if data.evidence is not None else ""
        about = f"alert {what:<9} {data.severity:<8} {data.target}  {data.trigger or data.kind}"
        return f"{event.time:%H:%M:%S}  {about}: {_one_line(data.message)}{runbook}{evidence}"
    if isinstance(data, RollbackFact):
        return f"{event.time:%H:%M:%S}  {rollback_line(data)}"
    return None


def rollback_line(fact: RollbackFact) -> str:
    """Say in one line how a rollback stands."""
    if isinstance(fact, RollbackStarted):
        return f"rollback started   {fact.mode:<9} {fact.failed} is being taken back"
    if isinstance(fact, RollbackFailed):
        return f"rollback failed    {fact.mode:<9} {fact.failed} was not taken back: {fact.code}: {fact.reason}"
    times = fact.timeline
    took = ""
    if times.switched_at is not None:
        took = f" {short_span((times.switched_at - times.detected_at).total_seconds())} after it was detected"
    verified = f"recovery {fact.verdict}" + (f": {fact.reason}" if fact.reason else "")
    return f"rollback completed {fact.mode:<9} {fact.failed} -> {fact.to or 'nothing'}{took}; {verified}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
