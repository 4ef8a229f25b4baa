"""What served when and who changed it, and the history of all events."""

import json
from collections.abc import Mapping
from typing import Any, Final

from contracts.facts import FACTS
from decisions.audit import is_audited
from services.console.domain.screens import Deployment, EventRow, Page
from services.console.queries.fleet import like
from services.console.queries.reading import Reader, count, event_rows, following

_DEPLOYMENTS: Final = """
FROM deployments AS d WHERE (:model = '' OR d.model LIKE :like ESCAPE '\\') AND (:since = '' OR d.at >= :since)
 AND (:until = '' OR d.at < :until)
"""
AUDITED: Final = json.dumps(
    sorted(name.removeprefix("slipway.").rsplit(".", 1)[0] for name, fact in FACTS.items() if is_audited(fact))
)
"""Types of the events that are entries of the audit log."""
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
    """Return the changes of what serves, the newest first."""
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
    """Return the changes of a route in which targets whose names have a prefix take traffic, the newest first."""
    span = (prefix, f"{prefix}~")
    entries = reader.read(
        f"SELECT d.*, {_UNTIL} FROM deployments AS d WHERE d.model = ? AND "  # noqa: S608 - a text of ours
        "(d.active BETWEEN ? AND ? OR d.canary BETWEEN ? AND ?) ORDER BY d.sequence DESC LIMIT ?",
        (model, *span, *span, limit),
    )
    return tuple(_deployment(reader, entry) for entry in entries)


def _deployment(reader: Reader, entry: Mapping[str, Any]) -> Deployment:
    by, because, link = _author(reader, entry)
    release = entry["correlation"] if str(entry["correlation"]).startswith("r-") else None
    names = set(Deployment.model_fields) - {"by", "because", "link", "release_id"}
    return Deployment(**{name: entry[name] for name in names}, by=by, because=because, link=link, release_id=release)


def _author(reader: Reader, entry: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Return who or what caused a change, why, and the path of the screen that shows it."""
    rollbacks = reader.read("SELECT cause_id FROM rollbacks WHERE rollback_id = ?", (entry["cause_id"],))
    cause = _event(reader, rollbacks[0]["cause_id"] if rollbacks else entry["cause_id"])
    if cause is None:
        return "unknown", "", None
    if cause["type"].startswith("alert."):
        return "rollback-controller", cause["title"], f"/alerts/{cause['about']}"
    if cause["type"] == "traffic.requested":
        approvers = _approvers(reader, cause["correlation"])
        by = ", ".join(approvers) if approvers else "registry"
        return by, "approved" if approvers else cause["title"], f"/releases/{cause['correlation']}"
    return cause["sender"], cause["title"], f"/history?about={cause['id']}"


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
    """Return the events of the log, the newest first; `type` may end with `*`."""
    values: dict[str, Any] = {
        "model": model, "model_like": like(model, exact=exact), "type": type, "type_like": type.replace("*", "%"),
        "sender": sender, "text": text, "like": like(text), "about": about, "audited": int(audited), "types": AUDITED,
        "since": since, "until": until, "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_EVENTS}", values)
    order = "ORDER BY at DESC, stream, sequence DESC LIMIT :limit OFFSET :after"
    entries = reader.read(f"SELECT * {_EVENTS} {order}", values)
    return Page[EventRow](items=event_rows(entries), total=total, next=following(after, limit, total))
