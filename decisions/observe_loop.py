"""The observe loop: outcomes of requests become evidence, evidence becomes findings, findings become alerts.

The monitor runs it over live telemetry, `slipway replay` over recorded windows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import Field

from contracts.policy import Trigger
from contracts.vocabulary import Contract, Environment, Target
from decisions.alerts import AlertFact, AlertState, Finding, decide_alerts
from decisions.findings import assess_triggers
from decisions.hard_failures import Runs
from decisions.observation import Role, TriggerState, fresh_trigger, observe_outcomes
from decisions.triggers import Outcome


class WatchedTarget(Contract):
    """A target and the evidence about it.

    Attributes:
        endpoints: Where it is served; empty if unknown.
        runs: Which requests in a row failed or were empty, and which of its engines are dead.
        run_began_at: When the current run began.
    """

    target: Target
    role: Role
    weight_ratio: float = 1.0
    release_id: str = ""
    triggers: dict[str, TriggerState] = Field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    runs: Runs = Runs()
    run_began_at: datetime | None = None


T = TypeVar("T", bound=WatchedTarget)


@dataclass(frozen=True)
class AlertRules:
    """When alerts are raised and updated, the same for every model.

    Attributes:
        hard_run: How many failed, or empty, requests in a row are a hard failure.
        update_every_s: The least time between two updates of an alert.
    """

    hard_run: int = 8
    update_every_s: float = 15.0


@dataclass(frozen=True)
class Assessed(Generic[T]):
    """A target and its model's alerts after an assessment, and the facts to publish."""

    watched: T
    alerts: dict[str, AlertState]
    facts: tuple[AlertFact, ...]


def begins_anew(known: WatchedTarget | None, role: Role, weight_ratio: float) -> bool:
    """Return whether a target's evidence begins anew because its role or its share of traffic changes."""
    return known is None or (known.role, known.weight_ratio) != (role, weight_ratio)


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


def assess(
    watched: T,
    alerts: Mapping[str, AlertState],
    triggers: Sequence[Trigger],
    now: datetime,
    *,
    rules: AlertRules,
    environment: Environment = "production",
    findings: tuple[Finding, ...] = (),
) -> Assessed[T]:
    """Decide the alerts of a target from its evidence; the evidence of a resolved alert begins anew.

    Args:
        watched: The target.
        alerts: The alerts of its model.
        triggers: The triggers that observe request by request.
        now: The time.
        rules: When alerts are raised and updated.
        environment: Where the target is served.
        findings: Findings of other checks, decided together.
    """
    of_triggers = assess_triggers(
        watched.triggers,
        triggers,
        now,
        runs=watched.runs,
        endpoints=watched.endpoints,
        run_began_at=watched.run_began_at,
        hard_run=rules.hard_run,
    )
    decided = decide_alerts(
        alerts,
        watched.target,
        (*of_triggers, *findings),
        now,
        environment=environment,
        release_id=watched.release_id or None,
        update_every_s=rules.update_every_s,
    )
    if decided.ended:
        kept = {name: state for name, state in watched.triggers.items() if name not in decided.ended}
        watched = watched.model_copy(update={"triggers": kept})
    return Assessed(watched, decided.alerts, decided.facts)
