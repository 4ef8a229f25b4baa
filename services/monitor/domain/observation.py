"""Takes the records of one target into its evidence, windows and drift rows; pairs a canary with its baseline."""

from collections.abc import Mapping, Sequence

from contracts.facts import Inference
from contracts.policy import Trigger
from decisions.evidence import (
    Bet,
    EDetector,
    EProcess,
    PairTest,
    observe_detector,
    observe_pair,
    observe_process,
    plan_bet,
    resting_log_e,
)
from decisions.triggers import limit_of, observe, sequential
from services.monitor.domain.record import DriftState, Policy, Role, TargetState, TriggerState
from services.monitor.domain.triggers import count_runs
from services.monitor.domain.windows import Windowing, add_records, add_to_slots, ended_at, features_of

_NEAR = 0.1
"""An e-detector comes back to rest from above and never quite arrives."""


def observe_records(
    state: TargetState,
    records: Sequence[Inference],
    policy: Policy | None,
    windowing: Windowing,
    *,
    gather: bool,
    rows: int,
) -> TargetState:
    """Take records of a target, in the order in which they came."""
    triggers = dict(state.triggers)
    for trigger in sequential(policy.triggers) if policy else ():
        one = triggers.get(trigger.name) or fresh_trigger(state.role)
        for record in records:
            one = observe_one(one, trigger, record)
        triggers[trigger.name] = one
    runs, began = state.runs, state.run_began_at
    for record in records:
        before, runs = runs, count_runs(runs, record)
        if max(runs) > 0 and max(before) == 0:
            began = record.scheduled_at
        elif max(runs) == 0:
            began = None
    drift = _gathered(state.drift, records, rows) if gather else state.drift
    changed = state.model_copy(
        update={
            "triggers": triggers,
            "runs": runs,
            "run_began_at": began,
            "drift": drift,
            "requests": state.requests + len(records),
            "release_id": policy.release_id if policy else "",
            "last_at": max(state.last_at, *(ended_at(record) for record in records)),
        }
    )
    return add_records(changed, records, windowing)


def fresh_trigger(role: Role) -> TriggerState:
    """Return a trigger without evidence: an e-process for a canary, an e-detector for what is active."""
    return TriggerState(evidence=EProcess() if role == "canary" else EDetector())


def observe_one(state: TriggerState, trigger: Trigger, record: Inference) -> TriggerState:
    """Take one record into one trigger's evidence."""
    outcome = observe(trigger, record)
    if outcome is None:
        return state
    bet, evidence = plan_bet(limit_of(trigger)), state.evidence
    after: EProcess | EDetector = (
        observe_detector(evidence, bet, [outcome])
        if isinstance(evidence, EDetector)
        else observe_process(evidence, bet, [outcome])
    )
    first_bad = state.first_bad_at
    if outcome and first_bad is None:
        first_bad = record.scheduled_at
    elif not outcome and after.log_e <= _outweighed_at(after, bet):
        first_bad = None
    slots = add_to_slots(
        state.slots, trigger.window_s, ended_at(record), outcome=outcome, drilled=record.drill is not None
    )
    drill = record.drill if outcome and record.drill is not None else state.drill
    update = {"evidence": after, "first_bad_at": first_bad, "slots": slots, "drill": drill if first_bad else None}
    return state.model_copy(update=update)


def _outweighed_at(evidence: EProcess | EDetector, bet: Bet) -> float:
    """Return the log e-value at which whatever was bad before is outweighed by what was good since."""
    return resting_log_e(bet) + _NEAR if isinstance(evidence, EDetector) else 0.0


def pair_records(
    targets: Mapping[str, TargetState], policies: Mapping[str, Policy], records: Sequence[Inference]
) -> dict[str, TargetState]:
    """Compare every canary with the active target beside it, by the canary's own triggers."""
    after = dict(targets)
    active = next((name for name, state in targets.items() if state.role == "active"), None)
    for name, state in targets.items():
        policy = policies.get(str(state.target.version))
        if state.role != "canary" or active is None or policy is None:
            continue
        triggers = dict(state.triggers)
        for trigger in sequential(policy.triggers):
            one = triggers.get(trigger.name) or fresh_trigger("canary")
            pair = one.pair or PairTest()
            for record in records:
                side = {name: "candidate", active: "baseline"}.get(str(record.target))
                outcome = observe(trigger, record)
                if side is not None and outcome is not None:
                    pair = observe_pair(pair, side, outcome)
            triggers[trigger.name] = one.model_copy(update={"pair": pair})
        after[name] = state.model_copy(update={"triggers": triggers})
    return after


def _gathered(drift: DriftState, records: Sequence[Inference], rows: int) -> DriftState:
    """Gather rows until there are enough; what a drill touched is no evidence of drift."""
    columns = {name: list(values) for name, values in drift.columns.items()}
    began, ended = drift.began_at, drift.ended_at
    for record in records:
        features = features_of(record)
        have = min((len(values) for values in columns.values()), default=0)
        if not features or record.drill is not None or have >= rows:
            continue
        for name, value in features.items():
            columns.setdefault(name, []).append(value)
        began, ended = began or record.scheduled_at, record.scheduled_at
    update = {
        "columns": {name: tuple(values) for name, values in columns.items()},
        "began_at": began,
        "ended_at": ended,
    }
    return drift.model_copy(update=update)
