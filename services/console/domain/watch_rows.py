"""Maps alerts, rollbacks, drills, windows and canary assessments to rows. Pure."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from services.console.domain.rows import RELEASE_ID, Row, instant, row

Ms = Callable[[str, float], float | None]
"""Returns a percentile of an encoded latency histogram in milliseconds; None with too few entries."""


def alert_rows(event: Event[Any], _sequence: int) -> tuple[Row, ...]:
    """Return the rows of an alert: its latest state, and its data when raised."""
    data = event.data
    alert = row(
        "alerts",
        alert_id=data.alert_id,
        model=event.subject,
        target=str(data.target),
        environment=event.environment,
        state="resolved" if isinstance(data, f.AlertResolved) else "open",
        at=instant(event.time),
        kind=data.kind,
        severity=data.severity,
        trigger=data.trigger,
        value=data.value,
        limit_value=data.limit,
        requests=data.requests,
        e_value=data.e_value,
        message=data.message,
        runbook=data.runbook,
        evidence=data.evidence.uri if data.evidence else None,
        first_bad_at=instant(data.first_bad_at),
        raised_at=instant(data.raised_at),
        drill=data.drill,
        release_id=data.release_id,
        answers_nothing=data.answers_nothing,
    )
    if not isinstance(data, f.AlertRaised):
        return (alert,)
    raised = row(
        "alert_raises",
        alert_id=data.alert_id,
        model=event.subject,
        message=data.message,
        value=data.value,
        limit_value=data.limit,
        requests=data.requests,
        e_value=data.e_value,
    )
    return alert, raised


def rollback_rows(event: Event[Any], _sequence: int) -> tuple[Row, ...]:
    """Return the row of a rollback."""
    data, timeline = event.data, event.data.timeline
    states: Mapping[Any, str] = {
        f.RollbackStarted: "started",
        f.RollbackCompleted: "completed",
        f.RollbackFailed: "failed",
    }
    rollback = row(
        "rollbacks",
        rollback_id=data.rollback_id,
        model=event.subject,
        environment=event.environment,
        state=states[type(data)],
        at=instant(event.time),
        cause_id=data.cause_id,
        failed=str(data.failed),
        target=str(data.to) if data.to else None,
        mode=data.mode,
        verdict=getattr(data, "verdict", None),
        code=getattr(data, "code", None),
        reason=getattr(data, "reason", None),
        first_bad_at=instant(timeline.first_bad_at),
        detected_at=instant(timeline.detected_at),
        decided_at=instant(timeline.decided_at),
        switched_at=instant(timeline.switched_at),
        verified_at=instant(timeline.verified_at),
    )
    return (rollback,)


def drill_row(event: Event[f.DrillOrdered]) -> Row:
    """Return the row of a drill."""
    data = event.data
    return row(
        "drills",
        drill_id=event.id,
        model=event.subject,
        at=instant(event.time),
        environment=data.environment,
        share=data.share_ratio,
    )


def window_row(data: f.WindowSummarised, percentile: Ms) -> Row:
    """Return the row of a window."""
    return row(
        "windows",
        model=data.target.model,
        target=str(data.target),
        ended_at=instant(data.window.to),
        requests=data.requests,
        failures=data.target_failures,
        ttft_p50_ms=percentile(data.ttft_histogram, 50.0),
        ttft_p95_ms=percentile(data.ttft_histogram, 95.0),
        itl_p95_ms=percentile(data.itl_histogram, 95.0),
        e2e_p95_ms=percentile(data.e2e_histogram, 95.0),
        observed=json.dumps(data.observed, separators=(",", ":")),
    )


def canary_rows(event: Event[f.CanaryAssessed], sequence: int) -> tuple[Row, ...]:
    """Return the row of a canary assessment; none outside production."""
    data = event.data
    if event.environment != "production" or not RELEASE_ID.fullmatch(event.correlationid):
        return ()
    assessed = row(
        "canary_points",
        release_id=event.correlationid,
        sequence=sequence,
        at=instant(event.time),
        weight=data.weight_ratio,
        requests=data.requests,
        requests_needed=data.requests_needed,
        verdict=data.verdict,
        e_values=json.dumps(data.e_values, separators=(",", ":")),
    )
    return (assessed,)
