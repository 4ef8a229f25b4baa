"""The tables of the index, and the rows that an event is written as.

A row is written if its table has none with that key, or one of an earlier event. So the same events, in the order of
their stream, always lead to the same index, however often any of them is applied.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

RELEASE_ID: Final = re.compile(r"^r-[0-9a-f]{16}-\d+$")
Scalar = str | int | float | bytes | None
SCHEMA: Final = 15
"""Raise it with every change of the tables or of the rows of an event: the index is then built again from the log."""

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
"""Key columns and other columns of each table; every table also has `seq`, the sequence that its row is of."""


@dataclass(frozen=True)
class Row:
    """One row of a table: the values of its key columns and of its other columns, in the order of `TABLES`."""

    table: str
    key: tuple[Scalar, ...]
    values: tuple[Scalar, ...]


def row(table: str, **columns: Scalar) -> Row:
    """Return a row; columns that are not given are empty.

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
    """Return a time as text that sorts like the time."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
