"""When each target of a model took traffic, by the log of its route. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

from contracts.envelope import Event
from contracts.facts import DeploymentChanged
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.evidence.observation import Role


@dataclass(frozen=True)
class Span:
    """A time in which a target took the same share of traffic; `until` is None while it lasts."""

    role: Role
    weight_ratio: float
    since: datetime
    until: datetime | None = None

    def overlap(self, begin: datetime, end: datetime) -> tuple[datetime, datetime] | None:
        """Return the part of a time during which the target took this share; None if there is none."""
        begin, end = max(begin, self.since), min(end, self.until or end)
        return (begin, end) if begin < end else None


class Routes:
    """The routes of a model, one after another."""

    def __init__(self, events: Iterable[Event[Any]]) -> None:
        newest: dict[int, DeploymentChanged] = {}
        for event in events:  # an epoch is one route, however often it was published
            if isinstance(event.data, DeploymentChanged):
                newest.setdefault(event.data.route.epoch, event.data)
        self.changes: Sequence[DeploymentChanged] = [newest[epoch] for epoch in sorted(newest)]
        # two services write routes, each by its own clock; the order is that of the epochs
        self._times = list(accumulate((change.at for change in self.changes), max))

    def before(self, moment: datetime) -> Route | None:
        """Return the route before a moment, at which another may begin; None before the log knows any."""
        index = bisect_left(self._times, moment)
        return self.changes[index - 1].route if index else None

    def began(self) -> datetime | None:
        """Return since when routes are known."""
        return self._times[0] if self._times else None

    def spans(self, target: Target) -> list[Span]:
        """List when a target took traffic."""
        spans: list[Span] = []
        for change, at in zip(self.changes, self._times, strict=True):
            share = share_of(change.route, target)
            last = spans[-1] if spans else None
            if last is not None and last.until is None:
                if share == (last.role, last.weight_ratio):
                    continue
                spans[-1] = replace(last, until=at)
            if share is not None:
                spans.append(Span(*share, since=at))
        return [span for span in spans if span.until is None or span.until > span.since]

    def returns(self, target: Target, after: datetime) -> datetime | None:
        """Return the time of a target's first promotion or canary after `after`; None without one."""
        for change, at in zip(self.changes, self._times, strict=True):
            share = share_of(change.route, target)
            named = {"promote": "active", "canary": "canary"}.get(change.cause)
            if at > after and share is not None and share[0] == named:
                return at
        return None


def share_of(route: Route, target: Target) -> tuple[Role, float] | None:
    """Return the role and the share of traffic that a target has on a route; None for none."""
    if route.active is not None and route.active.target == target:
        return "active", 1.0
    canary = route.canary_in_traffic
    if canary is not None and canary.served.target == target:
        return "canary", canary.weight_ratio
    return None


def cut(spans: Iterable[Span], begin: datetime, end: datetime | None) -> list[Span]:
    """Take a time out of spans; without an end, all that comes after."""
    kept: list[Span] = []
    for span in spans:
        if (span.until is not None and span.until <= begin) or (end is not None and span.since >= end):
            kept.append(span)
            continue
        if span.since < begin:
            kept.append(replace(span, until=begin))
        if end is not None and (span.until is None or span.until > end):
            kept.append(replace(span, since=end))
    return kept
