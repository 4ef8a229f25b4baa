"""From the evidence about a target to a finding per trigger."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from contracts.facts.watch import AlertKind, Severity
from contracts.policy import PASS_BETA, Trigger
from decisions.evidence.alerts import Finding
from decisions.evidence.candidates import judge
from decisions.evidence.hard_failures import Failures, HardFailure, assess_failures
from decisions.evidence.observation import CALM_REQUESTS, Recent, TriggerState, current_limit, is_calm, recent
from decisions.evidence.triggers import kind_of

HARD_HOLD_S = 60.0
NO_FAILURES = Failures()
HARD_KEYS: dict[AlertKind, str] = {"errors": "all-failing", "quality": "all-empty"}
_HARD_METRICS: dict[AlertKind, str] = {"errors": "error_ratio", "quality": "empty_ratio"}


def assess_triggers(
    states: Mapping[str, TriggerState],
    triggers: Sequence[Trigger],
    now: datetime,
    *,
    failures: Failures = NO_FAILURES,
    endpoints: Collection[str] = (),
    line: float,
    beta: float = PASS_BETA,
) -> tuple[Finding, ...]:
    """Return the finding of every trigger of a target, and of the hard failures that no trigger covers.

    Args:
        states: The evidence, by the name of the trigger; a trigger without observations has none.
        triggers: The triggers that observe request by request (`decisions.evidence.triggers.sequential`).
        now: The time.
        failures: Whether the target may answer nothing, or only empty answers.
        endpoints: Where the target is served.
        line: The evidence at which a trigger of the active target raises an alert.
        beta: The level at which a candidate passes.
    """
    hard = assess_failures(failures, endpoints)
    findings = []
    for trigger in triggers:
        state = states.get(trigger.name)
        if state is not None:
            applies = hard if hard is not None and trigger.metric == _HARD_METRICS[hard.kind] else None
            findings.append(assess_trigger(trigger, state, now, applies, line=line, beta=beta, error=failures.error))
    covered = {trigger.metric for trigger in triggers}
    for kind, metric in _HARD_METRICS.items():  # one that a trigger covers only ends an alert from before its policy
        finding = _assess_hard(kind, failures, hard)
        findings.append(replace(finding, fired=finding.fired and metric not in covered))
    return tuple(findings)


def assess_trigger(
    trigger: Trigger,
    state: TriggerState,
    now: datetime,
    hard: HardFailure | None = None,
    *,
    line: float,
    beta: float = PASS_BETA,
    error: str = "",
) -> Finding:
    """Return the finding of one trigger; `error` is how the last request failed."""
    limit, candidate = current_limit(state, trigger), state.candidate
    calm_requests = CALM_REQUESTS if candidate is None else min(trigger.min_requests, CALM_REQUESTS)
    if candidate is not None:
        fired = judge(candidate, trigger, beta) == "fail"
    else:
        fired = state.detector is not None and state.detector.peak >= line
    calm = hard is None and is_calm(state.slots, trigger.window_s, now, limit=limit, requests=calm_requests)
    # The whole window would hide a regression that began a moment ago among the good requests before it.
    shown = recent(state.slots, trigger.window_s, now, state.first_bad_at)
    message = _message(trigger, shown, limit)
    if hard is not None:
        message = f"{hard.message} {message}"
    elif fired and candidate is not None and candidate.everyone.test.worse.crossed(trigger.alpha):
        own, beside = candidate.candidate, candidate.active
        message = (
            f"Worse than the active version at the same time: bad on {own.bad} of {own.requests} against {beside.bad} "
            f"of {beside.requests}. {message}"
        )
    if kind_of(trigger) == "errors":
        message += _describe_error(error)
    message += _describe_callers(state.callers)
    if shown.drilled:
        message += f" A drill touched {shown.drilled} of the bad ones ({state.drill})."
    return Finding(
        key=trigger.name,
        kind=kind_of(trigger),
        severity=severity_of(trigger),
        trigger=trigger.name,
        fired=fired or hard is not None,
        calm=calm,
        hold_s=trigger.window_s,
        message=message,
        value=shown.ratio,
        limit=limit,
        window=shown.window,
        requests=shown.trials,
        e_value=state.peak,
        first_bad_at=state.first_bad_at,
        drill=state.drill if 2 * shown.drilled >= shown.hits else None,
        answers_nothing=hard is not None and hard.kind == "errors",
    )


def _describe_error(error: str) -> str:
    return f" The last one failed with {error}." if error else ""


def _describe_callers(callers: Mapping[str, int]) -> str:
    """Return who sent most of what was bad, by the names that `slipway keys list --json` has for keys."""
    known = [(caller, bad) for caller, bad in callers.items() if caller]
    most = sorted(known, key=lambda entry: -entry[1])[:3]
    named = ", ".join(f"{caller} ({bad})" for caller, bad in most)
    return f" Most of them by caller: {named}." if named else ""


def severity_of(trigger: Trigger) -> Severity:
    """Return the severity of a trigger's alerts: critical if it rolls back automatically."""
    return "critical" if trigger.action == "automatic" else "warning"


def _message(trigger: Trigger, last: Recent, limit: float) -> str:
    side = "fewer" if trigger.is_lower_bound else "more"
    description = trigger.rule.says.format(threshold=trigger.threshold, side=side)
    share = "none" if last.ratio is None else f"{100 * last.ratio:.3g} %"
    length_s = (last.window.to - last.window.from_).total_seconds()
    counted = f"in the last {length_s:.3g} s ({last.hits} of {last.trials})"
    return f"{share} {description} {counted}; {100 * limit:.3g} % are allowed."


def _assess_hard(kind: AlertKind, failures: Failures, hard: HardFailure | None) -> Finding:
    failure = hard if hard is not None and hard.kind == kind else None
    bad = failures.errors if kind == "errors" else failures.empties
    return Finding(
        key=HARD_KEYS[kind],
        kind=kind,
        severity="critical",
        trigger=None,
        fired=failure is not None,
        calm=failure is None and bad.blocks == 0,
        hold_s=HARD_HOLD_S,
        message=failure.message + _describe_error(failures.error) if failure else "Requests are answered again.",
        requests=bad.last.requests,
        answers_nothing=failure is not None and kind == "errors",
        first_bad_at=failures.began_at if failure else None,
    )
