"""Takes records, policies and routes into what the monitor remembers, and decides what follows. Pure and total."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.facts import Fact, Inference
from contracts.outbox import outgoing
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions import observe_loop
from decisions.alerts import AlertFact, AlertState, resolve_all
from decisions.clocks import put_right
from decisions.observation import Role
from decisions.observe_loop import AlertRules
from decisions.triggers import ended_at, sequential
from services.monitor.domain import clocks
from services.monitor.domain.canary import assess_canary
from services.monitor.domain.observation import observe_records, pair_records
from services.monitor.domain.plausibility import is_plausible
from services.monitor.domain.record import (
    APPLIED_KEPT,
    POLICIES_KEPT,
    DriftState,
    Policy,
    TargetState,
    Watch,
)
from services.monitor.domain.windows import Windowing, close_windows

SEEN_KEPT = 4096
_KEY_CHARS = 12


@dataclass(frozen=True)
class Rules:
    """How the monitor watches, the same for every model.

    Attributes:
        hard_run: how many requests in a row must fail outright to be called a hard failure.
        quiet_s: after how long without a request a staging target is watched no longer.
        drift_rows: how many answers make a window for drift.
    """

    windowing: Windowing = field(default_factory=Windowing)
    hard_run: int = 8
    update_every_s: float = 15.0
    assess_every_s: float = 10.0
    quiet_s: float = 120.0
    drift_rows: int = 300

    @property
    def alerts(self) -> AlertRules:
        """Return the rules of alerts."""
        return AlertRules(hard_run=self.hard_run, update_every_s=self.update_every_s)


@dataclass(frozen=True)
class Cause:
    """What made the monitor decide, and when.

    Attributes:
        own_offset_s: by how much the monitor's own clock is ahead of the bus's; `at` is the bus's time.
    """

    id: str
    at: datetime
    correlation_id: str = ""
    own_offset_s: float = 0.0


@dataclass(frozen=True)
class Sender:
    """The gateway that sent a batch, and by how much its clock is ahead of the bus's."""

    gateway: str
    offset_s: float


def take_policy(watch: Watch, version: int, release_id: str, policy: ReleasePolicy, cause: Cause) -> Watch:
    """Remember what a version's policy asks for; the first word about a version stands."""
    if cause.id in watch.applied:
        return watch
    known = dict(watch.policies)
    known.setdefault(str(version), Policy(release_id=release_id, triggers=policy.triggers, canary=policy.canary))
    serving = {str(one.target.version) for one in watch.targets.values()}
    spare = [name for name in sorted(known, key=int) if name not in serving]
    for name in spare[: max(0, len(known) - POLICIES_KEPT)]:
        del known[name]
    return _applied(watch.model_copy(update={"policies": known}), cause.id)


def take_route(watch: Watch, route: Route, cause: Cause, rules: Rules) -> Watch:
    """Follow a route: begin with what enters, begin anew with what changes its role, end with what leaves."""
    if cause.id in watch.applied:
        return watch
    watch = _applied(watch, cause.id)
    if route.epoch <= watch.epoch:
        return watch
    wanted = _roles(route)
    for name, state in watch.targets.items():
        if name not in wanted:
            watch = _leave(watch, state, cause, rules, f"{state.target} takes no traffic any more.")
    targets = dict(watch.targets)
    for name, (target, role, weight) in wanted.items():
        known = targets.get(name)
        if observe_loop.begins_anew(known, role, weight):
            fresh = _fresh(watch, target, role, cause.at).model_copy(
                update={"weight_ratio": weight, "epoch": route.epoch}
            )
            kept = ("windows", "closed_until_s", "late", "drift") if known is not None else ()
            targets[name] = fresh.model_copy(update={one: getattr(known, one) for one in kept})
    return watch.model_copy(update={"targets": targets, "epoch": route.epoch, "route_known": True})


def take_records(
    watch: Watch, records: Sequence[Inference], cause: Cause, rules: Rules, sender: Sender | None = None
) -> Watch:
    """Observe a batch of telemetry; a batch or a record that comes again, or cannot be true, changes nothing.

    The records of a gateway whose clock is wrong are taken at the time that the bus's clock showed.
    """
    if cause.id in watch.applied:
        return watch
    watch = _applied(watch, cause.id)
    if sender is not None:
        watch = clocks.note_clock(watch, sender.gateway, sender.offset_s, cause.at)
    watch, fresh = _sift(watch, records, cause.at, rules, sender.offset_s if sender is not None else 0.0)
    groups: dict[str, list[Inference]] = {}
    for record in fresh:
        groups.setdefault(str(record.target), []).append(record)
    targets = dict(watch.targets)
    for name, group in groups.items():
        state = targets.get(name) or _newcomer(watch, group[0], cause.at)
        if state is None:
            watch = watch.model_copy(update={"unwatched": watch.unwatched + len(group)})
            continue
        gather = _may_gather(watch, state)
        policy = watch.policies.get(str(state.target.version))
        targets[name] = observe_records(state, group, policy, rules.windowing, gather=gather, rows=rules.drift_rows)
    targets = pair_records(targets, watch.policies, fresh)
    watch = watch.model_copy(update={"targets": targets})
    return assess(watch, cause, rules, tuple(name for name in groups if name in targets))


def assess(watch: Watch, cause: Cause, rules: Rules, names: Iterable[str] | None = None) -> Watch:
    """Decide everything that is due: windows, alerts, canaries, staging targets that fell silent."""
    for name in tuple(watch.targets) if names is None else names:
        state = watch.targets[name]
        quiet = cause.at - state.last_at > timedelta(seconds=rules.quiet_s)
        if watch.environment == "staging" and quiet:
            watch = _leave(watch, state, cause, rules, f"{state.target} gets no requests in staging any more.")
            continue
        state, summaries = close_windows(state, cause.at, rules.windowing)
        watch = _with_target(watch, state) if summaries else watch
        watch = _say(watch, cause, [(f"{name}:{one.window.from_.isoformat()}", one) for one in summaries], state)
        watch = _decide_alerts(watch, state, cause, rules)
        watch = _assess_canary(watch, watch.targets[name], cause, rules)
    return watch


def _decide_alerts(watch: Watch, state: TargetState, cause: Cause, rules: Rules) -> Watch:
    policy = watch.policies.get(str(state.target.version))
    of_clocks = clocks.find_wrong_clocks(watch, cause.own_offset_s, cause.at) if state.role == "active" else ()
    release_id = policy.release_id if policy else ""
    if state.release_id != release_id:
        state = state.model_copy(update={"release_id": release_id})
    assessed = observe_loop.assess(
        state,
        watch.alerts,
        sequential(policy.triggers) if policy else (),
        cause.at,
        rules=rules.alerts,
        environment=watch.environment,
        findings=of_clocks,
    )
    if assessed.watched is not watch.targets[str(state.target)]:
        watch = _with_target(watch, assessed.watched)
    return add_alerts(watch, assessed.alerts, assessed.facts, cause, assessed.watched)


def add_alerts(
    watch: Watch, alerts: dict[str, AlertState], facts: Sequence[AlertFact], cause: Cause, state: TargetState
) -> Watch:
    """Return the record with the decided alerts, and with their facts in the outbox."""
    if alerts == watch.alerts:
        return watch
    watch = watch.model_copy(update={"alerts": alerts})
    return _say(watch, cause, [(f"{fact.alert_id}:{cause.at.isoformat()}", fact) for fact in facts], state)


def _assess_canary(watch: Watch, state: TargetState, cause: Cause, rules: Rules) -> Watch:
    policy = watch.policies.get(str(state.target.version))
    if state.role != "canary" or policy is None or state.assessed.startswith(("pass", "fail")):
        return watch
    fact = assess_canary(policy, state)
    mark = f"{fact.verdict}:{fact.requests}"
    last = state.assessed_at
    recently = last is not None and (cause.at - last).total_seconds() < rules.assess_every_s
    if mark == state.assessed or (fact.verdict == "inconclusive" and recently):
        return watch
    state = state.model_copy(update={"assessed": mark, "assessed_at": cause.at})
    key = f"{state.target}:{state.weight_ratio:g}:{state.epoch}:{mark}"
    return _say(_with_target(watch, state), cause, [(key, fact)], state)


def _leave(watch: Watch, state: TargetState, cause: Cause, rules: Rules, reason: str) -> Watch:
    state, summaries = close_windows(state, cause.at, rules.windowing, all_of_them=True)
    name = str(state.target)
    watch = _say(watch, cause, [(f"{name}:{one.window.from_.isoformat()}", one) for one in summaries], state)
    decided = resolve_all(watch.alerts, state.target, cause.at, release_id=state.release_id or None, reason=reason)
    watch = add_alerts(watch, decided.alerts, decided.facts, cause, state)
    return watch.model_copy(update={"targets": {key: one for key, one in watch.targets.items() if key != name}})


def _say(watch: Watch, cause: Cause, facts: Iterable[tuple[str, Fact]], state: TargetState) -> Watch:
    correlation_id = state.release_id or cause.correlation_id or cause.id
    said = tuple(
        outgoing(fact, key=key, cause_id=cause.id, correlation_id=correlation_id, at=cause.at) for key, fact in facts
    )
    return watch.model_copy(update={"outbox": (*watch.outbox, *said)}) if said else watch


def _sift(
    watch: Watch, records: Sequence[Inference], now: datetime, rules: Rules, offset_s: float
) -> tuple[Watch, list[Inference]]:
    """Leave aside what came before and what cannot be true."""
    order = [watch.seen[at : at + _KEY_CHARS] for at in range(0, len(watch.seen), _KEY_CHARS)]
    seen, fresh, duplicates, implausible = set(order), list[Inference](), 0, 0
    newest = now + timedelta(seconds=rules.windowing.ahead_s)
    for sent, record in zip(records, put_right(records, offset_s), strict=True):
        mine = (record.target.model, record.environment) == (watch.model, watch.environment)
        if not mine or not is_plausible(record) or ended_at(record) > newest:
            implausible += 1
            continue
        key = _record_key(sent)
        if key in seen:
            duplicates += 1
            continue
        seen.add(key)
        order.append(key)
        fresh.append(record)
    update = {
        "seen": "".join(order[-SEEN_KEPT:]),
        "duplicates": watch.duplicates + duplicates,
        "implausible": watch.implausible + implausible,
    }
    return watch.model_copy(update=update), fresh


def _record_key(record: Inference) -> str:
    """Name a record by more than its request id, which callers may choose and use again."""
    text = f"{record.request_id}|{record.scheduled_at.isoformat()}|{record.target}|{record.e2e_ms!r}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:9]).decode()


def _newcomer(watch: Watch, record: Inference, now: datetime) -> TargetState | None:
    """Begin to watch a target that no route named yet; a route that is known names all that is watched."""
    if watch.route_known and watch.environment == "production":
        return None
    role: Role = "canary" if record.canary and watch.environment == "production" else "active"
    return _fresh(watch, record.target, role, now)


def _fresh(watch: Watch, target: Target, role: Role, now: datetime) -> TargetState:
    policy = watch.policies.get(str(target.version))
    release = policy.release_id if policy else ""
    return TargetState(target=target, role=role, release_id=release, since=now, last_at=now, drift=DriftState())


def _may_gather(watch: Watch, state: TargetState) -> bool:
    """Return whether requests may go into drift windows: not while something else is wrong with the target."""
    wrong = any(
        one.open and one.target == state.target and one.kind not in ("drift", "clock") for one in watch.alerts.values()
    )
    return watch.environment == "production" and state.role == "active" and not wrong


def _roles(route: Route) -> dict[str, tuple[Target, Role, float]]:
    found: dict[str, tuple[Target, Role, float]] = {}
    if route.canary is not None and route.canary.weight_ratio > 0.0:
        target = route.canary.served.target
        if not route.is_quarantined(target):
            found[str(target)] = (target, "canary", route.canary.weight_ratio)
    if route.active is not None:
        found[str(route.active.target)] = (route.active.target, "active", 1.0)
    return found


def _with_target(watch: Watch, state: TargetState) -> Watch:
    return watch.model_copy(update={"targets": {**watch.targets, str(state.target): state}})


def _applied(watch: Watch, cause_id: str) -> Watch:
    return watch.model_copy(update={"applied": (*watch.applied, cause_id)[-APPLIED_KEPT:]})
