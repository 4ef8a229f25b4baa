"""Whether an alert may start a rollback, and what is known of who caused it. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contracts.codes import Code
from contracts.facts import AlertRaised, AlertUpdated
from contracts.golden import GoldenPrompts
from contracts.policy import Trigger
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from decisions.golden import shown_of
from decisions.probed import Shown, can_probe
from decisions.rollback import (
    Decision,
    Doubt,
    Guard,
    Hold,
    PastRollback,
    RollBack,
    can_hold,
    decide_rollback,
    has_recovered,
    rollback_id,
)
from decisions.route_edits import Changed, EditRefused, roll_back
from services.rollback_controller.domain.record import HELD_KEPT, Rollback, RollbackState
from services.rollback_controller.domain.slices import find_trial

_UNBROKEN: Final = timedelta(seconds=90)
"""The longest time between two probes that fail in which the target is taken to fail: updates of an alert come every
15 s, more seldom where a model has few requests."""


def find_sides(route: Route | None, failed: Target) -> tuple[ServedTarget, ServedTarget] | None:
    """Return a target in traffic and the one that its traffic would move to; None without either."""
    if route is None:
        return None
    edit = roll_back(route, failed, cause_id="probe")
    serving = (route.active, route.canary.served if route.canary is not None else None)
    served = next((side for side in serving if side is not None and side.target == failed), None)
    behind = edit.route.active if isinstance(edit, Changed) else None
    return None if served is None or behind is None else (served, behind)


def holds_both_slow(state: RollbackState, sides: tuple[ServedTarget, ServedTarget], *, load_rose: bool) -> bool:
    """Return whether both sides slow may hold a rollback: then it matters if the previous version answers at all."""
    return state.trial is not None or load_rose or _are_apart(sides)


def _are_apart(sides: tuple[ServedTarget, ServedTarget]) -> bool:
    return set(sides[0].endpoints).isdisjoint(sides[1].endpoints)


@dataclass(frozen=True)
class Moment:
    """What is seen at the time of a decision.

    Attributes:
        shown: What probes show; None if nothing was probed, or no two agree.
        is_gone: Probes of the target met errors at once.
        other_answers: The previous version answered a probe.
        load_rose: The load that callers offer has risen.
        share_ratio: Share of the live traffic that a slice would have; 0 for no slices.
    """

    shown: Shown | None = None
    is_gone: bool = False
    other_answers: bool = False
    load_rose: bool = False
    share_ratio: float = 0.0


def doubt_about(
    state: RollbackState, alert: AlertRaised | AlertUpdated, route: Route | None, moment: Moment, now: datetime
) -> Doubt:
    """Return what is known of who caused an alert."""
    sides = find_sides(route, alert.target)
    trial = find_trial(state, alert, now)
    golden = state.golden.get(str(alert.target.version), GoldenPrompts())
    return Doubt(
        confirmed_by=alert.confirmed_by,
        shown=moment.shown,
        is_apart=sides is not None and _are_apart(sides),
        raised_at=alert.raised_at,
        deaths=alert.deaths,
        failing_since=state.failing.get(alert.alert_id),
        is_gone=moment.is_gone,
        golden=shown_of(state.checks, alert.target, golden, now),
        load_rose=moment.load_rose,
        held_at=trial.held_at if trial is not None else None,
        can_slice=moment.share_ratio > 0.0 and moment.other_answers and _may_slice(state, alert, route),
        is_sliced=trial is not None and trial.starts_at is not None and trial.verdict is None,
        slice=trial.verdict if trial is not None else None,
    )


def _may_slice(state: RollbackState, alert: AlertRaised | AlertUpdated, route: Route | None) -> bool:
    """Return whether a slice can decide: in production, of the active version, with a previous one that may serve.

    Not after deaths of the engine: what it died of must not reach the previous version.
    """
    if alert.deaths is not None and alert.deaths.deaths > 0:
        return False
    if state.environment != "production" or route is None or route.active is None or route.previous is None:
        return False
    return route.active.target == alert.target and not route.is_quarantined(route.previous.target)


def reason_of(state: RollbackState, alert: AlertRaised | AlertUpdated, doubt: Doubt) -> str:
    """Return why an alert starts a rollback: its message, and the golden prompts that confirm it."""
    checks = state.checks
    if checks is None or doubt.golden != "target" or doubt.confirmed_by != "none" or alert.kind != "quality":
        return alert.message
    return f"{alert.message} Only {checks.target} fails the golden prompts {', '.join(checks.fallen)}."


def note_shown(
    state: RollbackState,
    alert: AlertRaised | AlertUpdated,
    shown: Shown | None,
    now: datetime,
    *,
    is_gone: bool = False,
) -> RollbackState:
    """Return the record with since when probes fail of a target whose engine died and answers callers again.

    Or of one that fails them though no death of it is known (`is_gone`).

    After a pause nothing is known of the time in between, as where the monitor stood still, or a clock was set: then it
    begins anew.
    """
    failing, failed_at = dict(state.failing), dict(state.failed_at)
    since, last = failing.pop(alert.alert_id, now), failed_at.pop(alert.alert_id, None)
    is_dead = alert.deaths is not None and alert.deaths.dead_since is not None
    if shown == "target" and not is_dead and (alert.deaths is not None or is_gone):
        if last is None or not timedelta() <= now - last <= _UNBROKEN:
            since = now
        failing = dict([*failing.items(), (alert.alert_id, since)][-HELD_KEPT:])
        failed_at = dict([*failed_at.items(), (alert.alert_id, now)][-HELD_KEPT:])
    if (failing, failed_at) == (state.failing, state.failed_at):
        return state
    return state.model_copy(update={"failing": failing, "failed_at": failed_at})


def needs_probes(
    state: RollbackState,
    alert: AlertRaised | AlertUpdated,
    event_id: str,
    now: datetime,
    *,
    guard: Guard,
    retry_s: float,
) -> Trigger | None:
    """Return the trigger of an alert that only probes can confirm now; None if its decision needs none."""
    trigger = state.trigger(alert.target, alert.trigger)
    if has_recovered(alert):
        return None
    if trigger is None or not can_hold(alert.confirmed_by, trigger) or not can_probe(trigger):
        return None
    starts = may_start(state, alert, event_id, now, retry_s)
    return (
        trigger
        if starts and isinstance(decide_rollback(trigger, past_rollbacks(state), now, guard), RollBack)
        else None
    )


def may_start(
    state: RollbackState, alert: AlertRaised | AlertUpdated, event_id: str, now: datetime, retry_s: float
) -> bool:
    """Return whether an alert may start a rollback: none of its own is pending, done, or failed a moment ago."""
    earlier = [rollback for rollback in state.rollbacks if _is_of(rollback, alert)]
    if any(rollback.phase != "failed" for rollback in earlier) or state.rollback(rollback_id(event_id)) is not None:
        return False
    pending = any(rollback.phase == "decided" and rollback.failed == alert.target for rollback in state.rollbacks)
    last = max((rollback.timeline.decided_at or rollback.timeline.detected_at for rollback in earlier), default=None)
    # A clock that was set back must not hold an alert for as long as it was ahead.
    return not pending and (last is None or abs(now - last) >= timedelta(seconds=retry_s))


def _is_of(rollback: Rollback, alert: AlertRaised | AlertUpdated) -> bool:
    """Return whether an alert led to a rollback: where a record was lost, a later alert may have the id again."""
    return rollback.alert_id == alert.alert_id and alert.raised_at in (None, rollback.timeline.detected_at)


def awaited_previous(state: RollbackState, alert: AlertUpdated, route: Route | None) -> ServedTarget | None:
    """Return the target that did not generate when an alert was to move traffic to it; None if that is not so.

    Until it does, updates of the alert start nothing: each would start another rollback, and fail it.
    """
    earlier = [rollback for rollback in state.rollbacks if _is_of(rollback, alert)]
    if route is None or not earlier or earlier[-1].code != "previous_not_ready":
        return None
    edit = roll_back(route, alert.target, cause_id="probe")
    return edit.route.active if isinstance(edit, Changed) and edit.cause == "rollback" else None


def hold_of(decision: Decision, route: Route | None, failed: Target) -> tuple[Code | None, str] | None:
    """Return why an alert starts no rollback, with the code that is published, if any; None if it starts one.

    Without a target to roll back to it is held: each update of the alert would start another rollback, and fail it.
    """
    if isinstance(decision, Hold):
        return decision.code, decision.reason
    edit = None if route is None else roll_back(route, failed, cause_id="decision")
    if isinstance(edit, EditRefused) and edit.code == "no_previous_target":
        return edit.code, f"{edit.reason} It is rolled back once there is one, if the alert lasts."
    return None


def past_rollbacks(state: RollbackState) -> list[PastRollback]:
    """Return the automatic rollbacks of a model that moved traffic."""
    return [
        PastRollback(rollback.trigger, rollback.timeline.switched_at)
        for rollback in state.rollbacks
        if rollback.mode == "automatic" and rollback.trigger and rollback.timeline.switched_at is not None
    ]
