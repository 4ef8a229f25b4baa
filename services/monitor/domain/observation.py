"""Adds the records of one target to its evidence, windows and drift rows; pairs a canary with its baseline."""

from collections.abc import Mapping, Sequence

from contracts.facts import Inference, MirroredPair
from contracts.policy import Trigger
from decisions import observe_loop
from decisions.evidence import PairTest, observe_pair
from decisions.hard_failures import note_failures
from decisions.observation import TriggerState, fresh_trigger, without_repeats
from decisions.pairs import MirrorTest, observe_mirrored, outcomes_of_pair
from decisions.triggers import ended_at, is_hidden, observe, outcomes_of, sequential
from services.monitor.domain.record import DriftState, Policy, TargetState
from services.monitor.domain.shadow import triggers_of_shadow
from services.monitor.domain.shadow_deaths import note_shadow_pair
from services.monitor.domain.windows import Windowing, add_to_windows, features_of


def observe_records(
    state: TargetState,
    records: Sequence[Inference],
    policy: Policy | None,
    windowing: Windowing,
    *,
    gather: bool,
    rows: int,
) -> TargetState:
    """Return a target with records added, in the order in which they came."""
    declared = policy.triggers if policy else ()
    triggers = sequential(declared)
    repeats, counted = without_repeats(state.repeats, records)
    seen = counted if state.role == "active" else records
    outcomes = {trigger.name: outcomes_of(trigger, seen, declared) for trigger in triggers}
    state = observe_loop.observe(state, triggers, outcomes)
    if state.role == "canary":
        state = _with_hidden(state, triggers, records, declared)
    drift = _gathered(state.drift, records, rows) if gather else state.drift
    changed = state.model_copy(
        update={
            "failures": note_failures(state.failures, records, counted),
            "repeats": repeats,
            "drift": drift,
            "requests": state.requests + len(records),
            "evident": state.evident + sum(record.is_evidence for record in records),
            "release_id": policy.release_id if policy else "",
            "last_at": max(state.last_at, *(ended_at(record) for record in records)),
        }
    )
    return add_to_windows(changed, records, windowing)


def _with_hidden(
    state: TargetState, triggers: Sequence[Trigger], records: Sequence[Inference], declared: Sequence[Trigger]
) -> TargetState:
    """Return a canary with the requests counted that the callers' parameters hide from its triggers."""
    known = dict(state.triggers)
    for trigger in triggers:
        before = known[trigger.name]
        hidden = before.hidden + sum(is_hidden(trigger, record, declared) for record in records)
        known[trigger.name] = before.model_copy(update={"hidden": hidden})
    return state.model_copy(update={"triggers": known})


def pair_records(
    targets: Mapping[str, TargetState], policies: Mapping[str, Policy], records: Sequence[Inference]
) -> dict[str, TargetState]:
    """Return the targets with every canary compared with the concurrent active target, by the canary's triggers."""
    after = dict(targets)
    active = next((name for name, state in targets.items() if state.role == "active"), None)
    for name, state in targets.items():
        policy = policies.get(str(state.target.version))
        if state.role != "canary" or active is None or policy is None:
            continue
        triggers = dict(state.triggers)
        for trigger in sequential(policy.triggers):
            trigger_state = triggers.get(trigger.name) or fresh_trigger("canary")
            pair = trigger_state.pair or PairTest()
            for record in records:
                side = {name: "candidate", active: "baseline"}.get(str(record.target))
                outcome = observe(trigger, record, policy.triggers)
                if side is not None and outcome is not None:
                    pair = observe_pair(pair, side, outcome)
            triggers[trigger.name] = trigger_state.model_copy(update={"pair": pair})
        after[name] = state.model_copy(update={"triggers": triggers})
    return after


def observe_mirrored_pairs(
    targets: Mapping[str, TargetState], policies: Mapping[str, Policy], pairs: Sequence[MirroredPair]
) -> dict[str, TargetState]:
    """Return the targets with pairs added to the evidence about the candidate of each, by its own triggers."""
    after = dict(targets)
    for pair in pairs:
        name = _judged_by(pair, after)
        state = after.get(name)
        policy = policies.get(str(state.target.version)) if state is not None else None
        if state is None or policy is None or pair.served.target == pair.mirrored.target:
            continue
        deaths = note_shadow_pair(state.deaths, pair) if pair.shadow else state.deaths
        if deaths is None:
            continue
        watching = triggers_of_shadow(policy) if pair.shadow else sequential(policy.triggers)
        triggers = {**state.triggers, **_observe_pair(state, pair, watching, policy.triggers)}
        update: dict[str, object] = {"triggers": triggers}
        if pair.shadow:
            last_at = max(state.last_at, ended_at(pair.mirrored))
            update |= {
                "deaths": deaths,
                "requests": state.requests + 1,
                "release_id": policy.release_id,
                "last_at": last_at,
            }
        after[name] = state.model_copy(update=update)
    return after


def _judged_by(pair: MirroredPair, targets: Mapping[str, TargetState]) -> str:
    """Return the candidate that a pair judges, in its shadow or as a canary; empty for a pair of one that is over."""
    served, mirrored = str(pair.served.target), str(pair.mirrored.target)
    roles = {name: targets[name].role for name in (served, mirrored) if name in targets}
    if pair.shadow:
        return mirrored if roles.get(mirrored) == "shadow" else ""
    return next((name for name, role in roles.items() if role == "canary"), "")


def _observe_pair(
    state: TargetState, pair: MirroredPair, triggers: Sequence[Trigger], declared: Sequence[Trigger]
) -> dict[str, TriggerState]:
    """Return the triggers of a target that a pair shows something for, with the pair added."""
    changed: dict[str, TriggerState] = {}
    for trigger in triggers:
        outcomes = outcomes_of_pair(trigger, pair, declared)
        if outcomes is None:
            continue
        target, other = outcomes if state.target == pair.served.target else reversed(outcomes)
        known = state.triggers.get(trigger.name) or fresh_trigger(state.role)
        test = observe_mirrored(
            known.mirrored or MirrorTest(),
            target=target,
            other=other,
            holder=pair.served.holder or "",
            alpha=trigger.alpha,
        )
        changed[trigger.name] = known.model_copy(update={"mirrored": test})
    return changed


def _gathered(drift: DriftState, records: Sequence[Inference], rows: int) -> DriftState:
    """Return the drift rows with more rows, until there are enough; records of a drill are left out."""
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
