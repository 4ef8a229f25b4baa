"""Rehearsed rollbacks and ordered drills, each with its effects."""

import json
from collections.abc import Mapping
from typing import Any, Final

from services.console.domain.duty_screens import Drill, Rehearsal
from services.console.domain.release_data import Certificate
from services.console.domain.screens import Page
from services.console.queries.reading import Reader, count, following, like, milliseconds, rollback_summary

_REHEARSALS: Final = """
FROM rehearsals AS h WHERE (:model = '' OR h.model LIKE :like ESCAPE '\\') AND (:verdict = '' OR h.verdict = :verdict)
"""
_DRILLS: Final = "FROM drills AS d WHERE (:model = '' OR d.model LIKE :like ESCAPE '\\')"
_ENDED: Final = """
(SELECT min(e.at) FROM drills AS e WHERE e.model = d.model AND e.environment = d.environment
  AND d.share > 0 AND e.at > d.at AND e.at < d.expires_at
  AND NOT EXISTS (SELECT 1 FROM events WHERE events.about = e.drill_id AND events.type = 'order.refused')) AS ended_at
"""
_ANSWERS: Final = {"order.accepted": "accepted", "order.refused": "refused"}


def rehearsals(
    reader: Reader, *, model: str = "", exact: bool = False, verdict: str = "", after: int = 0, limit: int = 50
) -> Page[Rehearsal]:
    """Return the last rehearsal of each variant of each release, the newest first."""
    values: dict[str, Any] = {
        "model": model, "like": like(model, exact=exact), "verdict": verdict, "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_REHEARSALS}", values)
    version = "(SELECT version FROM releases WHERE releases.release_id = h.release_id) AS version"
    entries = reader.read(
        f"SELECT h.*, {version} {_REHEARSALS} ORDER BY h.at DESC, h.release_id LIMIT :limit OFFSET :after", values
    )
    return Page[Rehearsal](items=tuple(map(_rehearsal, entries)), total=total, next=following(after, limit, total))


def _rehearsal(entry: Mapping[str, Any]) -> Rehearsal:
    certificates = json.loads(entry["certificates"])
    names = Certificate.model_fields
    return Rehearsal(
        release_id=entry["release_id"],
        model=entry["model"],
        version=entry["version"],
        variant=entry["variant"],
        at=entry["at"],
        verdict=entry["verdict"],
        reason=entry["reason"],
        certificates=tuple(Certificate(**{name: certificate[name] for name in names}) for certificate in certificates),
        expires_at=min((certificate["expires_at"] for certificate in certificates), default=None),
    )


def drills(reader: Reader, *, model: str = "", exact: bool = False, after: int = 0, limit: int = 50) -> Page[Drill]:
    """Return the drills, the newest first."""
    values: dict[str, Any] = {"model": model, "like": like(model, exact=exact), "after": after, "limit": limit}
    total = count(reader, f"SELECT count(*) {_DRILLS}", values)
    entries = reader.read(
        f"SELECT d.*, {_ENDED} {_DRILLS} ORDER BY d.at DESC, d.drill_id LIMIT :limit OFFSET :after", values
    )
    items = tuple(_drill(reader, entry) for entry in entries)
    return Page[Drill](items=items, total=total, next=following(after, limit, total))


def _drill(reader: Reader, entry: Mapping[str, Any]) -> Drill:
    drill_id = entry["drill_id"]
    answers = reader.read("SELECT type, title FROM events WHERE about = ? ORDER BY at", (drill_id,))
    known = [(_ANSWERS[answer["type"]], answer["title"]) for answer in answers if answer["type"] in _ANSWERS]
    outcome, detail = known[-1] if known else ("", "")
    alerts = reader.read("SELECT alert_id, raised_at FROM alerts WHERE drill = ? ORDER BY raised_at", (drill_id,))
    rollbacks = reader.read(
        "SELECT rollbacks.* FROM rollbacks JOIN events ON events.id = rollbacks.cause_id "
        "WHERE events.about IN (SELECT alert_id FROM alerts WHERE drill = ?) "
        "GROUP BY rollback_id ORDER BY rollbacks.at",
        (drill_id,),
    )
    names = set(Drill.model_fields) & set(entry) - {"fault"}
    return Drill(
        **{name: entry[name] for name in names},
        fault=json.loads(entry["fault"]),
        outcome=outcome,
        detail=detail if outcome == "refused" else "",
        alerts=tuple(alert["alert_id"] for alert in alerts),
        detected_ms=milliseconds(entry["at"], alerts[0]["raised_at"]) if alerts else None,
        rollbacks=tuple(map(rollback_summary, rollbacks)),
    )
