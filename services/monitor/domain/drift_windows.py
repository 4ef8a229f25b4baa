"""Drift windows in a target's record: full windows, and their use as reference or comparison. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from contracts.facts.watch import Window
from contracts.policy import Trigger
from contracts.vocabulary import ArtifactRef, Target, digest_of_json
from decisions.evidence.alerts import Finding, decide_alerts
from decisions.evidence.observe_loop import severity_of
from decisions.evidence.triggers import find_trigger
from services.monitor.domain.drift import DEFAULT_ALPHA, DEFAULT_FLOOR, DriftVerdict
from services.monitor.domain.monitoring import Cause, Rules, add_alerts
from services.monitor.domain.record import DriftState, MonitorState, Policy, Reference, TargetState

TWO_COMPARISONS_S = 1.0
"""Hold time of a drift alert: the second consecutive comparison without drift resolves it."""
KEY = "drift"


@dataclass(frozen=True)
class FullWindow:
    """A target's drift window with enough answers, to become the reference or be compared with it."""

    target: Target
    columns: Mapping[str, tuple[float, ...]]
    began_at: datetime
    ended_at: datetime
    reference: Reference | None
    alpha: float
    floor: float

    @property
    def seed(self) -> int:
        """The seed of resampling, determined by the reference."""
        digest = self.reference.ref.digest if self.reference else digest_of_json(str(self.target))
        return int(digest.removeprefix("sha256:")[:12], 16)


def full_windows(state: MonitorState, rules: Rules) -> tuple[FullWindow, ...]:
    """Return the drift windows with at least `drift_rows` answers, at most one per target."""
    windows = []
    for watched in state.targets.values():
        drift = watched.drift
        rows = min((len(values) for values in drift.columns.values()), default=0)
        if rows >= rules.drift_rows and drift.began_at is not None and drift.ended_at is not None:
            trigger = trigger_of(state.policies.get(str(watched.target.version)))
            windows.append(
                FullWindow(
                    target=watched.target,
                    columns=drift.columns,
                    began_at=drift.began_at,
                    ended_at=drift.ended_at,
                    reference=drift.reference,
                    alpha=trigger.alpha if trigger else DEFAULT_ALPHA,
                    floor=max(trigger.threshold, 0.0) if trigger else DEFAULT_FLOOR,
                )
            )
    return tuple(windows)


def trigger_of(policy: Policy | None) -> Trigger | None:
    """Return the policy's drift trigger; None without one."""
    return find_trigger(policy.triggers, "drift") if policy else None


def add_reference(state: MonitorState, window: FullWindow, reference: Reference) -> MonitorState:
    """Set a target's drift reference; a window that became the reference is cleared."""
    watched = state.targets.get(str(window.target))
    if watched is None or watched.drift.began_at != window.began_at or watched.drift.reference is not None:
        return state
    own = reference.taken_at == window.ended_at
    drift = DriftState(reference=reference) if own else watched.drift.model_copy(update={"reference": reference})
    return _with_drift(state, watched, drift)


def add_comparison(
    state: MonitorState,
    window: FullWindow,
    verdict: DriftVerdict,
    evidence: ArtifactRef | None,
    *,
    cause: Cause,
    rules: Rules,
) -> MonitorState:
    """Decide a target's drift alert after a comparison, and begin its next window."""
    watched = state.targets.get(str(window.target))
    if watched is None or watched.drift.began_at != window.began_at or watched.drift.reference != window.reference:
        return state
    policy = state.policies.get(str(watched.target.version))
    decided = decide_alerts(
        state.alerts,
        watched.target,
        [_finding(window, verdict, evidence, trigger_of(policy))],
        cause.at,
        environment=state.environment,
        release_id=policy.release_id if policy else None,
        update_every_s=rules.update_every_s,
    )
    drift = DriftState(reference=watched.drift.reference, compared=watched.drift.compared + 1)
    return add_alerts(_with_drift(state, watched, drift), decided.alerts, decided.facts, cause, watched)


def _finding(
    window: FullWindow, verdict: DriftVerdict, evidence: ArtifactRef | None, trigger: Trigger | None
) -> Finding:
    drifted = verdict.drifted
    farthest = max(verdict.columns, key=lambda item: item.statistic, default=None)
    shown = drifted[0] if drifted else farthest
    names = ", ".join(f"{item.column} ({item.statistic:.2f})" for item in drifted)
    version = window.reference.version if window.reference else 0
    message = (
        f"Drift against reference {version}: {names}; Kolmogorov-Smirnov distance over {verdict.current_rows} answers."
        if drifted
        else f"No drift against reference {version} over {verdict.current_rows} answers."
    )
    return Finding(
        key=trigger.name if trigger else KEY,
        kind="drift",
        severity=severity_of(trigger) if trigger else "warning",
        trigger=trigger.name if trigger else None,
        fired=bool(drifted),
        calm=not drifted,
        hold_s=TWO_COMPARISONS_S,
        message=message,
        value=shown.statistic if shown else None,
        limit=shown.floor if shown else None,
        window=Window.model_validate({"from": window.began_at, "to": window.ended_at}),
        requests=verdict.current_rows,
        first_bad_at=window.began_at if drifted else None,
        evidence=evidence,
    )


def _with_drift(state: MonitorState, watched: TargetState, drift: DriftState) -> MonitorState:
    changed = watched.model_copy(update={"drift": drift})
    return state.model_copy(update={"targets": {**state.targets, str(watched.target): changed}})
