"""Query of all models: serving versions, states, and figures of recent windows."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.console.domain.screens import Fleet, FleetRow, Page, Points, Totals
from services.console.queries.figures import figures
from services.console.queries.quarantines import suspensions
from services.console.queries.reading import Reader, count, following, like, points, rollback_summary
from services.console.queries.releases import ROLLED_BACK_AT
from services.console.queries.shadows import shadows

_ALL_MODELS: Final = "SELECT count(*) FROM (SELECT model FROM routes UNION SELECT DISTINCT model FROM releases)"
OPEN: Final = "alerts.state = 'open' AND alerts.environment = 'production'"
_MODELS: Final = """
SELECT models.model, routes.at, routes.epoch, routes.active, routes.previous, routes.canary, routes.weight,
       routes.shadow, routes.shadow_share, routes.quarantined, routes.suspended, actives.since,
       (SELECT count(*) FROM alerts WHERE {open} AND alerts.model = models.model) AS open_alerts,
       (SELECT min(CASE severity WHEN 'critical' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END) FROM alerts
         WHERE {open} AND alerts.model = models.model) AS worst,
       (SELECT count(*) FROM alerts
         WHERE {open} AND alerts.kind = 'standby' AND alerts.model = models.model) AS standby_alerts
FROM (SELECT model FROM routes UNION SELECT DISTINCT model FROM releases) AS models
LEFT JOIN routes ON routes.model = models.model
LEFT JOIN actives ON actives.model = models.model
WHERE (:model = '' OR models.model LIKE :like ESCAPE '\\')
"""
_STATES: Final[Mapping[str, str]] = {
    "": "",
    "canary": " AND routes.canary IS NOT NULL",
    "shadow": " AND routes.shadow IS NOT NULL",
    "alert": " AND open_alerts > 0",
    "idle": " AND routes.active IS NULL",
}
_SEVERITIES: Final = ("critical", "warning", "info")
_WORST_FIRST: Final = " ORDER BY worst IS NULL, worst, models.model LIMIT :limit OFFSET :after"


def fleet(
    reader: Reader,
    *,
    model: str = "",
    state: str = "",
    after: int = 0,
    limit: int = 100,
    exact: bool = False,
    refused_since: str = "",
) -> Fleet:
    """Return the models, most severe alerts first, then by name; refusals count from `refused_since`."""
    query = _MODELS.format(open=OPEN) + _STATES.get(state, "")
    values: dict[str, Any] = {"model": model, "like": like(model, exact=exact), "limit": limit, "after": after}
    entries = reader.read(query + _WORST_FIRST, values)
    counted = f"SELECT count(*) FROM ({query})" if state or model else _ALL_MODELS  # noqa: S608 - a text of ours
    total = count(reader, counted, values)
    names = [entry["model"] for entry in entries]
    series, rollbacks, releases = _series(reader, entries), _rollbacks(reader, names), _releases(reader, names)
    on_shadow = shadows(reader, entries)
    rows = tuple(
        _row(entry, series, rollbacks, releases).model_copy(update={"shadow": on_shadow.get(entry["model"])})
        for entry in entries
    )
    return Fleet(
        totals=totals(reader, refused_since),
        models=Page[FleetRow](items=rows, total=total, next=following(after, limit, total)),
    )


def totals(reader: Reader, refused_since: str = "") -> Totals:
    """Return counts over all models; refused checkpoints count from `refused_since`."""
    return Totals(
        models=count(reader, _ALL_MODELS),
        canaries=count(reader, "SELECT count(*) FROM routes WHERE canary IS NOT NULL"),
        shadows=count(reader, "SELECT count(*) FROM routes WHERE shadow IS NOT NULL"),
        open_alerts=count(reader, f"SELECT count(*) FROM alerts WHERE {OPEN}"),  # noqa: S608 - a text of ours
        critical_alerts=count(reader, f"SELECT count(*) FROM alerts WHERE {OPEN} AND severity = 'critical'"),  # noqa: S608 - a text of ours
        refused_checkpoints=count(reader, "SELECT count(*) FROM refused_checkpoints WHERE at >= ?", (refused_since,)),
        releases_open=count(reader, "SELECT count(*) FROM releases WHERE outcome IS NULL"),
        awaiting_approval=count(reader, "SELECT count(*) FROM releases WHERE state = 'awaiting approval'"),
    )


def _row(
    entry: Mapping[str, Any],
    series: Mapping[str, tuple[Points, Points]],
    rollbacks: Mapping[str, Any],
    releases: Mapping[str, Any],
) -> FleetRow:
    model, release = entry["model"], releases.get(entry["model"], {})
    traffic, ttft = series.get(model, (points(()), points(())))
    return FleetRow(
        model=model,
        active=entry["active"],
        since=entry["since"],
        canary=entry["canary"],
        weight=entry["weight"],
        shadow=None,
        previous=entry["previous"],
        standby="none" if entry["previous"] is None else "not ready" if entry["standby_alerts"] else "hot",
        epoch=entry["epoch"] or 0,
        quarantined=tuple(json.loads(entry["quarantined"] or "[]")),
        suspended=suspensions(entry["suspended"]),
        open_alerts=entry["open_alerts"],
        worst=None if entry["worst"] is None else _SEVERITIES[entry["worst"]],
        release_id=release.get("release_id"),
        release_state=release.get("state"),
        release_version=release.get("version"),
        last_rollback=rollback_summary(rollbacks[model]) if model in rollbacks else None,
        traffic=traffic,
        ttft_p95_ms=ttft,
    )


def _marks(names: Iterable[str]) -> str:
    return ", ".join("?" for _ in names)


def _rollbacks(reader: Reader, names: list[str]) -> dict[str, Any]:
    """Return each model's last completed rollback, not counting ended canaries and shadows."""
    query = (
        f"SELECT rollbacks.*, max(at) FROM rollbacks WHERE model IN ({_marks(names)}) "  # noqa: S608 - marks
        "AND state = 'completed' AND environment = 'production' AND NOT EXISTS (SELECT 1 FROM events "
        "WHERE events.id = rollbacks.cause_id AND (events.type LIKE 'release.%' "
        "OR events.type LIKE 'canary.%' OR events.type LIKE 'shadow.%')) "
        "GROUP BY model"
    )
    return {entry["model"]: entry for entry in reader.read(query, names)}


def _releases(reader: Reader, names: list[str]) -> dict[str, Any]:
    """Return each model's newest open release, or else its newest release unless that still serves."""
    query = (
        f"SELECT releases.*, {ROLLED_BACK_AT}, max((outcome IS NULL) || opened_at) FROM releases "  # noqa: S608 - marks
        f"WHERE model IN ({_marks(names)}) "
        "GROUP BY model"
    )
    known = {entry["model"]: entry | {"state": _state(entry)} for entry in reader.read(query, names)}
    return {model: entry for model, entry in known.items() if entry["state"] != "promoted"}


def _state(release: Mapping[str, Any]) -> str:
    if release["rolled_back_at"]:
        return "rolled back"
    return "paused" if release["paused"] else str(release["state"])


def _series(reader: Reader, routes: list[dict[str, Any]]) -> dict[str, tuple[Points, Points]]:
    """Return each model's requests per window, and the TTFT p95 of its active target."""
    series = {}
    for route in routes:
        known = figures(reader, route["model"], route["active"] or "")
        series[route["model"]] = known.requests, points(known.ttft_p95_ms.get(known.target, ()))
    return series
