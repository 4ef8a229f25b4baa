"""Query of incidents: open alerts, and rollbacks and failed releases of the last hour."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from services.console.domain.incident import Incident
from services.console.domain.rows import instant
from services.console.queries.reading import Reader

SHOWN_FOR: Final = timedelta(hours=1)
"""Time for which a rollback or failed release is shown; an alert is shown while open."""
_ALERTS: Final = """
SELECT alerts.*, routes.active, routes.canary, routes.weight FROM alerts LEFT JOIN routes ON routes.model = alerts.model
WHERE alerts.state = 'open' AND alerts.environment = 'production' AND alerts.severity <> 'info'
"""
# One row per rollback. The sign keeps SQLite from scanning the table in key order.
_ROLLBACKS: Final = """
SELECT r.*, routes.active, routes.canary, routes.weight, routes.quarantined, routes.suspended,
       events.about AS alert_id, events.title AS cause, alerts.runbook
FROM rollbacks AS r LEFT JOIN routes ON routes.model = r.model LEFT JOIN events ON events.id = r.cause_id
LEFT JOIN alerts ON alerts.alert_id = events.about
WHERE r.environment = 'production' AND r.at >= ? AND coalesce(events.type, '') NOT LIKE 'release.%'
  AND coalesce(events.type, '') NOT LIKE 'canary.%' AND coalesce(events.type, '') NOT LIKE 'shadow.%'
GROUP BY +r.rollback_id
"""
_RELEASES: Final = """
SELECT releases.*, routes.active, routes.canary, routes.weight
FROM releases LEFT JOIN routes ON routes.model = releases.model
WHERE outcome IN ('rejected', 'aborted', 'expired') AND state_at >= ?
"""
_DONE: Final = {"completed": "was rolled back", "started": "is being rolled back", "failed": "could not be rolled back"}


def incidents(
    reader: Reader, now: datetime, acknowledged: Callable[[Sequence[str]], Mapping[str, str]]
) -> tuple[Incident, ...]:
    """Return the incidents, worst and newest first, acknowledged ones last.

    Args:
        reader: The index, limited to models that the person may see.
        now: Current time.
        acknowledged: Returns author and time by incident key.
    """
    since = instant(now - SHOWN_FOR) or ""
    rollbacks = reader.read(_ROLLBACKS, (since,))
    rolled_back = {entry["alert_id"] for entry in rollbacks}
    known = [_rollback(entry) for entry in rollbacks]
    known += [_alert(entry) for entry in reader.read(_ALERTS) if entry["alert_id"] not in rolled_back]
    known += [_release(entry) for entry in reader.read(_RELEASES, (since,)) if not _is_rolled_back(entry, rollbacks)]
    by = acknowledged([each.key for each in known])
    shown = [each.model_copy(update={"acknowledged": by.get(each.key, "")}) for each in known]
    shown.sort(key=lambda each: each.at, reverse=True)
    return tuple(sorted(shown, key=lambda each: (bool(each.acknowledged), each.tone != "bad")))


def _is_rolled_back(release: Mapping[str, Any], rollbacks: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a rollback ended a release, so that a failed canary is one incident."""
    return any(
        entry["failed"] == release["target"] and entry["at"] >= release["opened_at"]
        for entry in rollbacks
        if entry["state"] != "failed"
    )


def _alert(entry: Mapping[str, Any]) -> Incident:
    in_traffic = entry["target"] in (entry["active"], entry["canary"])
    return Incident(
        key=entry["alert_id"],
        model=entry["model"],
        at=entry["raised_at"],
        tone="bad" if entry["severity"] == "critical" else "busy",
        title=f"Alert {entry['trigger'] or entry['kind']} about {entry['target']}",
        why=entry["message"],
        serves=_serves(entry, silent=entry["target"] if entry["answers_nothing"] else ""),
        link=f"/alerts/{quote(entry['alert_id'])}",
        runbook=entry["runbook"] or "",
        failed=entry["target"] if in_traffic and entry["kind"] != "standby" else "",
    )


def _rollback(entry: Mapping[str, Any]) -> Incident:
    held = {name: entry["failed"] in (entry[name] or "") for name in ("quarantined", "suspended")}
    state = next((f" {entry['failed']} is {name}." for name, is_held in held.items() if is_held), "")
    failed, alerted = entry["state"] == "failed", entry["runbook"] is not None
    verified = {None: "", "pass": ", verified"}.get(entry["verdict"], f"; its check ended with {entry['verdict']}")
    return Incident(
        key=entry["rollback_id"],
        model=entry["model"],
        at=entry["switched_at"] or entry["at"],
        tone="bad",
        title=f"{entry['failed']} {_DONE[entry['state']]}",
        why=f"{entry['code']}: {entry['reason']}" if failed else entry["cause"] or "",
        serves=_serves(entry, verified if entry["active"] == entry["target"] else "") + state,
        link=f"/alerts/{quote(entry['alert_id'])}" if alerted else f"/history?about={quote(entry['cause_id'])}",
        runbook="docs/runbooks/rollback.md" if failed else entry["runbook"] or "",
        failed=entry["failed"] if failed else "",
    )


def _release(entry: Mapping[str, Any]) -> Incident:
    return Incident(
        key=entry["release_id"],
        model=entry["model"],
        at=entry["state_at"],
        tone="busy",
        title=f"{entry['model']}.v{entry['version']} was {entry['outcome']}",
        why=entry["reason"] or "",
        serves=_serves(entry),
        link=f"/releases/{entry['release_id']}",
        runbook="docs/runbooks/release.md",
    )


def _serves(entry: Mapping[str, Any], verified: str = "", silent: str = "") -> str:
    """Return the serving targets and the canary's share; `silent` names the target that answers nothing."""
    if not entry["active"]:
        return f"Nothing serves {entry['model']}."
    active, canary = ("; it answers nothing" if silent == entry[name] else "" for name in ("active", "canary"))
    share = f" {entry['canary']} takes {100 * entry['weight']:g}%{canary}." if entry["canary"] else ""
    return f"{entry['active']} serves{verified}{active}.{share}"
