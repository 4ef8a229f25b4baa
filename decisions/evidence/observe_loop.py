"""The monitor's loop: outcomes of requests become evidence, evidence becomes findings, findings become alerts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import Field

from contracts.facts.watch import AlertKind, Severity
from contracts.policy import FALSE_ALARM_EVERY, PASS_BETA, Trigger
from contracts.vocabulary import Contract, Environment, Target
from decisions.evidence.alerts import AlertFact, AlertState, Finding, decide_alerts
from decisions.evidence.block_tests import Closed, plan_line
from decisions.evidence.candidates import judge
from decisions.evidence.hard_failures import Failures, HardFailure, assess_failures, count_closed, keep_endpoints
from decisions.evidence.observation import (
    CALM_REQUESTS,
    Recent,
    Role,
    TriggerState,
    begin_anew,
    close_trigger,
    current_limit,
    fresh_trigger,
    is_calm,
    observe_outcomes,
    recent,
)
from decisions.evidence.triggers import Outcome, kind_of

UPDATE_EVERY_S = 15.0
HARD_HOLD_S = 60.0
NO_FAILURES = Failures()
HARD_KEYS: dict[AlertKind, str] = {"errors": "all-failing", "quality": "all-empty"}
_HARD_METRICS: dict[AlertKind, str] = {"errors": "error_ratio", "quality": "empty_ratio"}


class WatchedTarget(Contract):
    """A target and the evidence about it.

    Attributes:
        endpoints: Empty if unknown.
        failures: Evidence of hard failures.
        repeats: Failed bodies with their last minute (`without_repeats`).
    """

    target: Target
    role: Role
    weight_ratio: float = 1.0
    release_id: str = ""
    triggers: dict[str, TriggerState] = Field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    failures: Failures = Failures()
    repeats: dict[str, int] = Field(default_factory=dict)


T = TypeVar("T", bound=WatchedTarget)


@dataclass(frozen=True)
class Assessed(Generic[T]):
    """A target and its model's alerts after an assessment, and the facts to publish."""

    watched: T
    alerts: dict[str, AlertState]
    facts: tuple[AlertFact, ...]


def begins_anew(known: WatchedTarget | None, role: Role, weight_ratio: float) -> bool:
    """Return whether the evidence about a target is reset, because its role or share of traffic changes."""
    return known is None or (known.role, known.weight_ratio) != (role, weight_ratio)


def follow_endpoints(watched: T, endpoints: tuple[str, ...]) -> T:
    """Return a target with these endpoints, without evidence about engines of others."""
    failures = keep_endpoints(watched.failures, endpoints)
    return watched.model_copy(update={"endpoints": endpoints, "failures": failures})


def carried(known: WatchedTarget | None, role: Role, triggers: Iterable[Trigger]) -> dict[str, TriggerState]:
    """Return the evidence that a target keeps in a new role or with a new share of traffic.

    A candidate's evidence for passing accumulates over its shadow and all steps, except latency in the shadow, where it
    has almost no load.
    """
    if known is None or role != "canary" or known.role not in ("canary", "shadow"):
        return {}
    kept = [trigger for trigger in triggers if known.role == "canary" or kind_of(trigger) != "latency"]
    names = [trigger.name for trigger in kept if trigger.name in known.triggers]
    return {name: begin_anew(known.triggers[name], role) for name in names}


def observe(watched: T, triggers: Iterable[Trigger], outcomes: Mapping[str, Sequence[Outcome]]) -> T:
    """Return a target with outcomes added to the evidence of its triggers.

    Args:
        watched: The target.
        triggers: The sequential triggers.
        outcomes: Outcomes by name of the trigger, in order of arrival.
    """
    states = dict(watched.triggers)
    for trigger in triggers:
        state = states.get(trigger.name) or fresh_trigger(watched.role)
        states[trigger.name] = observe_outcomes(state, trigger, outcomes.get(trigger.name, ()))
    return watched.model_copy(update={"triggers": states})


def close(watched: T, triggers: Iterable[Trigger], now: datetime | None) -> tuple[T, dict[str, Closed]]:
    """Return a target with its closed blocks as evidence, and these blocks by trigger.

    Args:
        watched: The target.
        triggers: The sequential triggers.
        now: The time; None closes all blocks.
    """
    states, by_trigger = dict(watched.triggers), dict[str, Closed]()
    for trigger in triggers:
        known = states.get(trigger.name)
        if known is not None:
            states[trigger.name], closed = close_trigger(known, trigger, now)
            by_trigger |= {trigger.name: closed} if closed else {}
    failures = count_closed(watched.failures, now)
    if failures is watched.failures and all(states[name] is watched.triggers[name] for name in states):
        return watched, {}
    return watched.model_copy(update={"triggers": states, "failures": failures}), by_trigger


def assess(
    watched: T,
    alerts: Mapping[str, AlertState],
    triggers: Sequence[Trigger],
    now: datetime,
    *,
    update_every_s: float = UPDATE_EVERY_S,
    false_alarm_every: float = FALSE_ALARM_EVERY,
    beta: float = PASS_BETA,
    environment: Environment = "production",
    findings: tuple[Finding, ...] = (),
) -> Assessed[T]:
    """Decide the alerts of a target from its evidence; the evidence of resolved alerts is reset.

    Args:
        watched: The target.
        alerts: The alerts of its model, by key.
        triggers: The sequential triggers.
        now: The time.
        update_every_s: Minimum time between two updates of an alert.
        false_alarm_every: Hours in which all triggers together may have one false alarm.
        beta: Level of the test that a candidate must pass.
        environment: Environment of the target.
        findings: Findings of other checks.
    """
    of_triggers = assess_triggers(
        watched.triggers,
        triggers,
        now,
        failures=watched.failures,
        endpoints=watched.endpoints,
        line=plan_line(false_alarm_every, max(1, len(triggers))),
        beta=beta,
    )
    decided = decide_alerts(
        alerts,
        watched.target,
        (*of_triggers, *findings),
        now,
        environment=environment,
        release_id=watched.release_id or None,
        update_every_s=update_every_s,
    )
    if decided.ended:
        states = {
            name: begin_anew(state, watched.role) if name in decided.ended else state
            for name, state in watched.triggers.items()
        }
        watched = watched.model_copy(update={"triggers": states})
    return Assessed(watched, decided.alerts, decided.facts)


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
    """Return the findings of the triggers, and of hard failures without a trigger.

    Args:
        states: Evidence by name of the trigger.
        triggers: The sequential triggers.
        now: The time.
        failures: Evidence of hard failures.
        endpoints: Endpoints of the target.
        line: Evidence at which a trigger of the active target raises an alert.
        beta: Level of the test that a candidate must pass.
    """
    hard = assess_failures(failures, endpoints)
    findings = []
    for trigger in triggers:
        state = states.get(trigger.name)
        if state is not None:
            applies = hard if hard is not None and trigger.metric == _HARD_METRICS[hard.kind] else None
            findings.append(assess_trigger(trigger, state, now, applies, line=line, beta=beta, error=failures.error))
    covered = {trigger.metric for trigger in triggers}
    for kind, metric in _HARD_METRICS.items():  # with a trigger, only to resolve an alert of an earlier policy
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
    """Return the finding of a trigger; `error` is the error code of the last request."""
    limit, candidate = current_limit(state, trigger), state.candidate
    calm_requests = CALM_REQUESTS if candidate is None else min(trigger.min_requests, CALM_REQUESTS)
    if candidate is not None:
        fired = judge(candidate, trigger, beta) == "fail"
    else:
        fired = state.detector is not None and state.detector.peak >= line
    calm = hard is None and is_calm(state.slots, trigger.window_s, now, limit=limit, requests=calm_requests)
    # The whole window would dilute a regression that has just begun with earlier good requests.
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
    """Return a sentence on the callers with most bad requests (`slipway keys list --json`)."""
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
