"""Adds telemetry records and pairs to the evidence, windows and drift rows of targets. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.facts import Inference, MirroredPair, PairCounts
from contracts.policy import Trigger
from contracts.routes import Route
from contracts.vocabulary import OnlyFor, Target
from decisions.evidence import observe_loop
from decisions.evidence.hard_failures import note_failures
from decisions.evidence.observation import Role, TriggerState, fresh_trigger, observe_beside, without_repeats
from decisions.evidence.triggers import (
    Outcome,
    ended_at,
    is_hidden,
    kind_of,
    observe,
    outcomes_of,
    sequential,
    triggers_of_shadow,
)
from services.monitor.domain.record import DriftState, Policy, TargetState
from services.monitor.domain.shadow import note_shadow_pair
from services.monitor.domain.windows import Windowing, add_to_windows, features_of

_LONGEST_MS = 86_400_000.0


def is_plausible(record: Inference) -> bool:
    """Return whether a record's figures are plausible: durations from 0 to a day, valid tokens and log-probability."""
    times = (record.e2e_ms, record.ttft_ms or 0.0, record.queue_ms or 0.0)
    itl = record.itl_ms
    gaps = (itl.mean, itl.p95, itl.max) if itl is not None else ()
    durations_can_be = all(0.0 <= duration < _LONGEST_MS for duration in (*times, *gaps))
    return durations_can_be and record.output_tokens >= 0 and (record.logprob_mean or 0.0) <= 0.0


@dataclass(frozen=True)
class Routed:
    """A target in a route that gets requests, with role, share and endpoints (none for a shadow).

    Attributes:
        away_until: End of a removal of a canary's traffic.
        times_away: Number of such removals.
        only_for: Callers that a canary is restricted to; empty for all.
    """

    target: Target
    role: Role
    weight_ratio: float
    endpoints: tuple[str, ...] = ()
    away_until: datetime | None = None
    times_away: int = 0
    only_for: OnlyFor = ()


def roles(route: Route) -> dict[str, Routed]:
    """Return the targets of a route that get requests, by name."""
    routed = []
    if route.shadow is not None and route.shadowed is not None:
        routed.append(Routed(route.shadowed.target, "shadow", route.shadow.share_ratio))
    canary = route.canary_in_traffic
    if canary is not None:
        away = canary.away_until, canary.times_away
        about = canary.weight_ratio, canary.served.endpoints, *away, canary.only_for
        routed.append(Routed(canary.served.target, "canary", *about))
    if route.active is not None:
        routed.append(Routed(route.active.target, "active", 1.0, route.active.endpoints))
    return {str(each.target): each for each in routed}


def follow_share(state: TargetState, share: Routed) -> TargetState:
    """Update a target by its route: endpoints, and removals of a canary's traffic."""
    state = observe_loop.follow_endpoints(state, share.endpoints)
    until_s = math.ceil(share.away_until.timestamp()) if share.away_until is not None else 0
    away = {"away_until_s": until_s, "times_away": share.times_away}
    known = {
        name: trigger.model_copy(update={"candidate": trigger.candidate.model_copy(update=away)})
        for name, trigger in state.triggers.items()
        if trigger.candidate is not None
    }
    return state.model_copy(update={"triggers": {**state.triggers, **known}})


def observe_records(
    state: TargetState,
    records: Sequence[Inference],
    policy: Policy | None,
    windowing: Windowing,
    *,
    rows: int,
) -> tuple[TargetState, tuple[Inference, ...]]:
    """Return a target with records added, in their order of arrival, and the records that are evidence.

    `rows`: drift rows to collect at most; 0 for none.
    """
    declared = policy.triggers if policy else ()
    triggers = sequential(declared)
    repeats, counted = without_repeats(state.repeats, records)
    told, shown = records, counted
    if state.role == "canary":
        told, shown = _without_pinned(records), _without_pinned(counted)
    outcomes = {trigger.name: outcomes_of(trigger, shown, declared) for trigger in triggers}
    state = observe_loop.observe(state, triggers, outcomes)
    if state.role == "canary":
        state = _with_hidden(state, triggers, told, declared)
    drift = _gathered(state.drift, records, rows) if rows else state.drift
    changed = state.model_copy(
        update={
            "failures": note_failures(state.failures, told, shown),
            "repeats": repeats,
            "drift": drift,
            "requests": state.requests + len(told),
            **_fed(state, told),
            "release_id": policy.release_id if policy else "",
            "last_at": max(state.last_at, *(ended_at(record) for record in records)),
        }
    )
    return add_to_windows(changed, records, windowing), counted


def _fed(state: TargetState, records: Sequence[Inference]) -> dict[str, object]:
    """Return the fields `unfed` and `fed_at` after records."""
    fed_at = max((ended_at(record) for record in records if record.is_evidence), default=None)
    if fed_at is None:
        return {"unfed": state.unfed + len(records)}
    return {"unfed": 0, "fed_at": max(fed_at, state.fed_at or fed_at)}


def _without_pinned(records: Sequence[Inference]) -> tuple[Inference, ...]:
    """Return the records that were drawn by the gateway, not pinned to a version."""
    return tuple(record for record in records if not record.pinned)


def _with_hidden(
    state: TargetState, triggers: Sequence[Trigger], records: Sequence[Inference], declared: Sequence[Trigger]
) -> TargetState:
    """Count the requests that callers' parameters exclude from a canary's triggers."""
    known = dict(state.triggers)
    for trigger in triggers:
        before = known[trigger.name]
        hidden = before.hidden + sum(is_hidden(trigger, record, declared) for record in records)
        known[trigger.name] = before.model_copy(update={"hidden": hidden})
    return state.model_copy(update={"triggers": known})


def observe_active(
    targets: Mapping[str, TargetState], policies: Mapping[str, Policy], counted: Mapping[str, Sequence[Inference]]
) -> dict[str, TargetState]:
    """Add the active target's requests to each canary's comparison, by the canary's triggers."""
    after = dict(targets)
    active = next((name for name, state in targets.items() if state.role == "active"), "")
    records = _without_pinned(counted.get(active, ()))
    for name, state in targets.items():
        policy = policies.get(str(state.target.version))
        if state.role != "canary" or policy is None or not records:
            continue
        triggers = dict(state.triggers)
        for trigger in sequential(policy.triggers):
            known = triggers.get(trigger.name) or fresh_trigger("canary")
            triggers[trigger.name] = observe_beside(known, (), outcomes_of(trigger, records, policy.triggers))
        after[name] = state.model_copy(update={"triggers": triggers})
    return after


def observe_mirrored_pairs(
    targets: Mapping[str, TargetState], policies: Mapping[str, Policy], pairs: Sequence[MirroredPair]
) -> dict[str, TargetState]:
    """Add pairs to the evidence on their candidates, by the candidate's triggers."""
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
        watching = triggers_of_shadow(policy.triggers) if pair.shadow else sequential(policy.triggers)
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
    """Return the candidate that a pair judges, as shadow or canary; empty if its trial is over."""
    served, mirrored = str(pair.served.target), str(pair.mirrored.target)
    roles = {name: targets[name].role for name in (served, mirrored) if name in targets}
    if pair.shadow:
        return mirrored if roles.get(mirrored) == "shadow" else ""
    return next((name for name, role in roles.items() if role == "canary"), "")


def _observe_pair(
    state: TargetState, pair: MirroredPair, triggers: Sequence[Trigger], declared: Sequence[Trigger]
) -> dict[str, TriggerState]:
    """Return the triggers for which a pair is evidence, with the pair added.

    For a canary's latency it is none: the repeated request may find its prompt cached.
    """
    changed: dict[str, TriggerState] = {}
    for trigger in triggers:
        outcomes = outcomes_of_pair(trigger, pair, declared)
        if outcomes is None:
            continue
        target, other = outcomes if state.target == pair.served.target else reversed(outcomes)
        known = state.triggers.get(trigger.name) or fresh_trigger(state.role)
        if state.role == "shadow" or kind_of(trigger) != "latency":
            known = observe_beside(known, [_of_side(pair, bad=target)], [_of_side(pair, bad=other)])
        counts = count_pair(known.mirrored, target=target, other=other)
        changed[trigger.name] = known.model_copy(update={"mirrored": counts})
    return changed


def _of_side(pair: MirroredPair, *, bad: bool) -> Outcome:
    """Return the outcome of one side of a pair; both sides count in the block of the later end."""
    sides = (pair.served, pair.mirrored)
    at, ended = (max(of(side) for side in sides) for of in (lambda side: side.scheduled_at, ended_at))
    return Outcome(bad=bad, at=at, ended_at=ended, drill=pair.mirrored.drill, holder=pair.served.holder or "")


def _gathered(drift: DriftState, records: Sequence[Inference], rows: int) -> DriftState:
    """Add drift rows up to `rows`, except from drills."""
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


def count_pair(counts: PairCounts | None, *, target: bool, other: bool) -> PairCounts:
    """Count one pair: whether the request was bad on `target`, and on the other version."""
    counts = counts or PairCounts()
    if target == other:
        return counts.model_copy(update={"both": counts.both + target, "neither": counts.neither + (not target)})
    update = {"only_target": counts.only_target + target, "only_other": counts.only_other + other}
    return counts.model_copy(update=update)


def outcomes_of_pair(
    trigger: Trigger, pair: MirroredPair, declared: Sequence[Trigger] = ()
) -> tuple[bool, bool] | None:
    """Return whether a request is bad on the served and the mirrored side; None if either is no evidence."""
    served, mirrored = (observe(trigger, without_queue(side), declared) for side in (pair.served, pair.mirrored))
    return None if served is None or mirrored is None else (served, mirrored)


def without_queue(record: Inference) -> Inference:
    """Return a record without the time in the engine's queue, because other requests cause it."""
    queue_ms = record.queue_ms or 0.0
    ttft_ms = None if record.ttft_ms is None else max(0.0, record.ttft_ms - queue_ms)
    return record.model_copy(
        update={"ttft_ms": ttft_ms, "e2e_ms": max(0.0, record.e2e_ms - queue_ms), "queue_ms": None}
    )
