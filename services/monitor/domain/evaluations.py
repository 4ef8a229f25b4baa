"""Alerts on served versions with evaluation scores below those at release, confirmed by two checks. Pure."""

from contracts.facts import EvaluationCheck, VersionEvaluated
from contracts.policy import Trigger
from decisions.evidence.alerts import Finding, decide_alerts
from decisions.evidence.observe_loop import severity_of
from decisions.evidence.triggers import find_trigger
from services.monitor.domain.monitoring import Cause, Rules, add_alerts
from services.monitor.domain.record import MonitorState

PREVIOUS = "previous-evaluations"
"""Key of the alert on fallen scores of the previous version, the standby."""
TOGETHER = "both-evaluations"
"""Key of the alert on fallen scores of both active and previous version."""


def add_check(state: MonitorState, checked: VersionEvaluated, cause: Cause, rules: Rules) -> MonitorState:
    """Return the record after a check of served versions; unchanged if the checked version is no longer active.

    Fallen scores of the active version raise its trigger's alert. If the previous version's fell, too, the alert has
    no trigger and moves no traffic: engine or machine are at fault, or a rollback would not help. An undecided check
    changes neither alert.
    """
    active, previous = checked.checks[0], next(iter(checked.checks[1:]), None)
    watched, policy = state.targets.get(str(active.target)), state.policies.get(str(active.target.version))
    trigger = find_trigger(policy.triggers, "evaluation_drop") if policy is not None else None
    if watched is None or watched.role != "active" or policy is None or trigger is None:
        return state
    findings = []
    if not active.is_fallen or any(result.verdict == "fail" for result in active.results):
        together = previous is not None and previous.is_fallen
        findings.append(_find_fall(active, trigger, checked, trigger.name, applies=not together))
        findings.append(_find_fall(active, trigger, checked, TOGETHER, applies=together))
    findings.append(_find_fall_behind(previous, checked))
    decided = decide_alerts(
        state.alerts,
        watched.target,
        findings,
        cause.at,
        environment=state.environment,
        release_id=policy.release_id,
        update_every_s=rules.update_every_s,
    )
    return add_alerts(state, decided.alerts, decided.facts, cause, watched)


def _find_fall(
    check: EvaluationCheck, trigger: Trigger, checked: VersionEvaluated, key: str, *, applies: bool
) -> Finding:
    decisive = {"missed"} if check.is_fallen else {"met", "undecided"}
    limits = [limit for result in check.results for limit in result.limits if limit.decision in decisive]
    worst = max(limits, key=lambda limit: limit.value or 0.0, default=None)
    return Finding(
        key=key,
        kind="quality",
        severity=severity_of(trigger),
        trigger=trigger.name if key == trigger.name else None,
        fired=check.is_fallen and check.lasts and applies,
        calm=not applies if check.is_fallen else check.lasts,
        hold_s=0.0,
        message=checked.message,
        value=worst.value if worst is not None else None,
        limit=trigger.threshold,
        requests=sum(result.asked for result in check.results),
        first_bad_at=checked.checked_at if check.is_fallen else None,
    )


def _find_fall_behind(check: EvaluationCheck | None, checked: VersionEvaluated) -> Finding:
    is_fallen = check is not None and check.is_fallen and check.lasts
    return Finding(
        key=PREVIOUS,
        kind="standby",
        severity="warning",
        trigger=None,
        fired=is_fallen,
        calm=check is None or (not check.is_fallen and check.lasts),
        hold_s=0.0,
        message=checked.message,
    )
