"""Alerts: raised once, told again while they last, resolved only after it has been calm for a while."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated
from contracts.facts.watch import AlertKind, Severity, Window
from contracts.vocabulary import ArtifactRef, Environment, Target
from services.monitor.domain.record import AlertState

AlertFact = AlertRaised | AlertUpdated | AlertResolved
RUNBOOKS: dict[AlertKind, str] = {
    kind: f"docs/runbooks/{kind}.md" for kind in ("latency", "errors", "quality", "drift", "standby", "engine", "clock")
}


@dataclass(frozen=True)
class Finding:
    """What the evidence says about one trigger of one target at this moment.

    Attributes:
        key: the trigger's name, or the name of what watches without a trigger.
        fired: the evidence is strong enough to raise an alert.
        calm: the condition is gone, as far as the last window shows.
        hold_s: how long it must stay calm before the alert is resolved.
    """

    key: str
    kind: AlertKind
    severity: Severity
    trigger: str | None
    fired: bool
    calm: bool
    hold_s: float
    message: str
    value: float | None = None
    limit: float | None = None
    window: Window | None = None
    requests: int | None = None
    e_value: float | None = None
    first_bad_at: datetime | None = None
    drill: str | None = None
    evidence: ArtifactRef | None = None


@dataclass(frozen=True)
class Decided:
    """The alerts afterwards, what is to be said, and which keys start again with no evidence."""

    alerts: dict[str, AlertState]
    facts: tuple[AlertFact, ...]
    ended: tuple[str, ...] = ()


def alert_key(target: Target, key: str) -> str:
    """Return the key of an alert among those of its model."""
    return f"{target}/{key}"


def alert_id(environment: Environment, target: Target, key: str, occurrence: int) -> str:
    """Return an alert's stable id: the same from its raising to its resolution, another the next time."""
    prefix = "staging/" if environment == "staging" else ""
    return f"{prefix}{alert_key(target, key)}/{occurrence}"


def decide_alerts(
    alerts: Mapping[str, AlertState],
    target: Target,
    findings: Iterable[Finding],
    now: datetime,
    *,
    environment: Environment,
    release_id: str | None,
    update_every_s: float,
) -> Decided:
    """Decide which alerts of a target are raised, told again or resolved."""
    after, facts, ended = dict(alerts), list[AlertFact](), list[str]()
    for finding in findings:
        key = alert_key(target, finding.key)
        known = after.get(key)
        if known is None or not known.open:
            if finding.fired:
                raised = _raised(known, target, finding, now, environment)
                after[key] = raised
                facts.append(AlertRaised(**_told(raised, release_id)))
            continue
        step = _step(known, finding, now, update_every_s)
        after[key] = step
        if not step.open:
            ended.append(finding.key)
            facts.append(AlertResolved(**_told(step, release_id)))
        elif step.updates != known.updates:
            facts.append(AlertUpdated(**_told(step, release_id)))
    return Decided(after, tuple(facts), tuple(ended))


def resolve_all(
    alerts: Mapping[str, AlertState], target: Target, now: datetime, *, release_id: str | None, reason: str
) -> Decided:
    """Resolve every open alert of a target that is watched no longer."""
    after, facts = dict(alerts), list[AlertFact]()
    for key, alert in alerts.items():
        if alert.target == target and alert.open:
            over = alert.model_copy(update={"open": False, "told_at": now, "message": reason})
            after[key] = over
            facts.append(AlertResolved(**_told(over, release_id)))
    return Decided(after, tuple(facts))


def _raised(
    known: AlertState | None, target: Target, finding: Finding, now: datetime, environment: Environment
) -> AlertState:
    occurrence = known.occurrence + 1 if known else 1
    return AlertState(
        alert_id=alert_id(environment, target, finding.key, occurrence),
        occurrence=occurrence,
        kind=finding.kind,
        severity=finding.severity,
        target=target,
        trigger=finding.trigger,
        raised_at=now,
        told_at=now,
        **_figures(finding),
    )


def _step(known: AlertState, finding: Finding, now: datetime, update_every_s: float) -> AlertState:
    """Return an open alert's next state; `updates` rises when it is to be told again."""
    if finding.calm:
        since = known.calm_since or now
        if (now - since).total_seconds() < finding.hold_s:
            return known if known.calm_since else known.model_copy(update={"calm_since": since})
        figures = {**_figures(finding), "first_bad_at": known.first_bad_at, "drill": finding.drill or known.drill}
        figures["evidence"] = finding.evidence or known.evidence
        return known.model_copy(update={**figures, "open": False, "told_at": now, "calm_since": since})
    step = known.model_copy(update={"calm_since": None}) if known.calm_since else known
    changed = (finding.value, finding.requests) != (known.value, known.requests)
    if (now - known.told_at).total_seconds() < update_every_s or not changed:
        return step
    figures = {**_figures(finding), "first_bad_at": known.first_bad_at or finding.first_bad_at}
    figures["evidence"] = finding.evidence or known.evidence
    return step.model_copy(update={**figures, "told_at": now, "updates": known.updates + 1})


def _figures(finding: Finding) -> dict[str, object]:
    return {
        "value": finding.value,
        "limit": finding.limit,
        "window": finding.window,
        "requests": finding.requests,
        "e_value": finding.e_value,
        "first_bad_at": finding.first_bad_at,
        "drill": finding.drill,
        "evidence": finding.evidence,
        "message": finding.message,
    }


def _told(alert: AlertState, release_id: str | None) -> dict[str, object]:
    names = (
        "alert_id",
        "kind",
        "severity",
        "target",
        "trigger",
        "value",
        "limit",
        "window",
        "requests",
        "evidence",
        "message",
        "e_value",
        "first_bad_at",
        "raised_at",
        "drill",
    )
    return {
        **{name: getattr(alert, name) for name in names},
        "runbook": RUNBOOKS[alert.kind],
        "release_id": release_id or None,
    }
