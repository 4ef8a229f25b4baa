"""Queries of a model's windows, and of its events in the same period."""

import json
from typing import Final

from services.console.domain.alert_data import Figures
from services.console.domain.screens import Moment
from services.console.queries.reading import Reader, points

WINDOWS_SHOWN: Final = 60
MARKS_SHOWN: Final = 12
"""Maximum alerts and drills shown in plots; all route changes are shown."""
_MOMENTS: Final = f"""
SELECT at, CASE cause WHEN 'canary' THEN 'canary' WHEN 'promote' THEN 'promotion' ELSE 'rollback' END AS kind,
       CASE cause WHEN 'canary' THEN printf('canary %g%%', 100 * weight)
         WHEN 'promote' THEN 'promotion' WHEN 'abort' THEN 'abort' ELSE 'rollback' END AS what
FROM deployments WHERE model = :model AND cause IN ('canary', 'promote', 'rollback', 'abort')
  AND at BETWEEN :begin AND :end
UNION ALL SELECT at, kind, what FROM (
  SELECT raised_at AS at, 'alert' AS kind, 'alert ' || coalesce(trigger, kind) AS what FROM alerts
    WHERE model = :model AND environment = 'production' AND raised_at BETWEEN :begin AND :end
  UNION ALL SELECT at, 'drill', CASE WHEN share > 0 THEN 'drill' ELSE 'end of drill' END FROM drills
    WHERE model = :model AND environment = 'production' AND at BETWEEN :begin AND :end
  ORDER BY at DESC LIMIT {MARKS_SHOWN}
) ORDER BY at DESC
"""  # noqa: S608 - a text of ours


def figures(reader: Reader, model: str, target: str, trigger: str | None = None, until: str = "9") -> Figures:
    """Return a model's metrics in its last `WINDOWS_SHOWN` windows.

    Args:
        reader: The index.
        model: The model.
        target: The target of `bad_ratio`.
        trigger: Trigger that defines bad requests; None for no ratio.
        until: Exclusive upper bound on the windows' ends.
    """
    query = "SELECT DISTINCT ended_at FROM windows WHERE model = ? AND ended_at < ? ORDER BY ended_at DESC LIMIT ?"
    ends = [entry["ended_at"] for entry in reversed(reader.read(query, (model, until, WINDOWS_SHOWN)))]
    requests, bad = (dict[str, float | None].fromkeys(ends) for _ in range(2))
    ttft: dict[str, dict[str, float | None]] = {}
    query = "SELECT * FROM windows WHERE model = ? AND ended_at BETWEEN ? AND ?"
    for entry in reader.read(query, (model, ends[0], ends[-1])) if ends else ():
        end = entry["ended_at"]
        requests[end] = (requests[end] or 0.0) + entry["requests"]
        ttft.setdefault(entry["target"], dict.fromkeys(ends))[end] = entry["ttft_p95_ms"]
        if entry["target"] == target and trigger is not None:
            observed = json.loads(entry["observed"]).get(trigger)
            bad[end] = observed[1] / observed[0] if observed and observed[0] else None
    return Figures(
        target=target,
        ends=tuple(ends),
        requests=points(tuple(requests.values())),
        bad_ratio=tuple(bad.values()),
        ttft_p95_ms={name: tuple(values.values()) for name, values in ttft.items()},
        moments=(),
    )


def moments(reader: Reader, model: str, begin: str, end: str) -> tuple[Moment, ...]:
    """Return a model's events between two times, newest first."""
    entries = reader.read(_MOMENTS, {"model": model, "begin": begin, "end": end})
    return tuple(Moment(**entry) for entry in entries)


def with_moments(reader: Reader, model: str, known: Figures) -> Figures:
    """Add the model's events in the same period to its figures."""
    if not known.ends:
        return known
    return known.model_copy(update={"moments": moments(reader, model, known.ends[0], known.ends[-1])})
