"""Applies telemetry, policies and routes to the monitor's record, and decides alerts and verdicts. Pure."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.facts import CanaryAssessed, Fact, Inference, MirroredPair, ShadowAssessed, WindowSummarised
from contracts.policy import FALSE_ALARM_EVERY, PASS_BETA, ReleasePolicy, Trigger
from contracts.records import outbox_entry
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.clocks import put_pairs_right, put_right
from decisions.evidence import observe_loop
from decisions.evidence.alerts import AlertFact, AlertState, Finding, drop_alerts, resolve_all
from decisions.evidence.observation import Role
from decisions.evidence.triggers import ended_at, sequential, triggers_of_shadow
from decisions.routes.versions import versions_on
from services.monitor.domain import judging
from services.monitor.domain.blindness import find_blindness, find_unfed, find_unknown_policies, note_batch
from services.monitor.domain.canary import assess_canary
from services.monitor.domain.deaths import find_killers, note_deaths
from services.monitor.domain.observation import (
    follow_share,
    is_plausible,
    observe_active,
    observe_mirrored_pairs,
    observe_records,
    roles,
)
from services.monitor.domain.record import (
    APPLIED_KEPT,
    POLICIES_KEPT,
    MonitorState,
    Policy,
    TargetState,
)
from services.monitor.domain.shadow import assess_shadow
from services.monitor.domain.windows import Windowing, close_windows

SEEN_KEPT = 4096
_KEY_CHARS = 12


@dataclass(frozen=True)
class Rules:
    """Limits of monitoring, the same for every model.

    Attributes:
        quiet_s: Seconds without requests until a staging target is no longer monitored.
        drift_rows: Answers per drift window.
    """

    windowing: Windowing = field(default_factory=Windowing)
    update_every_s: float = observe_loop.UPDATE_EVERY_S
    assess_every_s: float = 10.0
    quiet_s: float = 120.0
    drift_rows: int = 300


@dataclass(frozen=True)
class Cause:
    """The cause of a decision, with the decision's time by the bus's clock."""

    id: str
    at: datetime
    correlation_id: str = ""


@dataclass(frozen=True)
class Sender:
    """The gateway that sent a batch.

    Attributes:
        offset_s: seconds by which the gateway's clock is ahead of the bus's.
        stored_at: when the bus stored the batch; long ago if no monitor ran.
    """

    gateway: str
    offset_s: float
    stored_at: datetime


def add_policy(
    state: MonitorState, version: int, release_id: str, policy: ReleasePolicy, cause: Cause, *, returns: bool = False
) -> MonitorState:
    """Record a version's policy; the first one stays until the version `returns`.

    Beyond `POLICIES_KEPT`, the lowest versions that are neither monitored nor on the route are dropped: a rollback may
    return any version on the route.
    """
    if cause.id in state.applied:
        return state
    known = dict(state.policies)
    if returns or str(version) not in known:
        known[str(version)] = Policy.of(release_id, policy)
    needed = {*state.routed, *(target.target.version for target in state.targets.values())}
    spare = [name for name in sorted(known, key=int) if int(name) not in needed]
    for name in spare[: max(0, len(known) - POLICIES_KEPT)]:
        del known[name]
    return _applied(state.model_copy(update={"policies": known}), cause.id)


def follow_route(state: MonitorState, route: Route, cause: Cause, rules: Rules) -> MonitorState:
    """Apply a route: begin monitoring new targets, restart those with a changed role, end removed ones."""
    if cause.id in state.applied:
        return state
    state = _applied(state, cause.id)
    if route.epoch <= state.epoch:
        return state
    routed = roles(route)
    for name, watched in state.targets.items():
        if name not in routed:
            state = _leave(state, watched, cause, rules, f"{watched.target} takes no traffic any more.")
    targets = dict(state.targets)
    for name, each in routed.items():
        known = targets.get(name)
        if observe_loop.begins_anew(known, each.role, each.weight_ratio):
            fresh = _fresh(state, each.target, each.role, cause.at)
            items = ("windows", "closed_until_s", "closed", "drift") if known is not None else ()
            kept: dict[str, object] = {item: getattr(known, item) for item in items}
            if known is None or known.only_for in ((), each.only_for):  # no evidence of other callers
                kept["triggers"] = observe_loop.carried(known, each.role, _watching(state, fresh))
            begun = {"weight_ratio": each.weight_ratio, "epoch": route.epoch, "only_for": each.only_for}
            targets[name] = fresh.model_copy(update=begun | kept)
        targets[name] = follow_share(targets[name], each)
    routes = {"epoch": route.epoch, "route_known": True, "routed": tuple(sorted(versions_on(route)))}
    state = state.model_copy(update={"targets": targets, **routes, **judging.follow(state, route, cause.at)})
    return judging.settle(state, cause.id, cause.at)


def add_records(
    state: MonitorState,
    records: Sequence[Inference],
    cause: Cause,
    rules: Rules,
    sender: Sender | None = None,
    *,
    pairs: Sequence[MirroredPair] = (),
) -> MonitorState:
    """Observe a batch of telemetry; repeated batches and records, and implausible records, are ignored.

    Times of a gateway with a wrong clock, also in pairs, are corrected to the bus's clock.
    """
    if cause.id in state.applied:
        return state
    state = _applied(state, cause.id)
    before, offset = state.implausible, sender.offset_s if sender is not None else 0.0
    state, fresh = _sift(state, records, cause.at, rules, offset)
    state = note_batch(state, records=len(records), implausible=state.implausible - before, now=cause.at)
    groups: dict[str, list[Inference]] = {}
    for record in fresh:
        groups.setdefault(str(record.target), []).append(record)
    targets, counted = dict(state.targets), dict[str, Sequence[Inference]]()
    for name, group in groups.items():
        watched = targets.get(name) or _newcomer(state, group[0], cause.at)
        if watched is None or watched.role == "shadow":
            continue
        rows = rules.drift_rows if _may_gather(state, watched) else 0
        policy = state.policies.get(str(watched.target.version))
        targets[name], counted[name] = observe_records(watched, group, policy, rules.windowing, rows=rows)
    targets = observe_active(targets, state.policies, counted)
    believed = [pair for pair in put_pairs_right(pairs, offset) if _is_believed(state, pair)]
    targets = observe_mirrored_pairs(targets, state.policies, believed)
    state = judging.observe(state, believed)
    paired = {str(side.target) for pair in believed for side in (pair.served, pair.mirrored)}
    state = state.model_copy(update={"targets": targets, "deaths": note_deaths(state.deaths, fresh)})
    until = cause.at if sender is None else min(cause.at, sender.stored_at)
    return assess(state, cause, rules, tuple(name for name in targets if name in {*groups, *paired}), until)


def _is_believed(state: MonitorState, pair: MirroredPair) -> bool:
    """Return whether a pair is plausible: both sides are the same request to this model."""
    sides = (pair.served, pair.mirrored)
    ours = all((side.target.model, side.environment) == (state.model, state.environment) for side in sides)
    return ours and pair.served.request_id == pair.mirrored.request_id and all(map(is_plausible, sides))


def assess(
    state: MonitorState,
    cause: Cause,
    rules: Rules,
    names: Iterable[str] | None = None,
    read_until: datetime | None = None,
) -> MonitorState:
    """Decide all due work: windows, alerts, canary and shadow verdicts, silent staging targets.

    Args:
        state: The record.
        cause: The cause of the decision.
        rules: The limits of monitoring.
        names: The targets to assess; None for all.
        read_until: Time as of which blocks and windows close; None for now. Within a backlog, the batch's time, so
            that later batches find their windows open.
    """
    for name in tuple(state.targets) if names is None else names:
        watched = state.targets[name]
        if watched.role == "shadow":  # no callers: no alerts, no windows
            state = _assess_shadow(state, watched, cause, rules, read_until or cause.at)
            continue
        quiet = cause.at - watched.last_at > timedelta(seconds=rules.quiet_s)
        if state.environment == "staging" and quiet:
            state = _leave(state, watched, cause, rules, f"{watched.target} gets no requests in staging any more.")
            continue
        watched, summaries = close_windows(watched, _watching(state, watched), read_until or cause.at, rules.windowing)
        state = _with_target(state, watched) if watched is not state.targets[name] else state
        state = _publish_windows(state, cause, summaries, watched)
        state = _decide_alerts(state, watched, cause, rules)
        state = _assess_canary(state, state.targets[name], cause, rules)
    return judging.settle(state, cause.id, cause.at)


def _decide_alerts(state: MonitorState, watched: TargetState, cause: Cause, rules: Rules) -> MonitorState:
    policy = state.policies.get(str(watched.target.version))
    of_model: tuple[Finding, ...] = ()
    if watched.role == "active":
        of_model = (
            find_blindness(state),
            find_unfed(watched, policy.triggers if policy else ()),
            find_unknown_policies(state),
            find_killers(state.deaths, cause.at),
            judging.find_undecided(state),
        )
    release_id = policy.release_id if policy else ""
    if watched.release_id != release_id:
        watched = watched.model_copy(update={"release_id": release_id})
    assessed = observe_loop.assess(
        watched,
        state.alerts,
        _watching(state, watched),
        cause.at,
        update_every_s=rules.update_every_s,
        false_alarm_every=policy.false_alarm_every if policy else FALSE_ALARM_EVERY,
        beta=policy.canary.beta if policy else PASS_BETA,
        environment=state.environment,
        findings=of_model,
    )
    if assessed.watched is not state.targets[str(watched.target)]:
        state = _with_target(state, assessed.watched)
    return add_alerts(state, assessed.alerts, assessed.facts, cause, assessed.watched)


def add_alerts(
    state: MonitorState, alerts: dict[str, AlertState], facts: Sequence[AlertFact], cause: Cause, watched: TargetState
) -> MonitorState:
    """Return the record with decided alerts, and their facts in the outbox."""
    if alerts == state.alerts:
        return state
    state = state.model_copy(update={"alerts": alerts})
    return _publish(state, cause, [(f"{fact.alert_id}:{cause.at.isoformat()}", fact) for fact in facts], watched)


def _assess_canary(state: MonitorState, watched: TargetState, cause: Cause, rules: Rules) -> MonitorState:
    """Assess a canary, and put a new verdict into the outbox."""
    policy = state.policies.get(str(watched.target.version))
    if watched.role != "canary" or policy is None:
        return state
    return _publish_verdict(state, watched, assess_canary(policy, watched, cause.at), cause, rules)


def _assess_shadow(state: MonitorState, watched: TargetState, cause: Cause, rules: Rules, at: datetime) -> MonitorState:
    """Close a shadow's blocks, assess it, and put a new verdict into the outbox."""
    policy = state.policies.get(str(watched.target.version))
    if policy is None or policy.shadow is None:
        return state
    watched = watched.model_copy(update={"release_id": policy.release_id})
    watched, _ = observe_loop.close(watched, triggers_of_shadow(policy.triggers), at)
    fact = assess_shadow(policy, policy.shadow, watched, cause.at)
    return _publish_verdict(_with_target(state, watched), watched, fact, cause, rules)


def _publish_verdict(
    state: MonitorState, watched: TargetState, fact: CanaryAssessed | ShadowAssessed, cause: Cause, rules: Rules
) -> MonitorState:
    """Put a new verdict into the outbox; after a pass only a failure, after a failure nothing."""
    if watched.assessed.startswith("fail"):
        return state
    if watched.assessed.startswith("pass") and fact.verdict != "fail":
        return state
    mark = f"{fact.verdict}:{fact.requests}"
    last = watched.assessed_at
    recently = last is not None and (cause.at - last).total_seconds() < rules.assess_every_s
    if mark == watched.assessed or (fact.verdict == "inconclusive" and recently):
        return state
    watched = watched.model_copy(update={"assessed": mark, "assessed_at": cause.at})
    key = f"{watched.target}:{watched.weight_ratio:g}:{watched.epoch}:{mark}"
    return _publish(_with_target(state, watched), cause, [(key, fact)], watched)


def _leave(state: MonitorState, watched: TargetState, cause: Cause, rules: Rules, reason: str) -> MonitorState:
    """Remove a target: close its windows, resolve and drop its alerts."""
    watched, summaries = close_windows(watched, _watching(state, watched), None, rules.windowing)
    name = str(watched.target)
    state = _publish_windows(state, cause, summaries, watched)
    decided = resolve_all(state.alerts, watched.target, cause.at, release_id=watched.release_id or None, reason=reason)
    state = add_alerts(state, decided.alerts, decided.facts, cause, watched)
    targets = {key: target for key, target in state.targets.items() if key != name}
    alerts = drop_alerts(state.alerts, lambda _, alert: str(alert.target) not in targets)
    return state.model_copy(update={"targets": targets, "alerts": alerts})


def _publish_windows(
    state: MonitorState, cause: Cause, summaries: Iterable[WindowSummarised], watched: TargetState
) -> MonitorState:
    windows = ((f"{watched.target}:{summary.window.from_.isoformat()}", summary) for summary in summaries)
    return _publish(state, cause, windows, watched)


def _publish(
    state: MonitorState, cause: Cause, facts: Iterable[tuple[str, Fact]], watched: TargetState
) -> MonitorState:
    """Put facts, with their keys, into the outbox."""
    entries = tuple(
        outbox_entry(
            fact,
            model=state.model,
            environment=state.environment,
            key=key,
            cause_id=cause.id,
            correlation_id=watched.release_id or cause.correlation_id or cause.id,
            decided_at=cause.at,
        )
        for key, fact in facts
    )
    return state.model_copy(update={"outbox": (*state.outbox, *entries)}) if entries else state


def _sift(
    state: MonitorState, records: Sequence[Inference], now: datetime, rules: Rules, offset_s: float
) -> tuple[MonitorState, list[Inference]]:
    """Return the state with implausible records counted, and the new plausible records."""
    order = [state.seen[at : at + _KEY_CHARS] for at in range(0, len(state.seen), _KEY_CHARS)]
    seen, fresh, implausible = set(order), list[Inference](), 0
    newest = now + timedelta(seconds=rules.windowing.ahead_s)
    for sent, record in zip(records, put_right(records, offset_s), strict=True):
        is_ours = (record.target.model, record.environment) == (state.model, state.environment)
        if not is_ours or not is_plausible(record) or ended_at(record) > newest:
            implausible += 1
            continue
        key = _record_key(sent)
        if key in seen:
            continue
        seen.add(key)
        order.append(key)
        fresh.append(record)
    update = {"seen": "".join(order[-SEEN_KEPT:]), "implausible": state.implausible + implausible}
    return state.model_copy(update=update), fresh


def _record_key(record: Inference) -> str:
    """Return a record's identity: not its request id alone, because callers may reuse ids."""
    text = f"{record.request_id}|{record.scheduled_at.isoformat()}|{record.target}|{record.e2e_ms!r}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:9]).decode()


def _newcomer(state: MonitorState, record: Inference, now: datetime) -> TargetState | None:
    """Return a new state for a target without a route; None in production once the route is known."""
    if state.route_known and state.environment == "production":
        return None
    role: Role = "canary" if record.canary and state.environment == "production" else "active"
    return _fresh(state, record.target, role, now)


def _fresh(state: MonitorState, target: Target, role: Role, now: datetime) -> TargetState:
    policy = state.policies.get(str(target.version))
    return TargetState(target=target, role=role, release_id=policy.release_id if policy else "", since=now, last_at=now)


def _may_gather(state: MonitorState, watched: TargetState) -> bool:
    """Return whether a target's requests enter drift windows: active in production, without other open alerts."""
    wrong = any(
        alert.open and alert.target == watched.target and alert.kind not in ("drift", "blind", "suspended")
        for alert in state.alerts.values()
    )
    return state.environment == "production" and watched.role == "active" and not wrong


def _watching(state: MonitorState, watched: TargetState) -> tuple[Trigger, ...]:
    """Return the triggers that observe a target request by request."""
    policy = state.policies.get(str(watched.target.version))
    return sequential(policy.triggers) if policy else ()


def _with_target(state: MonitorState, watched: TargetState) -> MonitorState:
    return state.model_copy(update={"targets": {**state.targets, str(watched.target): watched}})


def _applied(state: MonitorState, cause_id: str) -> MonitorState:
    return state.model_copy(update={"applied": (*state.applied, cause_id)[-APPLIED_KEPT:]})
