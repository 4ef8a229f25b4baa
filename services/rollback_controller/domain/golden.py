"""Checks of golden prompts in the record: one begins, ends, is published if it shows something new. Pure."""

from collections.abc import Sequence
from datetime import datetime

from contracts.envelope import derived_id
from contracts.facts import GoldenChecked, GoldenOutcome
from contracts.golden import GoldenPrompts
from contracts.records import outbox_entry
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Target
from decisions.evidence import golden
from decisions.evidence.alerts import PlainAlert
from services.rollback_controller.domain.record import RollbackState, with_entries


def due_check(
    state: RollbackState, route: Route | None, now: datetime
) -> tuple[GoldenPrompts, ServedTarget, ServedTarget | None] | None:
    """Return the golden prompts to ask now, the version that serves and the previous one; None if none is due."""
    if route is None or route.active is None:
        return None
    declared = state.golden.get(str(route.active.target.version))
    if declared is None:
        return None
    behind = route.previous.target if route.previous is not None else None
    if not golden.is_due(state.checks, route.active.target, behind, declared, now):
        return None
    return declared, route.active, route.previous


def begin_check(
    state: RollbackState, declared: GoldenPrompts, target: Target, other: Target | None, now: datetime
) -> RollbackState:
    """Return the record with a check that begins now; unchanged if another process has begun it."""
    if not golden.is_due(state.checks, target, other, declared, now):
        return state
    after = golden.begin(state.checks, target, other, now)
    before = state.checks
    if before is not None and before.raised_at is not None and after.raised_at is None:
        alert = _about(state, before.target, before.raised_at)
        state = with_entries(state, alert.entry("resolved", "Other versions serve by now.", now))
    return state.model_copy(update={"checks": after})


def end_check(
    state: RollbackState,
    declared: GoldenPrompts,
    begun_at: datetime,
    outcomes: Sequence[GoldenOutcome] | None,
    now: datetime,
) -> RollbackState:
    """Return the record with what a check showed, published if it is new; None: it was left out for want of capacity.

    A check that is not the last one that began shows nothing: versions, or who asks, have changed since.
    """
    before = state.checks
    if before is None or before.begun_at != begun_at or not before.is_open:
        return state
    if outcomes is None:
        return state.model_copy(update={"checks": golden.defer(before)})
    after = golden.note_check(before, declared, outcomes, now)
    state, after = _with_alert(state, after, declared, now)
    state = state.model_copy(update={"checks": after})
    if after.outcomes == before.outcomes and min(after.agreeing, golden.AGREEING) == min(
        before.agreeing, golden.AGREEING
    ):
        return state
    fact = GoldenChecked(
        target=after.target,
        other=after.other,
        checked_at=now,
        outcomes=after.outcomes,
        fallen=after.fallen,
        agreeing=after.agreeing,
        message=golden.describe(after, declared),
    )
    name = f"golden-{after.target}-{begun_at.isoformat()}"
    entry = outbox_entry(
        fact,
        model=state.model,
        environment=state.environment,
        cause_id=None,
        id=derived_id(name, GoldenChecked.TYPE),
        correlation_id=name,
        decided_at=now,
    )
    return with_entries(state, entry)


def _with_alert(
    state: RollbackState, checks: golden.GoldenChecks, declared: GoldenPrompts, now: datetime
) -> tuple[RollbackState, golden.GoldenChecks]:
    """Return the record and the checks with an alert raised or resolved: agreeing checks show a fall, or no more."""
    shows = checks.agreeing >= golden.AGREEING
    message = golden.describe(checks, declared)
    if shows and checks.raised_at is None:
        checks = checks.model_copy(update={"raised_at": now})
        return with_entries(state, _about(state, checks.target, now).entry("raised", message, now)), checks
    if not shows and checks.raised_at is not None:
        resolved = _about(state, checks.target, checks.raised_at).entry("resolved", message, now)
        return with_entries(state, resolved), checks.model_copy(update={"raised_at": None})
    return state, checks


def _about(state: RollbackState, target: Target, raised_at: datetime) -> PlainAlert:
    alert_id = f"golden-{target}-{raised_at.isoformat()}"
    return PlainAlert(alert_id, "quality", "warning", target, raised_at, state.environment)
