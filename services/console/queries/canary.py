"""Query of a release's canary: assessments, deployments, and windows of both targets."""

from collections.abc import Mapping
from typing import Any, Final

from contracts.policy import ReleasePolicy
from services.console.domain.canary_screen import (
    Canary,
    evidence_of,
    latencies_of,
    points_of,
    shares_of,
    side_of,
)
from services.console.domain.release_data import Release
from services.console.queries.figures import moments
from services.console.queries.reading import Reader

POINTS: Final = 2000
"""Maximum assessments shown, the newest."""
_SPAN: Final = """
SELECT canary, active, weight, at,
       (SELECT min(later.at) FROM deployments AS later WHERE later.model = d.model AND later.sequence > d.sequence
         AND (later.canary IS NULL OR later.canary <> d.canary)) AS ended_at,
       (SELECT min(later.at) FROM deployments AS later WHERE later.model = d.model AND later.sequence > d.sequence
         AND (later.active = d.canary OR later.canary = d.canary AND EXISTS
           (SELECT 1 FROM deployments AS other WHERE other.model = d.model AND other.sequence > d.sequence
             AND other.sequence < later.sequence AND other.canary IS NOT d.canary))) AS again_at
FROM deployments AS d WHERE correlation = ? AND cause = 'canary' AND canary IS NOT NULL ORDER BY sequence
"""


def canary(reader: Reader, release: Release) -> Canary:
    """Return a release's canary; before its start, without targets and evidence."""
    policy = ReleasePolicy.model_validate(release.policy)
    newest = "SELECT * FROM canary_points WHERE release_id = ? ORDER BY sequence DESC LIMIT ?"
    points = points_of(reversed(reader.read(newest, (release.release_id, POINTS))))
    spans = reader.read(_SPAN, (release.release_id,))
    candidate, active = (spans[-1]["canary"], spans[-1]["active"]) if spans else (None, None)
    windows = _windows(reader, release.model, spans[0]) if spans else []
    now = release.canary[-1] if release.canary else None
    return Canary(
        release_id=release.release_id,
        model=release.model,
        version=release.version,
        state=release.state,
        candidate=side_of(candidate, windows),
        active=side_of(active, windows),
        shares=shares_of(policy, points),
        requests=now.requests if now else 0,
        requests_needed=now.requests_needed if now else policy.canary.min_requests,
        min_requests=policy.canary.min_requests,
        verdict=now.verdict if now else "waiting",
        reason=now.reason if now else "",
        evidence=evidence_of(policy, now),
        points=points,
        windows=len(windows),
        ttft=latencies_of(windows, candidate, active),
        moments=moments(reader, release.model, spans[0]["at"], spans[0]["ended_at"] or "9") if spans else (),
    )


def _windows(reader: Reader, model: str, span: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the windows of both targets that ended during the canary.

    Later windows of the candidate count until it takes traffic again: their requests are the canary's.
    """
    ended = span["ended_at"] or "9"
    return reader.read(
        "SELECT * FROM windows WHERE model = ? AND ended_at >= ? "
        "AND (target IN (?, ?) AND ended_at <= ? OR target = ? AND ended_at <= ?) ORDER BY ended_at",
        (model, span["at"], span["canary"], span["active"], ended, span["canary"], span["again_at"] or "9"),
    )
