"""The tables of the index, and the rows that events map to.

A row replaces the row with the same key, unless the latter comes from a later event. So the same events, in stream
order, always give the same index, however often each is applied.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

RELEASE_ID: Final = re.compile(r"^r-[0-9a-f]{16}-\d+$")
Scalar = str | int | float | bytes | None
SCHEMA: Final = 15
"""Increase it with each change of tables or rows: the index is then rebuilt from the log."""

TABLES: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "events": (
        ("stream", "sequence"),
        ("id", "at", "type", "model", "sender", "environment", "correlation", "cause", "about", "title"),
    ),
    "unreadable": (("stream", "sequence"), ("model", "sender")),
    "releases": (
        ("release_id",),
        (
            "model", "version", "run_id", "opened_at", "publishers", "mode", "state", "state_at", "target", "paused",
            "outcome", "code", "reason",
        ),
    ),
    "release_events": (("release_id", "slot"), ("stream", "type", "at", "body")),
    "drills": (("drill_id",), ("model", "at", "environment", "share")),
    "canary_points": (
        ("release_id", "sequence"),
        ("at", "weight", "requests", "requests_needed", "verdict", "e_values"),
    ),
    "routes": (
        ("model",),
        (
            "at", "epoch", "active", "previous", "canary", "weight", "shadow", "shadow_share", "quarantined",
            "suspended", "body",
        ),
    ),
    "actives": (("model",), ("since", "cause")),
    "deployments": (
        ("model", "sequence"),
        (
            "at", "cause", "epoch", "active", "previous", "canary", "weight", "shadow", "shadow_share", "quarantined",
            "correlation", "cause_id",
        ),
    ),
    "refused_checkpoints": (("event_id",), ("model", "at", "run_id", "announcement", "code", "reason")),
    "alerts": (
        ("alert_id",),
        (
            "model", "target", "environment", "state", "at", "kind", "severity", "trigger", "value", "limit_value",
            "requests", "e_value", "message", "runbook", "evidence", "first_bad_at", "raised_at", "drill", "release_id",
            "answers_nothing",
        ),
    ),
    "alert_raises": (("alert_id",), ("model", "message", "value", "limit_value", "requests", "e_value")),
    "rollbacks": (
        ("rollback_id",),
        (
            "model", "environment", "state", "at", "cause_id", "failed", "target", "mode", "verdict", "code", "reason",
            "first_bad_at", "detected_at", "decided_at", "switched_at", "verified_at",
        ),
    ),
    "windows": (
        ("model", "target", "ended_at"),
        ("requests", "failures", "ttft_p50_ms", "ttft_p95_ms", "itl_p95_ms", "e2e_p95_ms", "observed"),
    ),
}  # fmt: skip
"""Key columns and other columns of each table; `seq` is added: the sequence number of the row's event."""


@dataclass(frozen=True)
class Row:
    """A table row: values of key columns and other columns, in the order of `TABLES`."""

    table: str
    key: tuple[Scalar, ...]
    values: tuple[Scalar, ...]


def row(table: str, **columns: Scalar) -> Row:
    """Return a row; omitted columns are NULL.

    Raises:
        KeyError: A key column is missing.
        ValueError: The table has no such column.
    """
    keys, others = TABLES[table]
    unknown = set(columns) - {*keys, *others}
    if unknown:
        msg = f"the table {table} has no {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    return Row(table, tuple(columns[name] for name in keys), tuple(columns.get(name) for name in others))


def instant(at: datetime | None) -> str | None:
    """Format a UTC time so that text order is time order."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
