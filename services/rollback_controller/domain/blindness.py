"""Whether production is watched: telemetry arrives, the monitor makes windows of it, triggers are known. Pure.

The monitor cannot say that it is silent, so this is found here. All times are monotonic seconds of this process; the
sequence numbers of messages say whether anything new arrived, so that no clock is compared with another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from contracts.facts import AlertRaised
from contracts.vocabulary import Target
from decisions.evidence.alerts import LOST, PlainAlert
from decisions.routes.versions import describe_unknown
from services.rollback_controller.domain.record import Arriving, OpenBlindness, RollbackState, Unseen, with_entries

GAP_S: Final = 10.0
"""Traffic that is interrupted for longer begins anew. Gateways report about every second, for some seconds after a
request."""


@dataclass(frozen=True)
class Limits:
    """How long traffic may last without telemetry, and telemetry without a window of the monitor, in seconds."""

    telemetry_s: float = 60.0
    windows_s: float = 150.0


@dataclass(frozen=True)
class Traffic:
    """Since when, without a gap, requests of a model are reported, and when the last report came."""

    since_s: float
    last_s: float

    def goes_on(self, now_s: float) -> bool:
        """Return whether the last report is new enough."""
        return now_s - self.last_s <= GAP_S

    def lasts_s(self, now_s: float) -> float:
        """Return for how long traffic has lasted; 0 if it has ended."""
        return now_s - self.since_s if self.goes_on(now_s) else 0.0


def note_traffic(traffic: Mapping[str, Traffic], reported: Mapping[str, float], now_s: float) -> dict[str, Traffic]:
    """Return the traffic by model after a gateway's report, without models that had no traffic lately."""
    after = {model: known for model, known in traffic.items() if known.goes_on(now_s)}
    for model, per_second in reported.items():
        if per_second > 0.0:
            known = after.get(model)
            after[model] = Traffic(now_s if known is None else known.since_s, now_s)
    return after


@dataclass(frozen=True)
class Arrived:
    """The last message of a kind, by its sequence number, and when this process first saw it."""

    sequence: int
    seen_s: float

    def note(self, sequence: int, now_s: float) -> "Arrived":
        """Return this with the last message's sequence, seen now if it is new; an expired message (0) is no arrival."""
        return self if sequence in (0, self.sequence) else replace(self, sequence=sequence, seen_s=now_s)


@dataclass(frozen=True)
class Seen:
    """One process's current view of a model.

    Attributes:
        now_s: The time, monotonic.
        lasts_s: For how long traffic has lasted.
        known_s: For how long this process has listened: only then does it know that there is no traffic.
        arrived: The last messages.
        unknown: Routed versions whose triggers are neither recorded nor can be read, with the reason.
    """

    now_s: float
    lasts_s: float
    known_s: float
    arrived: Mapping[Arriving, Arrived]
    unknown: Mapping[int, str] = field(default_factory=dict)

    def silent_s(self, kind: Arriving) -> float:
        """Return for how long nothing of a kind arrived while traffic lasted."""
        return min(self.lasts_s, self.now_s - self.arrived[kind].seen_s)


def find_unseen(seen: Seen, limits: Limits) -> Unseen | None:
    """Return the data that is missing or too old while traffic lasts; None if the model is watched."""
    if seen.silent_s("telemetry") >= limits.telemetry_s:
        return "telemetry"
    if seen.silent_s("windows") >= limits.windows_s:
        return "windows"
    return "policies" if seen.unknown else None


def assess(state: RollbackState, target: Target | None, seen: Seen, now: datetime, limits: Limits) -> RollbackState:
    """Return the record with an alert that a model is not watched, or without one that has ended.

    `target` is the active one; None if nothing of the model serves.
    """
    before = state.blind
    if before is not None:
        why = _why_ended(before, target, seen, limits)
        if why is None:
            return state
        resolved = _about(state, before).entry("resolved", why, now)
        return with_entries(state, resolved).model_copy(update={"blind": None})
    unseen = find_unseen(seen, limits) if target is not None else None
    if unseen is None or target is None:
        return state
    sequence = 0 if unseen == "policies" else seen.arrived[unseen].sequence
    message = _describe(unseen, target.model, seen, limits)
    raised = OpenBlindness(target=target, unseen=unseen, sequence=sequence, raised_at=now, message=message)
    entry = _about(state, raised).entry("raised", message, now)
    return with_entries(state, entry).model_copy(update={"blind": raised})


def resolve_past(state: RollbackState, still_open: Sequence[AlertRaised], now: datetime) -> RollbackState:
    """Return the record with the alerts resolved that the log has open, and that it does not have itself."""
    known = state.blind.raised_at if state.blind is not None else None
    lost = [
        PlainAlert(alert.alert_id, alert.kind, alert.severity, alert.target, alert.raised_at, state.environment)
        for alert in still_open
        if alert.raised_at is not None and alert.raised_at != known
    ]
    return with_entries(state.model_copy(update={"past_read": True}), *(x.entry("resolved", LOST, now) for x in lost))


def _why_ended(before: OpenBlindness, target: Target | None, seen: Seen, limits: Limits) -> str | None:
    """Return why an alert has ended; None if it goes on."""
    if before.unseen == "policies":
        if not seen.unknown:
            return "All triggers are known again."
        other = find_unseen(seen, limits)
        return None if other == "policies" else f"An alert about missing {other} follows, and this one again after it."
    if seen.arrived[before.unseen].sequence not in (0, before.sequence):
        what = "Telemetry arrives" if before.unseen == "telemetry" else "The monitor summarises windows"
        return f"{what} again."
    if target is None:
        return "Nothing of the model serves any more."
    if not seen.lasts_s and seen.known_s >= limits.telemetry_s:
        return "No requests come any more."
    return None


def _describe(unseen: Unseen, model: str, seen: Seen, limits: Limits) -> str:
    if unseen == "policies":
        return describe_unknown(model, seen.unknown)
    if unseen == "telemetry":
        return (
            f"Gateways answer requests of {model}, and no telemetry of them has arrived for "
            f"{limits.telemetry_s:g} s: no trigger is watched."
        )
    return (
        f"Telemetry of {model} arrives, and the monitor has summarised no window of it for "
        f"{limits.windows_s:g} s: it does not run, or it does not follow. No trigger is watched."
    )


def _about(state: RollbackState, blind: OpenBlindness) -> PlainAlert:
    alert_id = f"blind-{blind.unseen}-{blind.target.model}-{blind.raised_at.isoformat()}"
    return PlainAlert(alert_id, "blind", "critical", blind.target, blind.raised_at, state.environment)
