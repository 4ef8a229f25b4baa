"""What really happened, by the log, beside what would have happened. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clients.cli.replay.engine import Fired, Replay
from clients.cli.views.alert import RollbackFact, fold
from clients.cli.views.timeline import short_span
from contracts.envelope import Event
from contracts.facts import RollbackCompleted, RollbackFailed
from contracts.facts.watch import AlertKind
from contracts.policy import Trigger
from contracts.vocabulary import Target
from decisions.triggers import kind_of, limit_of

NEAR = timedelta(seconds=120)
"""So near to what would have happened, what really did is shown beside it; long windows of a trigger reach further."""
COLUMNS = ("at", "target", "trigger", "bad requests", "would have", "really")


@dataclass(frozen=True)
class Happened:
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

    def told(self, beside: datetime) -> str:
        """Return what happened, and how far from a moment."""
        seconds = (self.at - beside).total_seconds()
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
    """A moment: what would have happened (None: nothing), and what really did."""

    at: datetime
    fired: Fired | None
    really: tuple[Happened, ...]


def happened(events: Sequence[Event[Any]], since: datetime) -> list[Happened]:
    """List the alerts and rollbacks of a log that fall into the time since a moment; events in the log's order."""
    found = []
    for alarm in fold(events):
        fact = alarm.fact
        what = f"alert {fact.trigger or fact.kind} raised"
        found.append(
            Happened(alarm.since, fact.target, what, kind=fact.kind, trigger=fact.trigger, until=alarm.resolved_at)
        )
    ends: dict[str, RollbackFact] = {}
    for event in events:
        if isinstance(event.data, RollbackFact):
            known = ends.get(event.data.rollback_id)
            if not isinstance(known, RollbackCompleted | RollbackFailed):
                ends[event.data.rollback_id] = event.data
    found += [_rollback(fact) for fact in ends.values()]
    return sorted(
        (one for one in found if (one.until or one.at) > since or (one.is_alert and one.until is None)),
        key=lambda one: one.at,
    )


def _rollback(fact: RollbackFact) -> Happened:
    at = fact.timeline.switched_at or fact.timeline.decided_at or fact.timeline.detected_at
    manual = fact.mode == "manual"
    by = " by order" if manual else ""
    if isinstance(fact, RollbackFailed):
        return Happened(at, fact.failed, f"not rolled back{by} ({fact.code})", manual=manual)
    if isinstance(fact, RollbackCompleted):
        return Happened(at, fact.failed, f"rolled back to {fact.to}{by}", manual=manual)
    return Happened(at, fact.failed, f"rollback begun{by}, its end is not in the log", manual=manual)


def beside(replay: Replay, real: Iterable[Happened]) -> list[Line]:
    """Put what really happened beside what would have happened; what stands alone gets a line of its own."""
    left = list(real)
    lines = []
    for fired in replay.fired:
        mine = tuple(one for one in left if _belongs(one, fired))
        lines.append(Line(fired.at, fired, mine))
    told = {id(one) for line in lines for one in line.really}
    lines += [Line(one.at, None, (one,)) for one in left if id(one) not in told]
    return sorted(lines, key=lambda line: line.at)


def _belongs(one: Happened, fired: Fired) -> bool:
    if one.target != fired.target:
        return False
    near = max(NEAR, timedelta(seconds=2.0 * fired.trigger.window_s))
    if one.kind is not None:
        same = one.trigger == fired.trigger.name or one.kind == kind_of(fired.trigger)
        lasts = one.at <= fired.at and (one.until is None or fired.at <= one.until)
        return same and (lasts or abs(one.at - fired.at) <= near)
    return abs(one.at - fired.at) <= near


def would(fired: Fired) -> str:
    """Return what would have come of an alert."""
    again = " (asked again)" if fired.again else ""
    if fired.outcome == "rolled back":
        return f"rolled back to {fired.to}{again}"
    if fired.outcome == "canary aborted":
        return f"canary aborted, {fired.to} goes on{again}"
    code = f" {fired.code}" if fired.code else ""
    return f"{fired.outcome}{code}: {fired.reason}{again}"


def why_not(one: Happened, replay: Replay, triggers: Sequence[Trigger]) -> str:
    """Return why nothing would have happened where something really did."""
    if not one.is_alert and one.manual:
        return "-: a person ordered it"
    if replay.is_away(one.target, one.at):
        return "-: it would have been out of traffic"
    if one.is_alert and (one.trigger is None or one.kind == "drift"):
        return "-: such alerts are not replayed"
    wanted = [trigger for trigger in triggers if one.kind is None or kind_of(trigger) == one.kind]
    if not wanted:
        return "-: the policy has no such trigger"
    if {trigger.name for trigger in wanted} <= {gap.trigger for gap in replay.gaps}:
        return "-: it cannot be replayed"
    return "nothing"


def row(line: Line, replay: Replay, triggers: Sequence[Trigger]) -> tuple[str, ...]:
    """Return a line as cells, in the order of `COLUMNS`."""
    at = f"{line.at:%Y-%m-%d %H:%M:%S}"
    if line.fired is None:
        (one,) = line.really
        return at, str(one.target), one.trigger or "-", "-", why_not(one, replay, triggers), one.what
    fired = line.fired
    bad = f"{fired.hits} of {fired.trials}, {100 * limit_of(fired.trigger):.3g} % allowed"
    really = "; ".join(one.told(fired.at) for one in line.really) or "nothing"
    return at, str(fired.target), fired.trigger.name, bad, would(fired), really


def as_data(line: Line, replay: Replay, triggers: Sequence[Trigger]) -> dict[str, Any]:
    """Return a line as JSON data."""
    fired, really = line.fired, [one.as_data() for one in line.really]
    if fired is None:
        return {
            "at": line.at.isoformat(),
            "fired": None,
            "why_not": why_not(line.really[0], replay, triggers),
            "really": really,
        }
    told = {
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
    return {"at": line.at.isoformat(), "fired": told, "really": really}
