"""Queries about alerts: the list, and one alert with its rollbacks."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.console.domain.alert_data import Alert, AlertRow, ChainStep
from services.console.domain.rows import instant
from services.console.domain.screens import Page
from services.console.queries.figures import figures, with_moments
from services.console.queries.reading import (
    Reader,
    count,
    event_rows,
    following,
    like,
    milliseconds,
    rollback_summary,
)

HISTORY: Final = 100
AFTER: Final = timedelta(minutes=15)
"""Time after raising an alert up to which windows are shown."""
_ALERTS: Final = """
FROM alerts WHERE (:model = '' OR model LIKE :like ESCAPE '\\') AND (:state = '' OR state = :state)
 AND (:severity = '' OR severity = :severity) AND environment = :environment
 AND (:since = '' OR raised_at >= :since) AND (:until = '' OR raised_at < :until)
"""
_SEVEREST: Final = (
    "ORDER BY state = 'resolved', CASE severity WHEN 'critical' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, "
    "raised_at DESC, alert_id LIMIT :limit OFFSET :after"
)
_RAISED: Final = ("message", "value", "limit_value", "requests", "e_value")
_STEPS: Final = (
    ("ordered", "ordered_at"),
    ("first bad request", "first_bad_at"),
    ("detected", "detected_at"),
    ("decided", "decided_at"),
    ("switched", "switched_at"),
    ("verified", "verified_at"),
)


def alerts(
    reader: Reader,
    *,
    model: str = "",
    state: str = "open",
    severity: str = "",
    environment: str = "production",
    since: str = "",
    until: str = "",
    after: int = 0,
    limit: int = 50,
    exact: bool = False,
) -> Page[AlertRow]:
    """Return alerts: open ones by severity, then resolved ones."""
    values: dict[str, Any] = {
        "model": model, "like": like(model, exact=exact), "state": state, "severity": severity,
        "environment": environment, "since": since, "until": until, "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_ALERTS}", values)
    entries = reader.read(f"SELECT * {_ALERTS} {_SEVEREST}", values)
    return Page[AlertRow](items=_rows(reader, entries), total=total, next=following(after, limit, total))


def _rows(reader: Reader, entries: Sequence[Mapping[str, Any]]) -> tuple[AlertRow, ...]:
    """Convert alerts to rows; a resolved alert shows its figures when raised."""
    ended = json.dumps([entry["alert_id"] for entry in entries if entry["state"] == "resolved"])
    query = "SELECT * FROM alert_raises WHERE alert_id IN (SELECT value FROM json_each(?))"
    raised = {entry["alert_id"]: entry for entry in reader.read(query, (ended,))}
    return tuple(_row(entry, raised.get(entry["alert_id"])) for entry in entries)


def _row(entry: Mapping[str, Any], raised: Mapping[str, Any] | None) -> AlertRow:
    shown = {**entry, **{name: raised[name] for name in _RAISED}} if raised is not None else entry
    names = set(AlertRow.model_fields) - {"limit", "runbook", "resolution"}
    return AlertRow(
        **{name: shown[name] for name in names},
        limit=shown["limit_value"],
        runbook=entry["runbook"] or "",
        resolution=entry["message"] if raised is not None else "",
    )


def alert(reader: Reader, alert_id: str) -> Alert | None:
    """Return an alert with its rollbacks, figures and history; None if there is none."""
    entries = reader.read("SELECT * FROM alerts WHERE alert_id = ?", (alert_id,))
    if not entries:
        return None
    (shown,) = _rows(reader, entries)
    rollbacks = reader.read(
        "SELECT rollbacks.* FROM rollbacks JOIN events ON events.id = rollbacks.cause_id WHERE events.about = ? "
        "GROUP BY rollback_id ORDER BY rollbacks.at",
        (alert_id,),
    )
    rollbacks += _ordered(reader, shown, rollbacks)
    until = instant(datetime.fromisoformat(shown.raised_at) + AFTER)
    known = figures(reader, shown.model, shown.target, shown.trigger, str(until))
    history = reader.read(
        "SELECT * FROM events WHERE about = ? OR about IN (SELECT value FROM json_each(?)) "
        "ORDER BY at DESC, sequence DESC LIMIT ?",
        (alert_id, _json([entry["rollback_id"] for entry in rollbacks]), HISTORY),
    )
    return Alert(
        alert=shown,
        rollbacks=tuple(map(rollback_summary, rollbacks)),
        chain=_chain(shown, rollbacks),
        figures=with_moments(reader, shown.model, known),
        serving=_serves(reader, shown),
        history=event_rows(history),
    )


def _json(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names if name.isascii() and '"' not in name) + "]"


def _ordered(reader: Reader, shown: AlertRow, known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the manual rollbacks of the same target while the alert was open."""
    ended = shown.at if shown.state == "resolved" else "9"
    entries = reader.read(
        "SELECT * FROM rollbacks WHERE model = ? AND failed = ? AND environment = ? AND mode = 'manual' "
        "AND detected_at >= ? AND detected_at <= ? ORDER BY at",
        (shown.model, shown.target, shown.environment, shown.raised_at, ended),
    )
    ids = {entry["rollback_id"] for entry in known}
    return [entry for entry in entries if entry["rollback_id"] not in ids]


def _serves(reader: Reader, shown: AlertRow) -> bool:
    """Return whether an alert's target takes production traffic now."""
    entries = reader.read("SELECT active, canary FROM routes WHERE model = ?", (shown.model,))
    return shown.environment == "production" and any(shown.target in entry.values() for entry in entries)


def _chain(shown: AlertRow, rollbacks: Sequence[Mapping[str, Any]]) -> tuple[ChainStep, ...]:
    """Return the steps from the first bad request on, including the first rollback."""
    if not rollbacks:
        return _steps({"first_bad_at": shown.first_bad_at, "detected_at": shown.raised_at})
    known = rollbacks[0]
    return _steps({**known, "first_bad_at": known["first_bad_at"] or shown.first_bad_at})


def chain_of(rollback: Mapping[str, Any], ordered_at: str) -> tuple[ChainStep, ...]:
    """Return the steps of an ordered rollback."""
    return _steps({**rollback, "ordered_at": ordered_at, "first_bad_at": None, "detected_at": None})


def _steps(times: Mapping[str, Any]) -> tuple[ChainStep, ...]:
    steps: list[ChainStep] = []
    for title, name in _STEPS:
        if times.get(name) is not None:
            before = steps[-1].at if steps else None
            steps.append(ChainStep(name=title, at=times[name], since_ms=milliseconds(before, times[name])))
    return tuple(steps)
