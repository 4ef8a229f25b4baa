"""Rebuilds a lost record from the route, the signed policies, and the log of alerts. Pure."""

from collections.abc import Mapping, Sequence

from contracts.facts import AlertRaised
from contracts.policy import ReleasePolicy
from contracts.records import outbox_entry
from contracts.routes import Route
from decisions.evidence.alerts import resolve_lost
from decisions.routes.versions import without_policy
from services.monitor.domain.monitoring import Cause, add_policy
from services.monitor.domain.record import MonitorState


def resolve_past(state: MonitorState, still_open: Sequence[AlertRaised], cause: Cause) -> MonitorState:
    """Resolve alerts that are open in the log but missing in the record."""
    known = {alert.alert_id for alert in state.alerts.values()}
    entries = tuple(
        outbox_entry(
            resolve_lost(alert),
            model=state.model,
            environment=state.environment,
            key=alert.alert_id,
            cause_id=cause.id,
            correlation_id=alert.release_id or cause.id,
            decided_at=cause.at,
        )
        for alert in still_open
        if alert.alert_id not in known
    )
    return state.model_copy(update={"outbox": (*state.outbox, *entries), "past_read": True})


def add_signed(
    state: MonitorState, route: Route, found: Mapping[int, tuple[str, ReleasePolicy] | str], cause: Cause
) -> MonitorState:
    """Add signed policies, by version as (release, policy), and record why others are unreadable."""
    for version in without_policy(route, state.policies):
        signed = found.get(version)
        if isinstance(signed, tuple):
            of_version = Cause(f"{cause.id}/v{version}", cause.at)
            state = add_policy(state, version, *signed, of_version)
    unknown = {str(version): str(found.get(version, "")) for version in without_policy(route, state.policies)}
    return state if unknown == state.unknown else state.model_copy(update={"unknown": unknown})
