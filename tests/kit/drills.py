"""Drills, as the rollback-controller writes them."""

from datetime import UTC, datetime, timedelta

from contracts.drills import Drill
from contracts.facts import DrillFault
from testbed.factories import target

NOW = datetime(2026, 3, 4, tzinfo=UTC)


def drill(now: datetime = NOW, *, lasts_s: float = 60.0, fault: dict | None = None, **changes) -> Drill:
    """Return a drill on all production requests to version 7, from `now` on."""
    whole = {
        "drill_id": "drill-1",
        "target": target(7),
        "environment": "production",
        "fault": DrillFault(**({"delay_ms": 800} if fault is None else fault)),
        "share_ratio": 1.0,
        "starts_at": now,
        "expires_at": now + timedelta(seconds=lasts_s),
        "actor": "ana@example.com",
        "reason": "practice",
    }
    return Drill(**(whole | changes))
