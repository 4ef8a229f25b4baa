"""Maps an event of the log to rows of the index. Pure, and independent of earlier events."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from contracts import facts as f
from contracts.envelope import Event, plain, short_type
from contracts.services import EVENTS, INBOX
from decisions.rollback.suspensions import describe_suspended
from services.console.domain.logged import Unreadable
from services.console.domain.packing import pack
from services.console.domain.rows import RELEASE_ID, Row, instant, row
from services.console.domain.titles import about_of, title_of
from services.console.domain.watch_rows import (
    Ms,
    alert_rows,
    canary_rows,
    drill_row,
    rollback_rows,
    window_row,
)

SUMMARIES: Final = (f.WindowSummarised, f.InferenceBatch, f.WorkProgressed, f.ReleaseProgressed)
"""Events with figures or live progress, which the history leaves out."""
_OF_RELEASE: Final = (
    f.ReleaseOpened, f.CheckpointMerged, f.VariantQuantised, f.VersionRegistered, f.VariantBenchmarked,
    f.VariantEvaluated, f.RehearsalCompleted, f.ApprovalRequested, f.CanaryAssessed, f.ShadowAssessed,
    f.ReleaseProgressed,
)  # fmt: skip
"""Events whose bodies the release page needs."""


def apply(stream: str, sequence: int, event: Event[Any], percentile: Ms) -> tuple[Row, ...]:
    """Return the rows of an event; none if no page shows it."""
    data = event.data
    rows: list[Row] = []
    if not isinstance(data, SUMMARIES):
        rows.append(
            row(
                "events",
                stream=stream,
                sequence=sequence,
                id=event.id,
                at=instant(event.time),
                type=short_type(event.type),
                model=event.subject,
                sender=event.sender,
                environment=event.environment,
                correlation=event.correlationid,
                cause=event.causationid,
                about=about_of(event.data),
                title=title_of(event),
            )
        )
    if isinstance(data, _OF_RELEASE) and event.environment == "production":
        rows += _of_release(stream, sequence, event)
    if isinstance(data, f.DrillOrdered):
        rows.append(drill_row(event))
    if stream == EVENTS:
        of_type = _ROWS.get(type(data))
        rows += of_type(event, sequence) if of_type is not None else ()
        if isinstance(data, f.WindowSummarised) and event.environment == "production":
            rows.append(window_row(data, percentile))
    return tuple(rows)


def apply_unreadable(message: Unreadable) -> tuple[Row, ...]:
    """Return the row with an unreadable announcement's sender; none for other streams: services send those."""
    if message.stream != INBOX:
        return ()
    named = {"stream": message.stream, "sequence": message.sequence}
    return (row("unreadable", **named, model=message.model, sender=message.sender),)


def _of_release(stream: str, sequence: int, event: Event[Any]) -> list[Row]:
    data = event.data
    release_id = getattr(data, "release_id", None) or event.correlationid
    if not RELEASE_ID.fullmatch(release_id):
        return []
    slot = f"{stream}:{sequence:012d}"
    if isinstance(data, f.CanaryAssessed):  # a newer assessment replaces an older one
        slot = f"canary:{data.weight_ratio:g}"
    if isinstance(data, f.ShadowAssessed | f.ReleaseProgressed):
        slot = event.type
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


def _progressed(event: Event[f.ReleaseProgressed], _sequence: int) -> tuple[Row, ...]:
    release = event.data.progress
    known = row(
        "releases",
        release_id=event.data.release_id,
        model=release.model,
        version=release.version,
        run_id=release.run_id,
        opened_at=instant(release.opened_at),
        publishers=json.dumps(release.publishers),
        mode="manual" if release.manual else "automatic",
        state=release.state,
        state_at=instant(release.since),
        target=str(release.target) if release.target else None,
        paused=int(bool(release.paused)),
        outcome=release.outcome,
        code=release.code,
        reason=release.reason,
    )
    return (known,)


def _refused(event: Event[f.CheckpointRejected], _sequence: int) -> tuple[Row, ...]:
    """Return the row of a checkpoint that was refused before its release opened; releases record later refusals."""
    data = event.data
    if RELEASE_ID.fullmatch(event.correlationid):
        return ()
    refused = row(
        "refused_checkpoints",
        event_id=event.id,
        model=event.subject,
        at=instant(event.time),
        run_id=event.correlationid,
        announcement=event.causationid,
        code=data.code,
        reason=data.reason,
    )
    return (refused,)


def _deployed(event: Event[f.DeploymentChanged], sequence: int) -> tuple[Row, ...]:
    if event.environment != "production":
        return ()
    data, route = event.data, event.data.route
    canary = route.canary_in_traffic
    shown: dict[str, Any] = {
        "at": instant(data.at),
        "epoch": route.epoch,
        "active": str(route.active.target) if route.active else None,
        "previous": str(route.previous.target) if route.previous else None,
        "canary": str(canary.served.target) if canary else None,
        "weight": canary.weight_ratio if canary else None,
        "shadow": str(route.shadowed.target) if route.shadowed else None,
        "shadow_share": route.shadow.share_ratio if route.shadow and route.shadowed else None,
    }
    quarantined = json.dumps([str(target) for target in route.quarantined])
    suspended = json.dumps(
        [
            {
                "target": str(each.served.target),
                "cause": each.cause,
                "since": instant(each.since),
                "judgement": describe_suspended(route, each),
            }
            for each in route.suspended
        ]
    )
    barred = {"quarantined": quarantined, "suspended": suspended}
    rows = [
        row("routes", model=event.subject, **shown, **barred, body=route.model_dump_json(by_alias=True)),
        row(
            "deployments",
            model=event.subject,
            sequence=sequence,
            **shown,
            quarantined=quarantined if route.quarantined else None,
            cause=data.cause,
            correlation=event.correlationid,
            cause_id=route.cause_id or event.causationid,
        ),
    ]
    if data.cause in ("promote", "rollback", "return"):
        rows.append(row("actives", model=event.subject, since=instant(data.at), cause=data.cause))
    return tuple(rows)


_ROWS: Final[Mapping[type[f.Fact], Callable[[Event[Any], int], tuple[Row, ...]]]] = {
    f.ReleaseProgressed: _progressed,
    f.CheckpointRejected: _refused,
    f.CanaryAssessed: canary_rows,
    f.DeploymentChanged: _deployed,
    f.AlertRaised: alert_rows,
    f.AlertUpdated: alert_rows,
    f.AlertResolved: alert_rows,
    f.RollbackStarted: rollback_rows,
    f.RollbackCompleted: rollback_rows,
    f.RollbackFailed: rollback_rows,
}
