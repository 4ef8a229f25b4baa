"""Slices of live traffic in the record: one starts, is measured, ends and decides. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from contracts.envelope import derived_id
from contracts.facts import AlertRaised, AlertUpdated, Inference, SliceChanged, SliceCounts, SliceVerdict
from contracts.policy import Trigger
from contracts.records import outbox_entry
from contracts.routes import Route
from contracts.slices import Slice
from decisions.pairs import without_queue
from decisions.slices import STANDS, add_request, assess_callers, assess_slice, caller_key, describe
from decisions.triggers import CANCELLED, observe
from services.rollback_controller.domain.record import RollbackState, Trial

_LATE: Final = timedelta(seconds=10)
_LATEST: Final = timedelta(seconds=60)
"""How long after its end telemetry of a slice is awaited, at least and at most: answers that began in it still last."""
_BATCHES: Final = 512
_BATCH_CHARS: Final = 12
_OTHERS: Final = timedelta(seconds=120)
"""How long another alert of latency about the target is decided by the trial of the first one."""
_BEHIND: Final = timedelta(seconds=60)
"""A clock that shows an earlier time than so long before the slice was set back, and ends it; others differ by less."""


def hold(
    state: RollbackState, alert: AlertRaised | AlertUpdated, route: Route | None, share_ratio: float, now: datetime
) -> RollbackState:
    """Return the record with a trial of the previous version: its rollback is held from now on."""
    if find_trial(state, alert, now) is not None:
        return state
    if route is None or route.active is None or route.previous is None or route.active.target != alert.target:
        return state
    trial = Trial(
        alert_id=alert.alert_id,
        trigger=alert.trigger or "",
        target=alert.target,
        behind=route.previous.target,
        share_ratio=share_ratio,
        held_at=now,
    )
    return state.model_copy(update={"trial": trial})


def find_trial(state: RollbackState, alert: AlertRaised | AlertUpdated, now: datetime) -> Trial | None:
    """Return the trial that decides an alert; None if there is none, or only that of an earlier alert that is over.

    That both versions are slow counts for every alert about the target.
    """
    trial = state.trial
    if trial is None or trial.target != alert.target:
        return None
    if trial.alert_id == alert.alert_id or trial.verdict == "both" or is_sliced(state):
        return trial
    return trial if abs(now - (trial.ended_at or trial.held_at)) < _OTHERS else None


def start(state: RollbackState, duration_s: float, now: datetime) -> RollbackState:
    """Return the record with the slice of its trial started, and published."""
    trial = state.trial
    if trial is None or trial.starts_at is not None:
        return state
    started = trial.model_copy(
        update={"starts_at": now, "expires_at": now + timedelta(seconds=duration_s), "slice_id": _slice_id(trial, now)}
    )
    message = (
        f"{trial.share_ratio:.0%} of the requests go to {trial.behind} for {duration_s:g} s at most: both versions are "
        f"slow, and this decides whether {trial.target} is the cause."
    )
    return _publish(state.model_copy(update={"trial": started}), started, "started", message, now)


def is_sliced(state: RollbackState) -> bool:
    """Return whether a slice has started, and not ended."""
    return state.trial is not None and state.trial.starts_at is not None and state.trial.verdict is None


def add_records(state: RollbackState, records: Sequence[Inference], event_id: str) -> RollbackState:
    """Return the record with the labelled requests of its slice counted; no other request counts, none twice.

    Args:
        state: The record.
        records: Telemetry of the model.
        event_id: The id of the event that they came with: what is delivered again counts once.
    """
    trial = state.trial
    trigger = None if trial is None else state.trigger(trial.target, trial.trigger)
    if trial is None or trigger is None or not is_sliced(state):
        return state
    batch = derived_id(event_id, SliceChanged.TYPE)[-_BATCH_CHARS:]
    if batch in trial.batches:
        return state
    declared, counts = state.triggers.get(str(trial.target.version), ()), trial.counts
    callers, ended = dict(trial.callers), dict(trial.ended)
    for record in records:
        if record.slice != trial.slice_id or record.target not in (trial.target, trial.behind):
            continue
        bad = observe(trigger, without_queue(record), declared)
        on_target, caller = record.target == trial.target, caller_key(callers, record.holder or record.caller or "")
        if bad is None and record.finish_reason == CANCELLED:
            ended[caller] = ended.get(caller, 0) + 1
            callers.setdefault(caller, SliceCounts())
        if bad is not None:
            counts = add_request(counts, on_target=on_target, bad=bad)
            callers[caller] = add_request(callers.get(caller, SliceCounts()), on_target=on_target, bad=bad)
    if counts == trial.counts and ended == trial.ended:
        return state
    batches = (*trial.batches, batch)[-_BATCHES:]
    update = {"counts": counts, "callers": callers, "ended": ended, "batches": batches}
    return state.model_copy(update={"trial": trial.model_copy(update=update)})


def end_due(state: RollbackState, route: Route | None, now: datetime) -> RollbackState:
    """Return the record with its slice ended if it is over; a changed route ends it without a verdict."""
    trial = state.trial
    if trial is None or not is_sliced(state) or trial.starts_at is None or trial.expires_at is None:
        return state
    if not _is_on_route(trial, route):
        return _end(state, trial, "unknown", "The route changed. ", now)
    trigger = state.trigger(trial.target, trial.trigger)
    if trial.starts_at - _BEHIND <= now < trial.expires_at + _late(trigger):
        return state
    if trigger is None:
        return _end(state, trial, "unknown", "", now)
    verdict = assess_callers(trial.counts, trial.callers, trigger, trial.ended)
    carried = verdict != assess_slice(trial.counts, trigger)
    why = "One or two callers alone carry what this shows, or ended what they asked. " if carried else ""
    return _end(state, trial, verdict, why, now)


def forget(state: RollbackState, route: Route | None, now: datetime) -> RollbackState:
    """Return the record without a trial that counts no more: its versions are off the route, or it is old."""
    trial = state.trial
    if trial is None or is_sliced(state):
        return state
    old = abs(now - (trial.ended_at or trial.held_at)) >= STANDS
    return state.model_copy(update={"trial": None}) if old or not _is_on_route(trial, route) else state


def to_slice(trial: Trial) -> Slice | None:
    """Return the record that gateways follow; None before the slice starts."""
    if trial.starts_at is None or trial.expires_at is None:
        return None
    return Slice(
        slice_id=trial.slice_id,
        target=trial.target,
        behind=trial.behind,
        share_ratio=trial.share_ratio if trial.verdict is None else 0.0,
        starts_at=trial.starts_at,
        expires_at=trial.expires_at,
    )


def _late(trigger: Trigger | None) -> timedelta:
    """Return how long telemetry is awaited: a good answer may take the threshold, and a bad one twice that counts."""
    if trigger is None or not trigger.metric.endswith("_ms") or trigger.threshold is None:
        return _LATE
    return max(_LATE, timedelta(milliseconds=min(2.0 * trigger.threshold, _LATEST / timedelta(milliseconds=1))))


def _is_on_route(trial: Trial, route: Route | None) -> bool:
    if route is None or route.active is None or route.previous is None:
        return False
    return (route.active.target, route.previous.target) == (trial.target, trial.behind)


def _slice_id(trial: Trial, now: datetime) -> str:
    return derived_id(trial.alert_id, SliceChanged.TYPE, now.isoformat())


def _end(state: RollbackState, trial: Trial, verdict: SliceVerdict, why: str, now: datetime) -> RollbackState:
    ended = trial.model_copy(update={"verdict": verdict, "ended_at": now, "callers": {}, "ended": {}, "batches": ()})
    what = {
        "target": f"Only {trial.target} is slow: it is rolled back if the alert lasts.",
        "both": f"{trial.behind} is as slow: something else is the cause, and the rollback is held for ten minutes.",
        "unknown": f"That does not show a difference: {trial.target} is rolled back if the alert lasts.",
    }[verdict]
    message = f"{why}{describe(trial.counts)}. {what}"
    return _publish(state.model_copy(update={"trial": ended}), ended, "ended", message, now)


def _publish(
    state: RollbackState, trial: Trial, phase: Literal["started", "ended"], message: str, now: datetime
) -> RollbackState:
    assert trial.starts_at is not None  # noqa: S101 - only slices that started are published
    assert trial.expires_at is not None  # noqa: S101 - the same
    fact = SliceChanged(
        slice_id=trial.slice_id,
        phase=phase,
        target=trial.target,
        other=trial.behind,
        alert_id=trial.alert_id,
        trigger=trial.trigger,
        share_ratio=trial.share_ratio,
        starts_at=trial.starts_at,
        expires_at=trial.expires_at,
        verdict=trial.verdict,
        counts=trial.counts,
        message=message,
    )
    entry = outbox_entry(
        fact,
        model=state.model,
        environment=state.environment,
        cause_id=None,
        id=derived_id(trial.slice_id, SliceChanged.TYPE, phase),
        correlation_id=trial.alert_id,
        decided_at=now,
    )
    return state.model_copy(update={"outbox": (*state.outbox, entry)})
