"""The title of an event in plain text, and the ID of the alert, order or rollback that it is about. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from contracts import facts as f
from contracts.envelope import Event
from decisions.rollback.suspensions import RETURNS

LONGEST: Final = 400
_FIELDS: Final = ("alert_id", "rollback_id", "order_id")


def about_of(data: f.Fact) -> str | None:
    """Return the ID of the alert, rollback or order of an event; None if it has none."""
    return next((str(value) for name in _FIELDS if (value := getattr(data, name, None))), None)


def title_of(event: Event[Any]) -> str:
    """Return an event's title, one line of at most `LONGEST` characters."""
    say = _SAY.get(type(event.data))
    text = say(event.data) if say is not None else _reason(event.data)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _reason(data: f.Fact) -> str:
    return str(getattr(data, "reason", "") or "")


def _deployed(data: f.DeploymentChanged) -> str:
    route = data.route
    if data.cause == "shadow" and route.shadow is not None:
        return f"{route.shadow.served.target} is asked {route.shadow.share_ratio:.0%} of the requests unseen"
    if data.cause == "canary" and route.canary is not None:
        return f"{route.canary.served.target} takes {route.canary.weight_ratio:.0%}"
    away_until = route.canary.away_until if data.cause == "judge" and route.canary is not None else None
    if route.canary is not None and away_until is not None and data.at < away_until:
        return f"{route.canary.served.target} takes nothing until {away_until:%H:%M:%S} UTC: both versions are bad"
    return f"{data.cause}: {route.active.target if route.active else 'nothing'} serves"


def _rollback(data: Any) -> str:
    to = f" to {data.to}" if data.to is not None else ""
    detail = getattr(data, "code", None) or getattr(data, "verdict", None)
    return f"{data.failed}{to}, {data.mode}" + (f": {detail}" if detail else "")


def _drill(data: f.DrillOrdered) -> str:
    return f"{data.target} in {data.environment}, {data.share_ratio:.0%} of requests: {data.reason}"


_SAY: Final[Mapping[type[f.Fact], Callable[[Any], str]]] = {
    f.CheckpointReady: lambda data: f"run {data.training.run_id}, {data.weights.kind}, on {data.base.name}",
    f.ReleaseOpened: lambda data: (
        f"version {data.version} reserved for run {data.training.run_id}"
        if data.returns is None
        else f"{data.returns.target} {RETURNS}"
    ),
    f.CheckpointRejected: lambda data: f"{data.code}: {data.reason}",
    f.CheckpointMerged: lambda data: f"merged as {data.method.dtype} in {data.duration_s:.0f} s",
    f.VariantRequested: lambda data: data.variant,
    f.VariantQuantised: lambda data: f"{data.variant}: perplexity x{data.quality.perplexity_ratio:.3f}",
    f.VariantFailed: lambda data: f"{data.variant}: {data.code}: {data.reason}",
    f.VersionRegistered: lambda data: f"version {data.version}",
    f.StageRequested: lambda data: f"{data.candidate.target} for its {data.purpose}",
    f.StageReleased: lambda data: f"{data.candidate}, {data.purpose or 'all leases'}",
    f.VariantStaged: lambda data: f"{data.candidate.target} in {data.load_s:.0f} s",
    f.VariantBenchmarked: lambda data: f"{data.target}: {data.verdict}",
    f.VariantEvaluated: lambda data: f"{data.target}: {data.verdict}: {data.reason}",
    f.RehearsalRequested: lambda data: f"{data.candidate.target}, back to {data.fallback.target}",
    f.RehearsalCompleted: lambda data: f"{data.variant}: {data.verdict}: {data.reason}",
    f.ApprovalRequested: lambda data: f"{data.target} until {data.deadline_at:%Y-%m-%d %H:%M} UTC",
    f.TrafficRequested: lambda data: (
        f"{data.target.target} is to take {data.weight_ratio:.0%}"
        if data.weight_ratio > 0.0
        else f"{data.target.target} is to be asked {data.shadow_ratio:.0%} of the requests unseen"
    ),
    f.DeploymentChanged: _deployed,
    f.PromotionRefused: lambda data: f"{data.target}: {data.code}: {data.reason}",
    f.ApprovalDenied: lambda data: f"rejected: {data.reason}",
    f.CanaryAssessed: lambda data: f"{data.target}: {data.verdict} after {data.requests} requests",
    f.ShadowAssessed: lambda data: f"{data.target}: {data.verdict} after {data.requests} requests compared",
    f.DeadlinePassed: lambda data: f"{data.step}: {data.waiting_for}",
    f.RecordOrdered: lambda data: f"{data.kind} {data.name} is to be {'stored' if data.record else 'removed'}",
    f.ReleaseFinished: lambda data: f"{data.outcome}: {data.reason}",
    f.RollbackOrdered: lambda data: f"{data.failed or 'the active target'}: {data.reason}",
    f.DrillOrdered: _drill,
    f.SuspensionDecided: lambda data: f"{data.decision} {data.target}: {data.reason}",
    f.SuspensionJudged: lambda data: f"{data.target}: {data.verdict}: {data.reason}",
    f.AuditRecorded: lambda data: f"{data.action} {data.about}",
    f.OrderAccepted: lambda data: data.order_type.removeprefix("slipway."),
    f.OrderRefused: lambda data: f"{data.code}: {data.reason}",
    f.AlertRaised: lambda data: data.message,
    f.AlertUpdated: lambda data: data.message,
    f.AlertResolved: lambda data: data.message,
    f.VersionEvaluated: lambda data: data.message,
    f.RollbackStarted: _rollback,
    f.RollbackCompleted: _rollback,
    f.RollbackFailed: _rollback,
}
