"""Query of checkpoints refused before a release opened."""

from typing import Any, Final

from services.console.domain.release_data import RefusedCheckpoint
from services.console.domain.screens import Page
from services.console.queries.reading import Reader, count, following, like

_REFUSED: Final = """
FROM refused_checkpoints AS c WHERE (:model = '' OR c.model LIKE :like ESCAPE '\\') AND (:code = '' OR c.code = :code)
 AND (:since = '' OR c.at >= :since) AND (:until = '' OR c.at < :until)
"""
_BY: Final = """
coalesce((SELECT sender FROM events WHERE events.id = c.announcement LIMIT 1),
         (SELECT sender FROM events WHERE c.run_id LIKE 'SLIPWAY_INBOX:%' AND stream = 'SLIPWAY_INBOX'
           AND sequence = CAST(substr(c.run_id, length('SLIPWAY_INBOX:') + 1) AS INTEGER)),
         (SELECT sender FROM unreadable WHERE c.run_id LIKE 'SLIPWAY_INBOX:%' AND stream = 'SLIPWAY_INBOX'
           AND sequence = CAST(substr(c.run_id, length('SLIPWAY_INBOX:') + 1) AS INTEGER)), 'unknown') AS by
"""
"""Sender of a checkpoint's announcement; an unreadable message is found by its stream position."""


def refused_checkpoints(
    reader: Reader,
    *,
    model: str = "",
    code: str = "",
    since: str = "",
    until: str = "",
    after: int = 0,
    limit: int = 50,
    exact: bool = False,
) -> Page[RefusedCheckpoint]:
    """Return the checkpoints refused before a release opened, newest first."""
    values: dict[str, Any] = {
        "model": model, "like": like(model, exact=exact), "code": code, "since": since, "until": until,
        "after": after, "limit": limit,
    }  # fmt: skip
    total = count(reader, f"SELECT count(*) {_REFUSED}", values)
    entries = reader.read(
        f"SELECT c.*, {_BY} {_REFUSED} ORDER BY c.at DESC, c.event_id LIMIT :limit OFFSET :after", values
    )
    names = RefusedCheckpoint.model_fields
    items = tuple(RefusedCheckpoint(**{name: entry[name] for name in names}) for entry in entries)
    return Page[RefusedCheckpoint](items=items, total=total, next=following(after, limit, total))
