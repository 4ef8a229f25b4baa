"""The observe loop: outcomes of requests become evidence, evidence becomes findings, findings become alerts.

The monitor runs it over live telemetry, `slipway replay` over recorded windows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import Field

from contracts.policy import FALSE_ALARM_EVERY, PASS_BETA, Trigger
from contracts.vocabulary import Contract, Environment, Target
from decisions.evidence.alerts import AlertFact, AlertState, Finding, decide_alerts
from decisions.evidence.block_tests import plan_line
from decisions.evidence.findings import assess_triggers
from decisions.evidence.hard_failures import Failures, count_closed, keep_endpoints
from decisions.evidence.observation import (
    Role,
    TriggerState,
    begin_anew,
    close_trigger,
    fresh_trigger,
    observe_outcomes,
)
from decisions.evidence.open_blocks import Closed
from decisions.evidence.triggers import Outcome, kind_of

UPDATE_EVERY_S = 15.0


class WatchedTarget(Contract):
    """A target and the evidence about it.

    Attributes:
        endpoints: Where it is served; empty if unknown.
        failures: Whether it may answer nothing, or only empty answers.
        repeats: Failed bodies, by key, with the minute in which each counted.
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
    """Return whether a target is watched anew because its role or its share of traffic changes."""
    return known is None or (known.role, known.weight_ratio) != (role, weight_ratio)


def follow_endpoints(watched: T, endpoints: tuple[str, ...]) -> T:
    """Return a target that is served at these endpoints: what is known of the engines of others is forgotten."""
    failures = keep_endpoints(watched.failures, endpoints)
    return watched.model_copy(update={"endpoints": endpoints, "failures": failures})


def carried(known: WatchedTarget | None, role: Role, triggers: Iterable[Trigger]) -> dict[str, TriggerState]:
    """Return the evidence that a target keeps in a new role or with a new share of traffic.

    A candidate's evidence for passing adds up over its shadow and all steps. What its shadow showed of latency is left
    out: there it had next to no load.
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
        triggers: The triggers that observe request by request.
        outcomes: By the name of the trigger, in the order in which they came.
    """
    states = dict(watched.triggers)
    for trigger in triggers:
        state = states.get(trigger.name) or fresh_trigger(watched.role)
        states[trigger.name] = observe_outcomes(state, trigger, outcomes.get(trigger.name, ()))
    return watched.model_copy(update={"triggers": states})


def close(watched: T, triggers: Iterable[Trigger], now: datetime | None) -> tuple[T, dict[str, Closed]]:
    """Return a target with the blocks that are over at a time as evidence, and these by trigger.

    Args:
        watched: The target.
        triggers: The triggers that observe request by request.
        now: The time; all blocks are over without one.
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
    """Decide the alerts of a target from its evidence; the evidence of a resolved alert begins anew.

    Args:
        watched: The target.
        alerts: The alerts of its model.
        triggers: The triggers that observe request by request.
        now: The time.
        update_every_s: The least time between two updates of an alert.
        false_alarm_every: The hours in which the triggers together may have one false alarm.
        beta: The level at which a candidate passes.
        environment: Where the target is served.
        findings: Findings of other checks, decided together.
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
