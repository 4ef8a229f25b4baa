"""Decides which events start a rollback, as pure edits of the record; redelivered events change nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.codes import Code
from contracts.facts import (
    AlertRaised,
    AlertUpdated,
    CanaryAssessed,
    ReleaseFinished,
    RollbackFailed,
    RollbackOrdered,
    RollbackStarted,
    RollbackTimeline,
    ShadowAssessed,
)
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.evidence.triggers import can_judge
from decisions.rollback.orders import assess_epoch, assess_expiry, expiry
from decisions.rollback.rule import (
    READY,
    Standby,
    decide,
    describe_protection,
    evidence_of,
    has_recovered,
    plan_standby,
    rollback_id,
)
from decisions.routes.edits import put_back
from services.rollback_controller.domain.record import (
    HELD_KEPT,
    Rollback,
    RollbackState,
    Rules,
    add_rollback,
    publish,
)

MONITOR = "monitor"
"""The only identity that may publish alerts of triggers; other services raise alerts without a trigger."""


@dataclass(frozen=True)
class Cause:
    """The event behind a decision.

    Attributes:
        event_id: The event's id.
        correlation_id: Id of its release, alert or order.
        published_at: The event's time, by its publisher's clock.
        now: The time of the decision.
        stored_at: When the stream stored the event, by the server's clock; None: use `published_at`.
        sequence: The event's sequence number in the stream.
        sender: The identity that published it.
    """

    event_id: str
    correlation_id: str
    published_at: datetime
    now: datetime
    stored_at: datetime | None = None
    sequence: int = 0
    sender: str = ""

    @property
    def earliest(self) -> datetime:
        """The earlier of `published_at` and `stored_at`: a wrong clock makes no event younger."""
        return min(self.published_at, self.stored_at or self.published_at)


@dataclass(frozen=True)
class VoidOrder:
    """Why an order is void: expired, ambiguous, for another epoch, with a used id, or for a target without traffic."""

    reason: str
    code: Code = "not_in_traffic"


def lacks_policy(state: RollbackState, alert: AlertRaised | AlertUpdated, route: Route | None) -> bool:
    """Return whether an alert has a trigger, but its version's policy is not recorded.

    Events of different types arrive in any order, and records may be lost. Version 0, the base model, has no policy.
    """
    target = alert.target
    if alert.trigger is None:
        return False
    return target.version > 0 and str(target.version) not in state.triggers and takes_traffic(route, target)


def find_foreign(alert: AlertRaised | AlertUpdated, sender: str) -> str | None:
    """Return why an alert that would move traffic is ignored (not published by the monitor); None if it is valid."""
    if sender == MONITOR or not (alert.trigger is not None or alert.answers_nothing):
        return None
    what = f"is of the trigger {alert.trigger}" if alert.trigger is not None else "says that the target answers nothing"
    return (
        f"The alert {alert.alert_id} {what}, and counts for nothing: {sender} published it, and only {MONITOR} may. "
        f"Replace the credential of {sender}."
    )


def decide_on_alert(
    state: RollbackState,
    alert: AlertRaised | AlertUpdated,
    route: Route | None,
    cause: Cause,
    rules: Rules,
    *,
    standby: Standby = READY,
) -> RollbackState:
    """Return the record after an alert; a stale, resolved or already decided alert changes nothing."""
    if route is None or not concerns(state, alert, route, cause, rules):
        return state
    planned = plan_standby(route, alert)
    if isinstance(planned, Standby) and not standby.suspended:
        standby = planned
    is_active = route.active is not None and route.active.target == alert.target
    suspended = [entry.served.target for entry in put_back(route)] if is_active else []
    why = standby.why
    if suspended and not alert.answers_nothing:
        why = f"{suspended[0]} is suspended; {describe_protection(route)}."
    evidence = evidence_of(alert, state.trigger(alert.target, alert.trigger))
    decided = decide(evidence, standby.behind, suspended=bool(suspended), why=why)
    timeline = RollbackTimeline(first_bad_at=alert.first_bad_at, detected_at=alert.raised_at, decided_at=cause.now)
    started = Rollback(
        rollback_id=rollback_id(cause.event_id),
        cause_id=cause.event_id,
        correlation_id=cause.correlation_id,
        origin="alert",
        mode="automatic",
        failed=alert.target,
        timeline=timeline,
        reason=alert.message,
        alert_id=alert.alert_id,
        trigger=alert.trigger or "",
        judged_by=_judged_by(state, alert),
        to_version=standby.target.version if standby.target is not None and standby.suspended else None,
        replicas=standby.needed,
        cause_sequence=cause.sequence,
    )
    if decided.action == "move":
        return start(state, started)
    if decided.code is None or state.held.get(alert.alert_id) == decided.code:
        return state
    held = dict([*state.held.items(), (alert.alert_id, decided.code)][-HELD_KEPT:])
    failed = RollbackFailed(
        alert_id=alert.alert_id,
        rollback_id=started.rollback_id,
        cause_id=started.cause_id,
        failed=started.failed,
        mode="automatic",
        timeline=timeline,
        code=decided.code,
        reason=decided.reason,
    )
    return publish(state.model_copy(update={"held": held}), failed, started, cause.now)


def _judged_by(state: RollbackState, alert: AlertRaised | AlertUpdated) -> str:
    """Return the trigger by which the failed version's shadow can be judged; empty without one.

    A version that answered nothing cannot be judged: after a reload, answers prove nothing about the failure.
    """
    trigger = state.trigger(alert.target, alert.trigger)
    judges = trigger is not None and can_judge(trigger) and not alert.answers_nothing
    return trigger.name if trigger is not None and judges and state.environment == "production" else ""


def concerns(
    state: RollbackState, alert: AlertRaised | AlertUpdated, route: Route | None, cause: Cause, rules: Rules
) -> bool:
    """Return whether an alert needs a decision: open, current, and without a rollback."""
    earlier = [rollback for rollback in state.rollbacks if _is_of(rollback, alert)]
    begun = any(rollback.phase != "failed" for rollback in earlier) or state.rollback(rollback_id(cause.event_id))
    pending = any(rollback.phase == "decided" and rollback.failed == alert.target for rollback in state.rollbacks)
    if begun or pending or has_recovered(alert) or not is_current(state, alert.target, route, cause, rules):
        return False
    return state.environment == "production" or _is_rehearsed(state, alert, cause)


def _is_of(rollback: Rollback, alert: AlertRaised | AlertUpdated) -> bool:
    """Return whether a rollback is of an alert, by id and time: after a lost record, alert ids may repeat."""
    return rollback.alert_id == alert.alert_id and alert.raised_at == rollback.timeline.detected_at


def _is_rehearsed(state: RollbackState, alert: AlertRaised | AlertUpdated, cause: Cause) -> bool:
    """Return whether a staging alert is of the rehearsed trigger and after the attempt's start."""
    if not state.rehearsing:
        return True
    return alert.trigger == state.rehearsing and not 0 < cause.sequence <= state.rehearsing_since


def decide_on_order(
    state: RollbackState, order: RollbackOrdered, route: Route | None, cause: Cause, rules: Rules
) -> RollbackState | VoidOrder:
    """Return the record after an operator's order, or why the order is void; a refused order stays refused."""
    known = state.rollback(rollback_id(cause.event_id))
    if known is not None:
        if not _is_repeated(known, cause):
            reason = (
                f"The id {cause.event_id} is that of an earlier event of {state.model}; give each event its own id."
            )
            return VoidOrder(reason, "malformed_event")
        refused = known.phase == "failed" and known.timeline.decided_at is None
        code: Code = known.code if known.code in ("order_expired", "stale_epoch") else "not_in_traffic"
        return VoidOrder(known.reason, code) if refused else state
    void = _void(state, order, route, cause)
    if void is not None:
        return void
    active = route.active.target if route is not None and route.active is not None else None
    failed = order.failed or active
    if failed is None or not (takes_traffic(route, failed) or failed == shadowed(route)):
        obstacle = f"{failed} takes no traffic" if failed else f"nothing serves {state.model}"
        return VoidOrder(f"{obstacle}; there is nothing to roll back.")
    switches = [
        rollback.timeline.switched_at for rollback in state.rollbacks if rollback.timeline.switched_at is not None
    ]
    if order.failed is None and switches and abs(cause.now - max(switches)) < timedelta(seconds=rules.unnamed_s):
        return VoidOrder(f"{state.model} was rolled back a moment ago, to {active}; name the target that is to go.")
    started = Rollback(
        rollback_id=rollback_id(cause.event_id),
        cause_id=cause.event_id,
        correlation_id=cause.correlation_id,
        origin="order",
        mode="manual",
        failed=failed,
        cause_sequence=cause.sequence,
        to_version=order.to_version,
        expires_at=expiry(cause.published_at, cause.stored_at or cause.published_at, order.expires_at),
        epoch=order.epoch,
        timeline=RollbackTimeline(detected_at=cause.published_at, decided_at=cause.now),
        reason=f"{cause.sender}: {order.reason}",
    )
    return start(state, started)


def record_refusal(
    state: RollbackState, order: RollbackOrdered, route: Route | None, cause: Cause, void: VoidOrder
) -> RollbackState:
    """Record a refused order, so that a redelivery is not executed after its target began to serve."""
    failed = order.failed or (route.active.target if route is not None and route.active is not None else None)
    if failed is None or state.rollback(rollback_id(cause.event_id)) is not None:
        return state
    refused = Rollback(
        rollback_id=rollback_id(cause.event_id),
        cause_id=cause.event_id,
        correlation_id=cause.correlation_id,
        origin="order",
        mode="manual",
        failed=failed,
        cause_sequence=cause.sequence,
        timeline=RollbackTimeline(detected_at=cause.published_at),
        reason=void.reason,
        phase="failed",
        code=void.code,
    )
    return add_rollback(state, refused)


def _is_repeated(known: Rollback, cause: Cause) -> bool:
    """Return whether an order is a redelivery of a recorded one, not another event with the same id.

    The sequence number in the log distinguishes them.
    """
    return known.origin == "order" and known.cause_sequence == cause.sequence


def _void(state: RollbackState, order: RollbackOrdered, route: Route | None, cause: Cause) -> VoidOrder | None:
    age = assess_expiry(cause.published_at, cause.stored_at or cause.published_at, order.expires_at, cause.now)
    if age is not None:
        return VoidOrder(age, "order_expired")
    since = None if route is None or order.failed is None else route.epoch - route.moves
    epoch = assess_epoch(order.epoch, route.epoch if route is not None else None, state.model, since)
    return VoidOrder(epoch, "stale_epoch") if epoch is not None else None


def assess_order(started: Rollback, route: Route, now: datetime) -> VoidOrder | None:
    """Return why a decided rollback's order has become void before its execution; None while valid."""
    if started.expires_at is not None and now >= started.expires_at:
        until = started.expires_at.isoformat(timespec="seconds")
        return VoidOrder(f"The order was valid until {until} and was not carried out by then.", "order_expired")
    epoch = assess_epoch(started.epoch, route.epoch, route.model, route.epoch - route.moves)
    return VoidOrder(epoch, "stale_epoch") if epoch is not None else None


def decide_on_assessment(
    state: RollbackState, fact: CanaryAssessed | ShadowAssessed, route: Route | None, cause: Cause
) -> RollbackState:
    """Start the rollback of a canary, or the end of a shadow, that failed its assessment."""
    if isinstance(fact, ShadowAssessed):
        if fact.verdict != "fail" or shadowed(route) != fact.target:
            return state
        return _abort(state, fact.target, "shadow", f"The shadow failed: {fact.reason}", cause)
    if fact.verdict != "fail" or serving_canary(route) != fact.target:
        return state
    return _abort(state, fact.target, "canary", f"The canary failed: {fact.reason}", cause)


def decide_on_release_end(
    state: RollbackState, fact: ReleaseFinished, route: Route | None, cause: Cause
) -> RollbackState:
    """Start the end of a canary, shadow or return of a release that ended without promotion.

    A version may return by several releases; the end of an earlier one does not affect a later one.
    """
    trials: dict[Target | None, str] = {serving_canary(route): "", shadowed(route): ""}
    if route is not None:
        canary = route.canary_in_traffic
        held = [*route.suspended, *([canary.returns] if canary is not None and canary.returns is not None else [])]
        trials |= {entry.served.target: entry.returned_by for entry in held if entry.returned_by}
    ended = [each for each, by in trials.items() if each is not None and fact.returned_by in (None, by)]
    target = next((target for target in ended if target.version == fact.version), None)
    if fact.outcome == "promoted" or target is None:
        return state
    origin: Literal["canary", "release"] = "canary" if fact.code == "gate_failed" else "release"
    return _abort(state, target, origin, f"Its release ended as {fact.outcome}: {fact.reason}", cause)


def is_current(state: RollbackState, target: Target, route: Route | None, cause: Cause, rules: Rules) -> bool:
    """Return whether an alert is current: recent, and its target takes traffic and was not rolled back since."""
    recent = cause.now - cause.earliest < timedelta(seconds=rules.alert_s)
    switches = [rollback.timeline.switched_at for rollback in state.rollbacks if rollback.failed == target]
    since = any(switched_at is not None and switched_at > cause.earliest for switched_at in switches)
    return recent and not since and takes_traffic(route, target)


def takes_traffic(route: Route | None, target: Target) -> bool:
    """Return whether a target takes traffic, as active or canary."""
    return route is not None and route.takes_traffic(target)


def serving_canary(route: Route | None) -> Target | None:
    """Return the canary with traffic; None without one."""
    canary = route.canary_in_traffic if route is not None else None
    return canary.served.target if canary is not None else None


def shadowed(route: Route | None) -> Target | None:
    """Return the shadow (a candidate with mirrored requests and no traffic); None without one."""
    served = route.shadowed if route is not None else None
    return served.target if served is not None else None


def _abort(
    state: RollbackState, target: Target, origin: Literal["canary", "shadow", "release"], reason: str, cause: Cause
) -> RollbackState:
    if any(rollback.failed == target and rollback.phase == "decided" for rollback in state.rollbacks):
        return state
    started = Rollback(
        rollback_id=rollback_id(cause.event_id),
        cause_id=cause.event_id,
        origin=origin,
        correlation_id=cause.correlation_id,
        mode="automatic",
        failed=target,
        reason=reason,
        timeline=RollbackTimeline(detected_at=cause.published_at, decided_at=cause.now),
    )
    return state if state.rollback(started.rollback_id) is not None else start(state, started)


def start(state: RollbackState, started: Rollback) -> RollbackState:
    """Return the record with a new rollback, and its start in the outbox."""
    fact = RollbackStarted(
        rollback_id=started.rollback_id,
        cause_id=started.cause_id,
        failed=started.failed,
        mode=started.mode,
        timeline=started.timeline,
    )
    decided_at = started.timeline.decided_at or started.timeline.detected_at
    return publish(add_rollback(state, started), fact, started, decided_at)
