"""Alerts: raised, updated, and resolved some time after the condition ended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from contracts.facts import AlertRaised, AlertResolved, AlertUpdated
from contracts.facts.watch import AlertKind, Severity, Window
from contracts.records import OutboxEntry, outbox_entry
from contracts.vocabulary import ArtifactRef, Contract, Environment, Target

AlertFact = AlertRaised | AlertUpdated | AlertResolved
A = TypeVar("A", AlertRaised, AlertResolved)
RUNBOOKS: dict[AlertKind, str] = {
    kind: f"docs/runbooks/{kind}.md"
    for kind in (
        *("latency", "errors", "quality", "drift", "standby", "engine", "provenance", "store", "blind", "suspended"),
    )
}
LOST = "The record of this alert was lost. If what it says lasts, it is raised again."
_FIGURES = (
    *("value", "limit", "window", "requests", "e_value", "first_bad_at", "drill", "evidence", "message"),
    "answers_nothing",
)
_IDENTITY = ("alert_id", "kind", "severity", "target", "trigger", "raised_at")


class AlertState(Contract):
    """An open alert, or the last alert of its key.

    Attributes:
        published_at: Time of the last fact.
        calm_since: End of the condition; None while it lasts.
    """

    alert_id: str
    kind: AlertKind
    severity: Severity
    target: Target
    trigger: str | None
    open: bool = True
    raised_at: datetime
    published_at: datetime
    calm_since: datetime | None = None
    value: float | None = None
    limit: float | None = None
    window: Window | None = None
    requests: int | None = None
    e_value: float | None = None
    first_bad_at: datetime | None = None
    drill: str | None = None
    evidence: ArtifactRef | None = None
    message: str = ""
    answers_nothing: bool = False
    updates: int = 0


@dataclass(frozen=True)
class PlainAlert:
    """An alert without figures that a record raises and resolves."""

    alert_id: str
    kind: AlertKind
    severity: Severity
    target: Target
    raised_at: datetime
    environment: Environment = "production"

    def fact(self, fact: type[A], message: str) -> A:
        """Return the fact that raises or resolves the alert."""
        return fact(
            alert_id=self.alert_id,
            kind=self.kind,
            severity=self.severity,
            target=self.target,
            runbook=RUNBOOKS[self.kind],
            raised_at=self.raised_at,
            message=message,
        )

    def entry(self, change: Literal["raised", "resolved"], message: str, now: datetime) -> OutboxEntry:
        """Return the fact that raises or resolves the alert as an outbox entry."""
        return outbox_entry(
            self.fact(AlertRaised, message) if change == "raised" else self.fact(AlertResolved, message),
            model=self.target.model,
            environment=self.environment,
            cause_id=None,
            id=f"{self.alert_id}-{self.raised_at.isoformat()}-{change}",
            correlation_id=self.alert_id,
            decided_at=now,
        )


@dataclass(frozen=True)
class Finding:
    """The current evidence of a trigger or another check about a target.

    Attributes:
        key: Name of the trigger or check.
        fired: Whether the evidence raises an alert.
        calm: Whether the condition is absent in the last window.
        hold_s: Seconds of `calm` before the alert is resolved.
        answers_nothing: The target is down: last replica dead, loaded nowhere, or all recent requests failed.
        drill: Drill that affected at least half of the bad requests.
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
    answers_nothing: bool = False


@dataclass(frozen=True)
class Decided:
    """The alerts after a decision, the facts to publish, and the keys of resolved alerts."""

    alerts: dict[str, AlertState]
    facts: tuple[AlertFact, ...]
    ended: tuple[str, ...] = ()


def alert_key(target: Target, key: str) -> str:
    """Return the key of an alert among the alerts of its model."""
    return f"{target}/{key}"


def alert_id(environment: Environment, target: Target, key: str, raised_at: datetime) -> str:
    """Return the id of an alert, constant until it is resolved."""
    prefix = "staging/" if environment == "staging" else ""
    return f"{prefix}{alert_key(target, key)}/{raised_at:%Y%m%dT%H%M%S.%fZ}"


def resolve_lost(alert: AlertRaised) -> AlertResolved:
    """Return the resolution of an open alert with a lost record."""
    return AlertResolved.model_validate({**alert.model_dump(), "message": LOST})


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
    """Decide which alerts of a target are raised, updated or resolved.

    Args:
        alerts: The alerts of the model, by key.
        target: The target.
        findings: The evidence of each trigger and check.
        now: The time.
        environment: Environment of the target.
        release_id: Release of the target.
        update_every_s: Minimum time between two updates of an alert.
    """
    after, facts, ended = dict(alerts), list[AlertFact](), list[str]()
    for finding in findings:
        key = alert_key(target, finding.key)
        alert = after.get(key)
        if alert is None or not alert.open:
            if finding.fired:
                after[key] = _raise(target, finding, now, environment)
                facts.append(AlertRaised(**_fields_of(after[key], release_id)))
            continue
        after[key] = _continue(alert, finding, now, update_every_s)
        if not after[key].open:
            ended.append(finding.key)
            facts.append(AlertResolved(**_fields_of(after[key], release_id)))
        elif after[key].updates != alert.updates:
            facts.append(AlertUpdated(**_fields_of(after[key], release_id)))
    return Decided(after, tuple(facts), tuple(ended))


def resolve_all(
    alerts: Mapping[str, AlertState], target: Target, now: datetime, *, release_id: str | None, reason: str
) -> Decided:
    """Resolve all open alerts of a target that is no longer watched."""
    after, facts = dict(alerts), list[AlertFact]()
    for key, alert in alerts.items():
        if alert.target == target and alert.open:
            after[key] = alert.model_copy(update={"open": False, "published_at": now, "message": reason})
            facts.append(AlertResolved(**_fields_of(after[key], release_id)))
    return Decided(after, tuple(facts))


def drop_alerts(alerts: Mapping[str, AlertState], gone: Callable[[str, AlertState], bool]) -> dict[str, AlertState]:
    """Return the alerts without resolved ones about objects that are no longer watched.

    Args:
        alerts: The alerts of a model, by key.
        gone: Returns whether the object of a key and alert is no longer watched.
    """
    return {key: alert for key, alert in alerts.items() if alert.open or not gone(key, alert)}


def _raise(target: Target, finding: Finding, now: datetime, environment: Environment) -> AlertState:
    return AlertState(
        alert_id=alert_id(environment, target, finding.key, now),
        kind=finding.kind,
        severity=finding.severity,
        target=target,
        trigger=finding.trigger,
        raised_at=now,
        published_at=now,
        **_figures(finding),
    )


def _continue(alert: AlertState, finding: Finding, now: datetime, update_every_s: float) -> AlertState:
    """Return an open alert's next state; `updates` rises if an update is to be published."""
    if finding.calm:
        since = alert.calm_since or now
        if (now - since).total_seconds() < finding.hold_s:
            return alert if alert.calm_since else alert.model_copy(update={"calm_since": since})
        figures = {**_figures(finding), "first_bad_at": alert.first_bad_at, "drill": finding.drill or alert.drill}
        figures["evidence"] = finding.evidence or alert.evidence
        return alert.model_copy(update={**figures, "open": False, "published_at": now, "calm_since": since})
    after = alert.model_copy(update={"calm_since": None}) if alert.calm_since else alert
    changed = (finding.value, finding.requests) != (alert.value, alert.requests)
    due = changed and (now - alert.published_at).total_seconds() >= update_every_s
    if not due and alert.answers_nothing == finding.answers_nothing:
        return after
    figures = {**_figures(finding), "first_bad_at": alert.first_bad_at or finding.first_bad_at}
    figures["evidence"] = finding.evidence or alert.evidence
    figures["drill"] = finding.drill or (None if _exceeds(finding) else alert.drill)
    return after.model_copy(update={**figures, "published_at": now, "updates": alert.updates + 1})


def _exceeds(finding: Finding) -> bool:
    """Return whether a finding is beyond its limit now."""
    return finding.value is not None and finding.limit is not None and finding.value > finding.limit


def _figures(finding: Finding) -> dict[str, object]:
    return {name: getattr(finding, name) for name in _FIGURES}


def _fields_of(alert: AlertState, release_id: str | None) -> dict[str, object]:
    fields = {name: getattr(alert, name) for name in (*_IDENTITY, *_FIGURES)}
    return {**fields, "runbook": RUNBOOKS[alert.kind], "release_id": release_id or None}
