"""Queries of deployments with their causes, and of the history of all events."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from contracts.envelope import short_type
from contracts.facts import FACTS
from decisions.sealed_log.audit import is_audited
from services.console.domain.screens import Deployment, EventRow, Page
from services.console.queries.reading import Reader, count, event_rows, following, like

_DEPLOYMENTS: Final = """
FROM deployments AS d WHERE (:model = '' OR d.model LIKE :like ESCAPE '\\') AND (:since = '' OR d.at >= :since)
 AND (:until = '' OR d.at < :until)
"""
AUDITED: Final = json.dumps(sorted(short_type(name) for name, fact in FACTS.items() if is_audited(fact)))
"""Types of events that the audit log records, as JSON."""
_UNTIL: Final = """
(SELECT min(later.at) FROM deployments AS later
  WHERE later.model = d.model AND later.sequence > d.sequence) AS until
"""
_EVENTS: Final = """
FROM events WHERE (:model = '' OR model LIKE :model_like ESCAPE '\\') AND (:type = '' OR type LIKE :type_like)
 AND (:sender = '' OR sender = :sender) AND (:since = '' OR at >= :since) AND (:until = '' OR at < :until)
 AND (:text = '' OR title LIKE :like ESCAPE '\\')
 AND (:audited = 0 OR type IN (SELECT value FROM json_each(:types)))
 AND (:about = '' OR id = :about OR about = :about OR cause = :about)
"""


def timeline(
    reader: Reader,
    *,
    model: str = "",
    since: str = "",
    until: str = "",
    after: int = 0,
    limit: int = 100,
    exact: bool = False,
) -> Page[Deployment]:
    """Return the deployments, newest first."""
    values: dict[str, Any] = {
        "model": model, "like": like(model, exact=exact), "since": since, "until": until,
        "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_DEPLOYMENTS}", values)
    order = "ORDER BY d.at DESC, d.sequence DESC LIMIT :limit OFFSET :after"
    entries = reader.read(f"SELECT d.*, {_UNTIL} {_DEPLOYMENTS} {order}", values)
    rows = tuple(_deployment(reader, entry) for entry in entries)
    return Page[Deployment](items=rows, total=total, next=following(after, limit, total))


def deployments_of(reader: Reader, model: str, prefix: str, limit: int = 50) -> tuple[Deployment, ...]:
    """Return the route changes that gave traffic to targets with a name prefix, newest first."""
    span = (prefix, f"{prefix}~")
    entries = reader.read(
        f"SELECT d.*, {_UNTIL} FROM deployments AS d WHERE d.model = ? AND "  # noqa: S608 - a text of ours
        "(d.active BETWEEN ? AND ? OR d.canary BETWEEN ? AND ?) ORDER BY d.sequence DESC LIMIT ?",
        (model, *span, *span, limit),
    )
    return tuple(_deployment(reader, entry) for entry in entries)


def _deployment(reader: Reader, entry: Mapping[str, Any]) -> Deployment:
    by, because, link = author_of(reader, entry)
    release = entry["correlation"] if str(entry["correlation"]).startswith("r-") else None
    names = set(Deployment.model_fields) - {"by", "because", "link", "release_id"}
    return Deployment(**{name: entry[name] for name in names}, by=by, because=because, link=link, release_id=release)


def author_of(reader: Reader, entry: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Return author and reason of a route change, and the path of the page about its cause."""
    rollbacks = reader.read("SELECT cause_id FROM rollbacks WHERE rollback_id = ?", (entry["cause_id"],))
    cause = _event(reader, rollbacks[0]["cause_id"] if rollbacks else entry["cause_id"])
    if cause is None:
        return "unknown", "", None
    if cause["type"].startswith("alert."):
        return "rollback-controller", cause["title"], f"/alerts/{quote(cause['about'])}"
    if cause["type"] == "traffic.requested":
        return _promoter(reader, cause)
    if cause["type"] == "release.finished":
        cancelled = _cancellation(reader, cause["correlation"])
        by, because = (cancelled["sender"], cancelled["title"]) if cancelled else (cause["sender"], cause["title"])
        return by, because, f"/releases/{cause['correlation']}"
    return cause["sender"], cause["title"], f"/history?about={quote(cause['id'])}"


def _promoter(reader: Reader, cause: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return who gave a release traffic: its approvers, the promoting person, or the registry."""
    link = f"/releases/{cause['correlation']}"
    ordered = _event(reader, cause["cause"])
    if ordered is not None and ordered["type"] == "canary.advanced":
        return ordered["sender"], ordered["title"] or "promoted", link
    approvers = _approvers(reader, cause["correlation"])
    return ", ".join(approvers) or "registry", "approved" if approvers else cause["title"], link


def _cancellation(reader: Reader, release_id: str) -> dict[str, Any] | None:
    """Return the person's order that ended a release; None if the release ended otherwise."""
    entries = reader.read(
        "SELECT * FROM events WHERE correlation = :release AND type IN ('release.cancelled', 'approval.denied') "
        "AND (SELECT code FROM releases WHERE release_id = :release) IN ('cancelled', 'approval_denied') "
        "AND NOT EXISTS (SELECT 1 FROM events AS answer WHERE answer.about = events.id "
        "AND answer.type = 'order.refused') ORDER BY at, sequence LIMIT 1",
        {"release": release_id},
    )
    return entries[0] if entries else None


def _event(reader: Reader, event_id: str | None) -> dict[str, Any] | None:
    entries = reader.read("SELECT * FROM events WHERE id = ? LIMIT 1", (event_id,)) if event_id else []
    return entries[0] if entries else None


def _approvers(reader: Reader, release_id: str) -> list[str]:
    entries = reader.read(
        "SELECT DISTINCT sender FROM events WHERE correlation = ? AND type = 'approval.granted' ORDER BY at",
        (release_id,),
    )
    return [entry["sender"] for entry in entries]


def history(
    reader: Reader,
    *,
    model: str = "",
    type: str = "",  # noqa: A002 - the name of the parameter
    sender: str = "",
    text: str = "",
    about: str = "",
    audited: bool = False,
    since: str = "",
    until: str = "",
    after: int = 0,
    limit: int = 100,
    exact: bool = False,
) -> Page[EventRow]:
    """Return the log's events, newest first; `type` may end with `*`."""
    values: dict[str, Any] = {
        "model": model, "model_like": like(model, exact=exact), "type": type, "type_like": type.replace("*", "%"),
        "sender": sender, "text": text, "like": like(text), "about": about, "audited": int(audited), "types": AUDITED,
        "since": since, "until": until, "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_EVENTS}", values)
    order = "ORDER BY at DESC, stream, sequence DESC LIMIT :limit OFFSET :after"
    entries = reader.read(f"SELECT * {_EVENTS} {order}", values)
    return Page[EventRow](items=event_rows(entries), total=total, next=following(after, limit, total))
