"""The alerts and rollbacks of the log next to those of the replay. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clients.cli.views.alert import RollbackFact, fold
from clients.cli.views.timeline import short_span
from contracts.envelope import Event
from contracts.facts import RollbackCompleted, RollbackFailed
from contracts.facts.watch import AlertKind
from contracts.policy import Trigger
from contracts.vocabulary import Target
from decisions.evidence.triggers import kind_of, limit_of
from decisions.policies.limits import LONGEST_S
from decisions.replay.engine import Fired, Replay

NEAR = timedelta(seconds=120)
"""Recorded events this close to a replayed one are shown on its line; long windows of a trigger reach further."""
COLUMNS = ("at", "target", "trigger", "bad requests", "replayed", "recorded")


@dataclass(frozen=True)
class Recorded:
    """An alert or a rollback of the log; `until` is when the alert was resolved."""

    at: datetime
    target: Target
    what: str
    kind: AlertKind | None = None
    trigger: str | None = None
    manual: bool = False
    until: datetime | None = None

    @property
    def is_alert(self) -> bool:
        """Return whether it is an alert, else a rollback."""
        return self.kind is not None

    def describe(self, relative_to: datetime) -> str:
        """Return what happened, and how far from a time."""
        seconds = (self.at - relative_to).total_seconds()
        if abs(seconds) < 0.5:
            return f"{self.what} at the same time"
        return f"{self.what} {short_span(abs(seconds))} {'later' if seconds > 0 else 'earlier'}"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "at": self.at.isoformat(),
            "target": str(self.target),
            "what": self.what,
            "kind": self.kind or "rollback",
            "trigger": self.trigger,
            "until": self.until.isoformat() if self.until is not None else None,
        }


@dataclass(frozen=True)
class Line:
    """One line of the comparison: the replayed event (None: none), and the recorded ones."""

    at: datetime
    fired: Fired | None
    recorded: tuple[Recorded, ...]


def read_recorded(events: Sequence[Event[Any]], since: datetime) -> list[Recorded]:
    """Return the alerts and rollbacks of a log since a time; events are in the order of the log."""
    recorded = []
    for alert in fold(events):
        fact = alert.fact
        what = f"alert {fact.trigger or fact.kind} raised"
        recorded.append(
            Recorded(alert.since, fact.target, what, kind=fact.kind, trigger=fact.trigger, until=alert.resolved_at)
        )
    ends: dict[str, RollbackFact] = {}
    for event in events:
        if isinstance(event.data, RollbackFact):
            known = ends.get(event.data.rollback_id)
            if not isinstance(known, RollbackCompleted | RollbackFailed):
                ends[event.data.rollback_id] = event.data
    recorded += [_rollback(fact) for fact in ends.values()]
    return sorted(
        (item for item in recorded if (item.until or item.at) > since or (item.is_alert and item.until is None)),
        key=lambda item: item.at,
    )


def _rollback(fact: RollbackFact) -> Recorded:
    at = fact.timeline.switched_at or fact.timeline.decided_at or fact.timeline.detected_at
    manual = fact.mode == "manual"
    by = " by order" if manual else ""
    if isinstance(fact, RollbackFailed):
        return Recorded(at, fact.failed, f"not rolled back{by} ({fact.code})", manual=manual)
    if isinstance(fact, RollbackCompleted):
        return Recorded(at, fact.failed, f"rolled back to {fact.to}{by}", manual=manual)
    return Recorded(at, fact.failed, f"rollback begun{by}, its end is not in the log", manual=manual)


def match(replay: Replay, recorded: Iterable[Recorded]) -> list[Line]:
    """Return a line per replayed event, with the recorded events near it, and a line per other recorded event."""
    left = list(recorded)
    lines = []
    for fired in replay.fired:
        near = tuple(fact for fact in left if _belongs(fact, fired))
        lines.append(Line(fired.at, fired, near))
    shown = {id(fact) for line in lines for fact in line.recorded}
    lines += [Line(fact.at, None, (fact,)) for fact in left if id(fact) not in shown]
    return sorted(lines, key=lambda line: line.at)


def _belongs(event: Recorded, fired: Fired) -> bool:
    if event.target != fired.target:
        return False
    near = max(NEAR, timedelta(seconds=2.0 * min(LONGEST_S, fired.trigger.window_s)))
    if event.kind is not None:
        same = event.trigger == fired.trigger.name or event.kind == kind_of(fired.trigger)
        lasts = event.at <= fired.at and (event.until is None or fired.at <= event.until)
        return same and (lasts or abs(event.at - fired.at) <= near)
    return abs(event.at - fired.at) <= near


def would(fired: Fired) -> str:
    """Return what an alert would have led to."""
    again = " (evaluated again)" if fired.again else ""
    if fired.outcome == "rolled back":
        return f"rolled back to {fired.to}{again}"
    if fired.outcome == "canary aborted":
        return f"canary aborted, {fired.to} stays active{again}"
    code = f" {fired.code}" if fired.code else ""
    return f"{fired.outcome}{code}: {fired.reason}{again}"


def why_not(event: Recorded, replay: Replay, triggers: Sequence[Trigger]) -> str:
    """Return why the replay has nothing where something was recorded."""
    if not event.is_alert and event.manual:
        return "-: an operator ordered it"
    if replay.is_out_of_traffic(event.target, event.at):
        return "-: it would have been out of traffic"
    if event.is_alert and (event.trigger is None or event.kind == "drift"):
        return "-: such alerts are not replayed"
    fitting = [trigger for trigger in triggers if event.kind is None or kind_of(trigger) == event.kind]
    if not fitting:
        return "-: the policy has no such trigger"
    if {trigger.name for trigger in fitting} <= {gap.trigger for gap in replay.gaps}:
        return "-: it cannot be replayed"
    return "nothing"


def row(line: Line, replay: Replay, triggers: Sequence[Trigger]) -> tuple[str, ...]:
    """Return a line as cells, in the order of `COLUMNS`."""
    at = f"{line.at:%Y-%m-%d %H:%M:%S}"
    if line.fired is None:
        (event,) = line.recorded
        return at, str(event.target), event.trigger or "-", "-", why_not(event, replay, triggers), event.what
    fired = line.fired
    bad = f"{fired.hits} of {fired.trials}, {100 * limit_of(fired.trigger):.3g} % allowed"
    recorded = "; ".join(fact.describe(fired.at) for fact in line.recorded) or "nothing"
    return at, str(fired.target), fired.trigger.name, bad, would(fired), recorded


def as_data(line: Line, replay: Replay, triggers: Sequence[Trigger]) -> dict[str, Any]:
    """Return a line as JSON data."""
    fired, recorded = line.fired, [fact.as_data() for fact in line.recorded]
    if fired is None:
        return {
            "at": line.at.isoformat(),
            "fired": None,
            "why_not": why_not(line.recorded[0], replay, triggers),
            "recorded": recorded,
        }
    fields = {
        "target": str(fired.target),
        "role": fired.role,
        "trigger": fired.trigger.name,
        "metric": fired.trigger.metric,
        "requests": fired.trials,
        "bad": fired.hits,
        "limit": limit_of(fired.trigger),
        "e_value": fired.e_value,
        "outcome": fired.outcome,
        "code": fired.code,
        "reason": fired.reason,
        "again": fired.again,
        "to": str(fired.to) if fired.to is not None else None,
    }
    return {"at": line.at.isoformat(), "fired": fields, "recorded": recorded}
