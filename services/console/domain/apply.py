"""Which rows an event of the log is written as. Pure, and without knowledge of earlier events."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from contracts import facts as f
from contracts.envelope import Event, plain
from contracts.services import EVENTS
from decisions.release_plan import needs_approval
from services.console.domain.packing import pack
from services.console.domain.rows import Row, row
from services.console.domain.titles import about_of, title_of

RELEASE_ID: Final = re.compile(r"^r-[0-9a-f]{16}-\d+$")
SUMMARIES: Final = (f.WindowSummarised, f.InferenceBatch, f.WorkProgressed)
"""Figures and live progress: they are no entries of the history."""
_OF_RELEASE: Final = (
    f.ReleaseOpened, f.CheckpointRejected, f.CheckpointMerged, f.VariantQuantised, f.VariantFailed,
    f.VersionRegistered, f.VariantStaged, f.VariantBenchmarked, f.RehearsalCompleted, f.ApprovalRequested,
    f.ApprovalGranted, f.TrafficRequested, f.DeploymentChanged, f.PromotionRefused, f.CanaryAssessed,
    f.ReleaseFinished, f.ReleaseCancelled, f.ReleaseHeld, f.CanaryAdvanced, f.ApprovalDenied, f.DeadlinePassed,
    f.WorkAbandoned, f.OrderRefused, f.OrderAccepted,
)  # fmt: skip
"""Events whose bodies the screen of a release needs."""
Ms = Callable[[str, float], float | None]
"""Returns a percentile of a latency histogram in milliseconds; None if it has too few entries."""


def instant(at: datetime | None) -> str | None:
    """Return a time as text that sorts like the time."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def apply(stream: str, sequence: int, event: Event[Any], percentile: Ms) -> tuple[Row, ...]:
    """Return the rows that an event of a stream is written as; none for what no screen shows."""
    data = event.data
    rows: list[Row] = []
    if not isinstance(data, SUMMARIES):
        rows.append(_history(stream, sequence, event))
    if isinstance(data, _OF_RELEASE) and event.environment == "production":
        rows += _of_release(stream, sequence, event)
    if isinstance(data, f.DrillOrdered):
        rows.append(_drill(event))
    if stream == EVENTS:
        of_type = _ROWS.get(type(data))
        rows += of_type(event, sequence) if of_type is not None else ()
        if isinstance(data, f.WindowSummarised) and event.environment == "production":
            rows.append(_window(data, percentile))
    return tuple(rows)


def _history(stream: str, sequence: int, event: Event[Any]) -> Row:
    return row(
        "events",
        stream=stream,
        sequence=sequence,
        id=event.id,
        at=instant(event.time),
        type=event.type.removeprefix("slipway.").rsplit(".", 1)[0],
        model=event.subject,
        sender=event.sender,
        environment=event.environment,
        correlation=event.correlationid,
        cause=event.causationid,
        about=about_of(event.data),
        title=title_of(event),
    )


def _of_release(stream: str, sequence: int, event: Event[Any]) -> list[Row]:
    data = event.data
    release_id = getattr(data, "release_id", None) or event.correlationid
    if not RELEASE_ID.fullmatch(release_id):
        return []
    slot = f"{stream}:{sequence:012d}"
    if isinstance(data, f.CanaryAssessed):  # each replaces the one before
        slot = f"canary:{data.weight_ratio:g}"
    return [
        row(
            "release_events",
            release_id=release_id,
            slot=slot,
            stream=stream,
            type=event.type,
            at=instant(event.time),
            body=pack(json.dumps(plain(event), separators=(",", ":"), ensure_ascii=False)),
        )
    ]


def _opened(event: Event[f.ReleaseOpened], _sequence: int) -> tuple[Row, ...]:
    data = event.data
    opened = row(
        "releases",
        release_id=data.release_id,
        model=data.model,
        version=data.version,
        run_id=data.training.run_id,
        opened_at=instant(event.time),
        variants=json.dumps(data.variants),
        publishers=json.dumps(data.publishers),
        mode="manual" if needs_approval(data.policy) else "automatic",
    )
    return opened, _state(event, data.release_id, "merging")


def _state(event: Event[Any], release_id: str, state: str, target: str | None = None) -> Row:
    return row("release_states", release_id=release_id, state=state, at=instant(event.time), target=target)


def _step(state: str) -> "Callable[[Event[Any], int], tuple[Row, ...]]":
    """Return what writes that a release has come to a state."""

    def rows(event: Event[Any], _sequence: int) -> tuple[Row, ...]:
        release_id = getattr(event.data, "release_id", None) or event.correlationid
        known = event.environment == "production" and RELEASE_ID.fullmatch(release_id)
        return (_state(event, release_id, state),) if known else ()

    return rows


def _traffic(event: Event[f.TrafficRequested], _sequence: int) -> tuple[Row, ...]:
    state = "canary" if event.data.weight_ratio < 1.0 else "promoting"
    return (_state(event, event.data.release_id, state, target=str(event.data.target.target)),)


def _finished(event: Event[f.ReleaseFinished], _sequence: int) -> tuple[Row, ...]:
    data = event.data
    ended = row(
        "release_ends",
        release_id=data.release_id,
        outcome=data.outcome,
        at=instant(event.time),
        code=data.code,
        reason=data.reason,
        target=str(data.target) if data.target else None,
    )
    return (ended,)


def _deployed(event: Event[f.DeploymentChanged], sequence: int) -> tuple[Row, ...]:
    if event.environment != "production":
        return ()
    data, route = event.data, event.data.route
    canary = route.canary if route.canary is not None and route.canary.weight_ratio > 0 else None
    shown: dict[str, Any] = {
        "at": instant(data.at),
        "epoch": route.epoch,
        "active": str(route.active.target) if route.active else None,
        "previous": str(route.previous.target) if route.previous else None,
        "canary": str(canary.served.target) if canary else None,
        "weight": canary.weight_ratio if canary else None,
    }
    quarantined = json.dumps([str(target) for target in route.quarantined])
    rows = [
        row("routes", model=event.subject, **shown, quarantined=quarantined, body=route.model_dump_json(by_alias=True)),
        row(
            "deployments",
            model=event.subject,
            sequence=sequence,
            **shown,
            cause=data.cause,
            correlation=event.correlationid,
            cause_id=route.cause_id or event.causationid,
        ),
    ]
    if data.cause in ("promote", "rollback"):
        rows.append(row("actives", model=event.subject, since=instant(data.at), cause=data.cause))
    return tuple(rows)


def _alert(event: Event[Any], _sequence: int) -> tuple[Row, ...]:
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
        raised_at=instant(data.raised_at or event.time),
        drill=data.drill,
        release_id=data.release_id,
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


def _rollback(event: Event[Any], _sequence: int) -> tuple[Row, ...]:
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


def _rehearsal(event: Event[f.RehearsalCompleted], _sequence: int) -> tuple[Row, ...]:
    data = event.data
    if not RELEASE_ID.fullmatch(data.release_id):
        return ()
    certificates = [certificate.model_dump(mode="json") for certificate in data.certificates]
    rehearsed = row(
        "rehearsals",
        release_id=data.release_id,
        variant=data.variant,
        model=event.subject,
        at=instant(event.time),
        verdict=data.verdict,
        reason=data.reason,
        certificates=json.dumps(certificates, separators=(",", ":")),
    )
    return (rehearsed,)


def _drill(event: Event[f.DrillOrdered]) -> Row:
    data = event.data
    return row(
        "drills",
        drill_id=event.id,
        model=event.subject,
        at=instant(event.time),
        target=str(data.target),
        environment=data.environment,
        share=data.share_ratio,
        fault=data.fault.model_dump_json(exclude_defaults=True),
        expires_at=instant(data.expires_at),
        by=event.sender,
        reason=data.reason,
    )


def _window(data: f.WindowSummarised, percentile: Ms) -> Row:
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
    )


def _canary(event: Event[f.CanaryAssessed], sequence: int) -> tuple[Row, ...]:
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


_ROWS: Final[Mapping[type[f.Fact], Callable[[Event[Any], int], tuple[Row, ...]]]] = {
    f.ReleaseOpened: _opened,
    f.CheckpointMerged: _step("quantising"),
    f.VersionRegistered: _step("registered"),
    f.StageRequested: _step("staging"),
    f.VariantStaged: _step("benchmarking"),
    f.RehearsalRequested: _step("rehearsing"),
    f.RehearsalCompleted: _rehearsal,
    f.ApprovalRequested: _step("awaiting approval"),
    f.TrafficRequested: _traffic,
    f.CanaryAssessed: _canary,
    f.ReleaseFinished: _finished,
    f.DeploymentChanged: _deployed,
    f.AlertRaised: _alert,
    f.AlertUpdated: _alert,
    f.AlertResolved: _alert,
    f.RollbackStarted: _rollback,
    f.RollbackCompleted: _rollback,
    f.RollbackFailed: _rollback,
}
