"""Plans alerts: a production target that does not generate, a model without ready standby, an unproven target."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.facts import SuspensionJudged
from contracts.routes import Route
from contracts.vocabulary import Target
from services.server_manager.domain.reconcile import Held, Phase
from services.server_manager.domain.records import FleetAlert, OpenAlert, Servers, target_of

NOT_PROVEN = frozenset({"attestation_missing", "signature_invalid", "key_not_trusted", "digest_mismatch"})
"""Codes of loads refused because the target's attestation is missing or invalid."""


ITS_OWN = frozenset({"load_failed", "engine_dead", "no_first_token"})
"""Codes of failed loads that the target itself caused, not memory, disk or store."""
UNLOADABLE_AFTER = 5
"""Consecutive failed loads that confirm a suspension; with backoff, about a minute."""


@dataclass(frozen=True)
class AlertChange:
    """An alert to raise or to resolve."""

    kind: Literal["raised", "resolved"]
    alert: OpenAlert
    message: str


def plan_alerts(
    record: Servers,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    *,
    silent: Mapping[str, str],
    disarmed_s: Mapping[str, float],
    grace_s: float,
    now: datetime,
    unreadable: Collection[str] = (),
) -> list[AlertChange]:
    """Return the alerts to raise and to resolve.

    Args:
        record: the record with the open alerts.
        routes: routes by model.
        held: targets by name.
        silent: why a target's server does not answer, by target name.
        disarmed_s: seconds without a ready standby, by model.
        grace_s: seconds without a ready standby before its alert is raised.
        now: time of new alerts.
        unreadable: models with an unreadable route or unknown targets; `routes` may have their newest known route.
    """
    opened = {alert.alert_id for alert in record.alerts}
    wrong = _silent_targets(routes, held, silent)
    wrong += _blocked_targets(held)
    disarmed = assess_standby(routes, held, silent)
    wrong += [
        ("standby", _active(routes[model]), f"Automatic rollback of {model} is disarmed: {why}.")
        for model, why in sorted(disarmed.items())
        if disarmed_s.get(model, 0.0) >= grace_s
    ]
    fresh = [OpenAlert(kind=kind, target=target, raised_at=now, message=message) for kind, target, message in wrong]
    changes = [AlertChange("raised", alert, alert.message) for alert in fresh if alert.alert_id not in opened]
    for alert in record.alerts:
        if alert.target.model in unreadable and alert.target.model not in routes:
            continue  # unknown whether it serves
        over = _why_over(alert, routes, held, disarmed, silent)
        if over is not None:
            changes.append(AlertChange("resolved", alert, over))
    return changes


def note_failures(
    known: Mapping[tuple[Target, datetime], int], routes: Mapping[str, Route], held: Mapping[str, Held]
) -> dict[tuple[Target, datetime], int]:
    """Return the number of consecutive failed loads before each suspension, by target and start."""
    failures = {
        (entry.served.target, entry.since): held[name].failures if (name := str(entry.served.target)) in held else 0
        for route in routes.values()
        for entry in route.suspended
    }
    return {key: min(count, known.get(key, count)) for key, count in failures.items()}


def find_unloadable(
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    silent: Mapping[str, str],
    before: Mapping[tuple[Target, datetime], int],
) -> list[SuspensionJudged]:
    """Return verdicts on suspended targets that fail to load, although the active version and others generate.

    Args:
        routes: routes by model.
        held: targets by name.
        silent: why a target's server does not answer, by target name.
        before: failed loads before each suspension (`note_failures`).
    """
    verdicts = []
    well = {state.endpoint for name, state in held.items() if state.phase is Phase.READY and name not in silent}
    for route in routes.values():
        active = str(route.active.target) if route.active is not None else ""
        serving = held.get(active) if active not in silent else None
        for entry in route.suspended if serving is not None and serving.phase is Phase.READY else ():
            target, state = entry.served.target, held.get(str(entry.served.target))
            if state is None or state.phase is not Phase.FAILED or state.code not in ITS_OWN or entry.returned_by:
                continue
            since = state.failures - before.get((target, entry.since), 0)
            if state.endpoint in well and since >= UNLOADABLE_AFTER:
                reason = f"{target} does not load again: {state.reason}"
                about = {"trigger": entry.trigger, "reason": reason}
                verdicts.append(SuspensionJudged(target=target, since=entry.since, verdict="confirmed", **about))
    return verdicts


def assess_standby(routes: Mapping[str, Route], held: Mapping[str, Held], silent: Mapping[str, str]) -> dict[str, str]:
    """Return why automatic rollback is disarmed, by serving model without a ready standby."""
    reasons = {}
    for model, route in routes.items():
        why = _why_disarmed(route, held, silent)
        if why is not None:
            reasons[model] = why
    return reasons


def _why_disarmed(route: Route, held: Mapping[str, Held], silent: Mapping[str, str]) -> str | None:
    if route.active is None:
        return None
    if route.previous is None:
        return f"{route.active.target} has no previous version"
    name = str(route.previous.target)
    state = held.get(name)
    if name in silent:
        return f"{name} is out of reach, {silent[name]}"
    if state is None:
        return f"{name} is not loaded"
    if state.phase is Phase.READY:
        return None
    condition = {
        Phase.LOADING: "is being loaded",
        Phase.UNPROVEN: "has not generated yet",
        Phase.DEAD: "does not generate",
        Phase.FAILED: "could not be loaded",
        Phase.UNLOADING: "is being unloaded",
    }[state.phase]
    return f"{name} {condition}" + (f" ({state.reason.rstrip('.')})" if state.reason else "")


def _active(route: Route) -> Target:
    assert route.active is not None  # noqa: S101 - only routes that serve can be disarmed
    return route.active.target


def _serving(routes: Mapping[str, Route]) -> dict[str, Target]:
    """Return the targets with production traffic, by name."""
    return {str(served.target): served.target for route in routes.values() for served in route.in_traffic}


def _silent_targets(
    routes: Mapping[str, Route], held: Mapping[str, Held], silent: Mapping[str, str]
) -> list[tuple[FleetAlert, Target, str]]:
    """Return alerts for targets with traffic that do not generate, except during their first load."""
    wrong: list[tuple[FleetAlert, Target, str]] = []
    for name, target in sorted(_serving(routes).items()):
        state = held.get(name)
        if name in silent or (state is not None and state.phase in {Phase.DEAD, Phase.FAILED}):
            why = state.reason if state is not None and state.reason else silent.get(name, "no reason is known")
            wrong.append(("engine", target, f"{name} does not generate: {why}"))
    return wrong


def _blocked_targets(held: Mapping[str, Held]) -> list[tuple[FleetAlert, Target, str]]:
    """Return alerts for targets that are unproven, or answer differently than at staging."""
    blocked: list[tuple[FleetAlert, Target, str]] = []
    for name, state in sorted(held.items()):
        target = target_of(name)
        if target is not None and _is_blocked(state):
            what = "serves, and is not what was staged" if state.phase is Phase.READY else "is not loaded"
            blocked.append(("provenance", target, f"{name} {what}: {state.reason}"))
    return blocked


def _is_blocked(state: Held | None) -> bool:
    if state is None or state.code == "logprobs_differ":
        return state is not None
    return state.phase is Phase.FAILED and state.code in NOT_PROVEN


def _why_over(
    alert: OpenAlert,
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    disarmed: Mapping[str, str],
    silent: Mapping[str, str],
) -> str | None:
    """Return why an alert is resolved; None while it is open."""
    model, name = alert.target.model, str(alert.target)
    state = held.get(name)
    if alert.kind == "provenance":
        is_asked = state is not None and state.phase is Phase.UNPROVEN
        return None if is_asked or _is_blocked(state) else f"{name} is what was attested, or not held."
    if alert.kind == "engine":
        if name not in _serving(routes):
            return f"{name} takes no production traffic."
        generates = name not in silent and state is not None and state.phase is Phase.READY
        return f"{name} generates again." if generates else None
    if model in disarmed:
        return None
    behind = routes[model].previous if model in routes and routes[model].active is not None else None
    if behind is None:
        return f"{model} serves nothing."
    return f"Automatic rollback of {model} is armed: {behind.target} generates."
