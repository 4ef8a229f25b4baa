"""Steps of a decided rollback: switch, verification on live traffic, or failure. Pure edits of the record."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from contracts.codes import Code
from contracts.envelope import derived_id
from contracts.facts import DeploymentChanged, Fact, Inference, RollbackCompleted, RollbackFailed
from contracts.routes import Route
from contracts.trigger_metrics import CANCELLED
from contracts.vocabulary import Verdict
from decisions.evidence.attribution import is_excused
from decisions.evidence.triggers import observe
from decisions.routes.edits import Edit, end_trial, is_returning, roll_back
from services.rollback_controller.domain.record import Rollback, RollbackState, Rules, publish


def pending(state: RollbackState) -> tuple[Rollback, ...]:
    """Return the decided rollbacks that are not executed."""
    return tuple(rollback for rollback in state.rollbacks if rollback.phase == "decided")


def unverified(state: RollbackState) -> tuple[Rollback, ...]:
    """Return the rollbacks that switched traffic and are not verified."""
    return tuple(rollback for rollback in state.rollbacks if rollback.phase == "switched")


def edit(rollback: Rollback, route: Route, now: datetime) -> Edit:
    """Return the edit of the route by a rollback; a version on return is suspended again after its release's end."""
    if rollback.origin == "release" and is_returning(route, rollback.failed):
        return end_trial(route, rollback.failed, cause_id=rollback.rollback_id)
    return roll_back(
        route,
        rollback.failed,
        cause_id=rollback.rollback_id,
        to_version=rollback.to_version,
        suspended_by=(rollback.reason, now) if rollback.origin == "alert" else None,
        judged_by=rollback.judged_by,
    )


def record_switch(
    state: RollbackState, rollback_id: str, route: Route, cause: Literal["rollback", "abort"], now: datetime
) -> RollbackState:
    """Record and publish that traffic moved, at most once.

    If another replica recorded a failure before, the route counts: the switch overrides it, if it is the last edit.
    """
    rollback = state.rollback(rollback_id)
    if rollback is None or rollback.phase not in ("decided", "failed"):
        return state
    if rollback.phase == "failed" and route.last_edit_id != rollback_id:
        return state
    fact = DeploymentChanged(route=route, cause=cause, at=now)
    changes = {
        "phase": "switched",
        "code": None,
        "to": route.active.target if route.active else None,
        "timeline": rollback.timeline.model_copy(
            update={"switched_at": _not_before(rollback.timeline.decided_at, now)}
        ),
        "route_event_id": derived_id(rollback.cause_id, DeploymentChanged.TYPE, rollback.rollback_id),
    }
    return _apply(state, rollback, changes, fact, now)


def record_failure(state: RollbackState, rollback_id: str, code: Code, reason: str, now: datetime) -> RollbackState:
    """Record and publish that a rollback could not be executed, at most once."""
    rollback = state.rollback(rollback_id)
    if rollback is None or rollback.phase != "decided":
        return state
    fact = RollbackFailed(
        alert_id=rollback.alert_id,
        rollback_id=rollback.rollback_id,
        cause_id=rollback.cause_id,
        failed=rollback.failed,
        mode=rollback.mode,
        timeline=rollback.timeline,
        code=code,
        reason=reason,
    )
    return _apply(state, rollback, {"phase": "failed", "code": code}, fact, now)


def has_moved(state: RollbackState, rollback: Rollback, route: Route) -> bool:
    """Return whether a rollback moved traffic, although the route has a later edit.

    Its process may have died after the switch. The failed target took traffic at the decision, so if it is barred now
    and no other rollback did it, this one did.
    """
    others = [
        other
        for other in state.rollbacks
        if other.failed == rollback.failed and other.rollback_id != rollback.rollback_id
    ]
    by_another = any(
        other.rollback_id == route.last_edit_id
        or (other.phase in ("switched", "completed") and _since(other, rollback))
        for other in others
    )
    return route.is_barred(rollback.failed) and not by_another


def _since(other: Rollback, rollback: Rollback) -> bool:
    """Return whether `other` moved traffic after `rollback` was decided."""
    decided_at, switched_at = rollback.timeline.decided_at, other.timeline.switched_at
    return decided_at is None or (switched_at is not None and switched_at >= decided_at)


def assess_requests(state: RollbackState, records: Sequence[Inference], now: datetime, rules: Rules) -> RollbackState:
    """Count live requests after a switch; complete the verification at `verify_requests`."""
    for rollback in unverified(state):
        good, bad = _count(state, rollback, records)
        if not good and not bad:
            continue
        counted = rollback.model_copy(update={"good": rollback.good + good, "bad": rollback.bad + bad})
        if counted.good + counted.bad >= rules.verify_requests:
            verdict, reason = _assess_counts(counted)
            state = _complete(state, counted, verdict, reason, now)
        else:
            state = _replace(state, counted)
    return state


def end_all(state: RollbackState, reason: str, now: datetime) -> RollbackState:
    """End and publish every rollback in progress: pending as cancelled, unverified as inconclusive."""
    for rollback in pending(state):
        state = record_failure(state, rollback.rollback_id, "cancelled", reason, now)
    for rollback in unverified(state):
        state = _complete(state, rollback, "inconclusive", reason, now)
    return state


def overdue_verifications(state: RollbackState, now: datetime, rules: Rules) -> tuple[Rollback, ...]:
    """Return the unverified rollbacks with a switch `verify_s` ago, or ahead after a clock was set back."""
    limit = timedelta(seconds=rules.verify_s)
    return tuple(
        rollback for rollback in unverified(state) if abs(now - (rollback.timeline.switched_at or now)) >= limit
    )


def assess_by_probe(state: RollbackState, rollback_id: str, *, answers: bool | None, now: datetime) -> RollbackState:
    """End a verification with too little traffic by a probe; the switch stands.

    Args:
        state: The record.
        rollback_id: The rollback.
        answers: Whether its target answered a probe; None if the target no longer serves.
        now: The time of the decision.
    """
    rollback = state.rollback(rollback_id)
    if rollback is None or rollback.phase != "switched":
        return state
    seen = rollback.good + rollback.bad
    traffic = f"{rollback.good} of {seen} requests were good" if seen else "No request came"
    probe = {
        True: f"{rollback.to} answered a probe",
        False: f"{rollback.to} did not answer a probe",
        None: f"{rollback.to} does not serve any more",
    }[answers]
    verdict: Verdict = "fail" if answers is False else "inconclusive"
    return _complete(state, rollback, verdict, f"{traffic}; {probe}.", now)


def _count(state: RollbackState, rollback: Rollback, records: Sequence[Inference]) -> tuple[int, int]:
    trigger = state.trigger(rollback.failed, rollback.trigger)
    declared = state.triggers.get(str(rollback.failed.version), ())
    good = bad = 0
    for record in records:
        since = rollback.timeline.switched_at
        if record.target != rollback.to or since is None or record.scheduled_at < since:
            continue
        if record.finish_reason == CANCELLED or is_excused(record):
            continue
        exceeded = observe(trigger, record, declared) if trigger is not None else None
        is_bad = record.error is not None if exceeded is None else exceeded or record.error is not None
        good, bad = good + (not is_bad), bad + is_bad
    return good, bad


def _assess_counts(rollback: Rollback) -> tuple[Verdict, str]:
    seen = rollback.good + rollback.bad
    if rollback.good * 2 > seen:
        return "pass", f"{rollback.good} of the first {seen} requests on {rollback.to} were good."
    reason = f"Only {rollback.good} of the first {seen} requests on {rollback.to} were good"
    return "fail", f"{reason}: the version is hardly the cause."


def _not_before(step: datetime | None, now: datetime) -> datetime:
    """Return the time of a step, not before the preceding step, which a replica with a fast clock may have taken."""
    return now if step is None else max(step, now)


def _complete(state: RollbackState, rollback: Rollback, verdict: Verdict, reason: str, now: datetime) -> RollbackState:
    verified_at = _not_before(rollback.timeline.switched_at, now) if verdict == "pass" else None
    timeline = rollback.timeline.model_copy(update={"verified_at": verified_at})
    fact = RollbackCompleted(
        rollback_id=rollback.rollback_id,
        cause_id=rollback.cause_id,
        failed=rollback.failed,
        to=rollback.to,
        mode=rollback.mode,
        timeline=timeline,
        verdict=verdict,
        reason=reason,
    )
    changes = {"phase": "completed", "verdict": verdict, "timeline": timeline}
    return _apply(state, rollback, changes, fact, now)


def _apply(
    state: RollbackState, rollback: Rollback, changes: dict[str, Any], fact: Fact, now: datetime
) -> RollbackState:
    """Return the record with a changed rollback, and the fact about it in the outbox."""
    return publish(_replace(state, rollback.model_copy(update=changes)), fact, rollback, now)


def _replace(state: RollbackState, changed: Rollback) -> RollbackState:
    rollbacks = tuple(
        changed if rollback.rollback_id == changed.rollback_id else rollback for rollback in state.rollbacks
    )
    return state.model_copy(update={"rollbacks": rollbacks})
