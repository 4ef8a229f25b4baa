"""Queries of releases: the list, and one release with its events."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from contracts.envelope import Event
from services.console.domain.logged import parse_stored
from services.console.domain.packing import unpack
from services.console.domain.release_data import Release, ReleaseRow
from services.console.domain.release_screen import build_release
from services.console.domain.screens import Page
from services.console.queries.reading import Reader, count, event_rows, following, like

HISTORY: Final = 200
_RELEASES: Final = """
FROM releases WHERE (:model = '' OR model LIKE :like ESCAPE '\\')
  AND (:since = '' OR opened_at >= :since) AND (:until = '' OR opened_at < :until)
"""
_STATES: Final[Mapping[str, str]] = {
    "": "",
    "open": " AND outcome IS NULL",
    "finished": " AND outcome IS NOT NULL",
}
NOT_RETURNED: Final = """NOT EXISTS (SELECT 1 FROM deployments AS d
  WHERE d.model = r.model AND d.cause IN ('return', 'promote') AND d.active = r.failed
  AND d.at > coalesce(r.switched_at, r.at))"""
ROLLED_BACK_AT: Final = f"""
(SELECT min(coalesce(r.switched_at, r.at)) FROM rollbacks AS r
  WHERE releases.outcome = 'promoted' AND r.model = releases.model AND r.state = 'completed'
    AND r.environment = 'production' AND r.failed LIKE releases.model || '.v' || releases.version || '.%'
    AND r.at > releases.opened_at AND {NOT_RETURNED}) AS rolled_back_at
"""  # noqa: S608 - a text of ours
"""Time when a promoted release's version was rolled back, unless it took all traffic again."""
_COLUMNS: Final = f"SELECT releases.*, {ROLLED_BACK_AT}"


def releases(
    reader: Reader,
    *,
    model: str = "",
    state: str = "",
    since: str = "",
    until: str = "",
    after: int = 0,
    limit: int = 50,
    exact: bool = False,
) -> Page[ReleaseRow]:
    """Return releases, newest first.

    Args:
        reader: The index.
        model: Part of the model's name.
        state: `open`, `finished`, or the name of a state or outcome.
        since: Earliest opening time.
        until: Upper bound on the opening time, exclusive.
        after: Number of releases to skip.
        limit: Maximum number of releases.
        exact: Whether `model` is the whole name.
    """
    values: dict[str, Any] = {
        "model": model,
        "like": like(model, exact=exact),
        "since": since,
        "until": until,
        "after": after,
        "limit": limit,
    }
    query = _RELEASES + _STATES.get(state, " AND state = :state")
    values["state"] = state
    total = count(reader, f"SELECT count(*) {query}", values)
    order = "ORDER BY opened_at DESC, release_id LIMIT :limit OFFSET :after"
    rows = tuple(_row(entry) for entry in reader.read(f"{_COLUMNS} {query} {order}", values))
    return Page[ReleaseRow](items=rows, total=total, next=following(after, limit, total))


def _row(entry: Mapping[str, Any]) -> ReleaseRow:
    return ReleaseRow(
        release_id=entry["release_id"],
        model=entry["model"],
        version=entry["version"],
        run_id=entry["run_id"],
        opened_at=entry["opened_at"],
        state=entry["state"],
        state_at=entry["state_at"],
        outcome=entry["outcome"],
        code=entry["code"],
        reason=entry["reason"],
        target=entry["target"],
        mode=entry["mode"],
        rolled_back_at=entry["rolled_back_at"],
        paused=bool(entry["paused"]),
        publishers=tuple(json.loads(entry["publishers"])),
    )


def release(reader: Reader, release_id: str, live: Iterable[Event[Any]] = ()) -> Release | None:
    """Return a release with the data of its page; None if there is none."""
    history = reader.read(
        "SELECT * FROM events WHERE correlation = ? AND type NOT IN ('canary.assessed', 'shadow.assessed') "
        "ORDER BY at DESC, sequence DESC LIMIT ?",
        (release_id, HISTORY),
    )
    built = build_release(release_events(reader, release_id), live, event_rows(history))
    return None if built is None else built.model_copy(update={"rolled_back": _rolled_back(reader, built)})


def release_events(reader: Reader, release_id: str) -> list[Event[Any]]:
    """Return a release's events in order of time."""
    stored = reader.read(
        "SELECT body FROM release_events WHERE release_id = ? ORDER BY at, stream = 'SLIPWAY_EVENTS', slot",
        (release_id,),
    )
    return [event for entry in stored if (event := parse_stored(unpack(entry["body"]))) is not None]


def _rolled_back(reader: Reader, shown: Release) -> str:
    """Describe the rollback of a release's promoted version; empty without one."""
    if shown.outcome != "promoted":  # a failed canary is no rollback of a promoted version
        return ""
    query = (  # a text of ours
        "SELECT * FROM rollbacks AS r WHERE model = ? AND state = 'completed' AND environment = 'production' "  # noqa: S608
        f"AND failed LIKE ? AND at > ? AND {NOT_RETURNED} ORDER BY at LIMIT 1"
    )
    for entry in reader.read(query, (shown.model, f"{shown.model}.v{shown.version}.%", shown.opened_at)):
        to = f" to {entry['target']}" if entry["target"] else ""
        by = "automatically" if entry["mode"] == "automatic" else "by an operator"
        at = str(entry["switched_at"] or entry["at"])[:19].replace("T", " ")
        return f"{entry['failed']} was rolled back{to} {by} at {at} UTC"
    return ""
