"""Rebuilds what a lost record knew: from the route, the signed policies, and the log of alerts. Pure."""

from collections.abc import Mapping

from contracts.policy import ReleasePolicy
from contracts.records import outbox_entry
from contracts.routes import Route
from decisions.alerts import PastAlerts, resolve_lost
from decisions.route_edits import versions_at_hand
from services.monitor.domain.monitoring import Cause, Rules, add_policy, follow_route
from services.monitor.domain.record import MonitorState


def lacking(state: MonitorState, route: Route) -> tuple[int, ...]:
    """Return the routed versions whose policies are not in the record; the base model (0) has none."""
    routed = sorted(versions_at_hand(route))
    return tuple(version for version in routed if version and str(version) not in state.policies)


def follow_stored(state: MonitorState, route: Route, alerts: PastAlerts, cause: Cause, rules: Rules) -> MonitorState:
    """Follow a route that no event told of; the alerts of a record that was lost are resolved.

    Alerts are numbered after those of the lost record, so that no id is used again.
    """
    if not state.route_known:
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
            for alert in alerts.open
            if alert.alert_id not in {known.alert_id for known in state.alerts.values()}
        )
        lost = {"outbox": (*state.outbox, *entries), "dropped": max(state.dropped, alerts.last)}
        state = state.model_copy(update=lost)
    return follow_route(state, route, cause, rules)


def add_signed(
    state: MonitorState, route: Route, found: Mapping[int, tuple[str, ReleasePolicy] | str], cause: Cause
) -> MonitorState:
    """Add policies that were read, by version, with their releases; note why others could not be read."""
    for version in lacking(state, route):
        signed = found.get(version)
        if isinstance(signed, tuple):
            of_version = Cause(f"{cause.id}/v{version}", cause.at)
            state = add_policy(state, version, *signed, of_version)
    unknown = {str(version): str(found.get(version, "")) for version in lacking(state, route)}
    return state if unknown == state.unknown else state.model_copy(update={"unknown": unknown})
