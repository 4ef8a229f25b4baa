"""Shared parts of queries: reader, paging, search patterns, rollbacks and series."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from services.console.domain.rows import Scalar
from services.console.domain.screens import EventRow, Points, RollbackSummary

LARGEST_PAGE = 500


class Reader(Protocol):
    """Reads the index, or its part about some models."""

    def read(self, query: str, values: Sequence[Scalar] | Mapping[str, Scalar] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query."""


def count(reader: Reader, query: str, values: Sequence[Scalar] | Mapping[str, Scalar] = ()) -> int:
    """Return the number that a count query yields."""
    return int(next(iter(reader.read(query, values)[0].values())))


def following(after: int, limit: int, total: int) -> int | None:
    """Return the `after` of the next part of a list; None after the last part."""
    return after + limit if after + limit < total else None


def like(text: str, *, exact: bool = False) -> str:
    """Return the LIKE pattern for texts that contain `text`, or equal it if `exact`."""
    for special in ("\\", "%", "_"):
        text = text.replace(special, f"\\{special}")
    return text if exact else f"%{text}%"


def moment(text: str | None) -> datetime | None:
    """Parse a time of the index."""
    return None if text is None else datetime.fromisoformat(text)


def milliseconds(begin: str | None, end: str | None) -> float | None:
    """Return the milliseconds between two times of the index; None if one is missing."""
    first, last = moment(begin), moment(end)
    return None if first is None or last is None else round((last - first).total_seconds() * 1000, 1)


def rollback_summary(entry: Mapping[str, Any]) -> RollbackSummary:
    """Convert an index row to a rollback for pages."""
    return RollbackSummary(
        rollback_id=entry["rollback_id"],
        model=entry["model"],
        state=entry["state"],
        at=entry["switched_at"] or entry["at"],
        failed=entry["failed"],
        target=entry["target"],
        mode=entry["mode"],
        verdict=entry["verdict"],
        code=entry["code"],
        reason=entry["reason"],
        switch_ms=milliseconds(entry["detected_at"], entry["switched_at"]),
    )


def points(values: Sequence[float | None]) -> Points:
    """Return a series with its latest known figure."""
    known = [value for value in values if value is not None]
    return Points(values=tuple(values), latest=known[-1] if known else None)


def event_rows(entries: Sequence[Mapping[str, Any]]) -> tuple[EventRow, ...]:
    """Convert index rows to history entries."""
    names = EventRow.model_fields
    return tuple(EventRow(**{name: entry[name] for name in names}) for entry in entries)
