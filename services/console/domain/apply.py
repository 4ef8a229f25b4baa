"""Which rows an event of the log is written as. Pure, and without knowledge of earlier events."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from contracts import facts as f
from contracts.envelope import Event, plain
from contracts.services import EVENTS, INBOX
from decisions.release_plan import needs_approval
from decisions.suspensions import describe_suspended
from services.console.domain.logged import Unreadable
from services.console.domain.packing import pack
from services.console.domain.rows import RELEASE_ID, Row, instant, row
from services.console.domain.titles import about_of, title_of
from services.console.domain.watch_rows import (
    Ms,
    alert_rows,
    canary_rows,
    drill_row,
    rehearsal_rows,
    rollback_rows,
    window_row,
)

SUMMARIES: Final = (f.WindowSummarised, f.InferenceBatch, f.WorkProgressed, f.ReleaseProgressed)
"""Figures and live progress: they are no entries of the history."""
_OF_RELEASE: Final = (
    f.ReleaseOpened, f.CheckpointRejected, f.CheckpointMerged, f.VariantQuantised, f.VariantFailed,
    f.VersionRegistered, f.VariantStaged, f.VariantBenchmarked, f.RehearsalCompleted, f.ApprovalRequested,
    f.ApprovalGranted, f.TrafficRequested, f.DeploymentChanged, f.PromotionRefused, f.CanaryAssessed,
    f.ShadowAssessed,
    f.ReleaseFinished, f.ReleaseCancelled, f.ReleaseHeld, f.CanaryAdvanced, f.ApprovalDenied, f.DeadlinePassed,
    f.WorkAbandoned, f.OrderRefused, f.OrderAccepted,
)  # fmt: skip
"""Events whose bodies the screen of a release needs."""


def apply(stream: str, sequence: int, event: Event[Any], percentile: Ms) -> tuple[Row, ...]:
    """Return the rows that an event of a stream is written as; none for what no screen shows."""
    data = event.data
    rows: list[Row] = []
    if not isinstance(data, SUMMARIES):
        rows.append(_history(stream, sequence, event))
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
    """Return the row of who announced what cannot be read; none of other streams, whose senders are services."""
    if message.stream != INBOX:
        return ()
    named = {"stream": message.stream, "sequence": message.sequence}
    return (row("unreadable", **named, model=message.model, sender=message.sender),)


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
    if isinstance(data, f.ShadowAssessed):
        slot = "shadow"
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
    return opened, _state(event, data.release_id, "merging" if data.returns is None else "registered")


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
    state = {0.0: "shadow", 1.0: "promoting"}.get(event.data.weight_ratio, "canary")
    return (_state(event, event.data.release_id, state, target=str(event.data.target.target)),)


def _refused(event: Event[f.CheckpointRejected], _sequence: int) -> tuple[Row, ...]:
    """Return the row of a checkpoint that was refused before a release began; a release shows its own refusal."""
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


def _held(event: Event[f.OrderAccepted], _sequence: int) -> tuple[Row, ...]:
    """Return the row of an order that held a release or let it go on, as the registry accepted it."""
    data = event.data
    if data.order_type != f.ReleaseHeld.TYPE or not RELEASE_ID.fullmatch(event.correlationid):
        return ()
    return (row("release_holds", release_id=event.correlationid, paused=int(data.details.get("paused") is True)),)


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
    f.ReleaseOpened: _opened,
    f.CheckpointRejected: _refused,
    f.CheckpointMerged: _step("quantising"),
    f.VersionRegistered: _step("registered"),
    f.StageRequested: _step("staging"),
    f.VariantStaged: _step("benchmarking"),
    f.RehearsalRequested: _step("rehearsing"),
    f.RehearsalCompleted: rehearsal_rows,
    f.ApprovalRequested: _step("awaiting approval"),
    f.TrafficRequested: _traffic,
    f.CanaryAssessed: canary_rows,
    f.OrderAccepted: _held,
    f.ReleaseFinished: _finished,
    f.DeploymentChanged: _deployed,
    f.AlertRaised: alert_rows,
    f.AlertUpdated: alert_rows,
    f.AlertResolved: alert_rows,
    f.RollbackStarted: rollback_rows,
    f.RollbackCompleted: rollback_rows,
    f.RollbackFailed: rollback_rows,
}
