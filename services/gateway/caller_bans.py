"""Refuses for a while a caller whose requests were there at each of several deaths of an engine, whatever its bodies.

Two deaths in a row under requests of one caller alone are enough; with requests of others in flight it takes three, and
of several callers that were there each time, the one with the fewest requests is refused: it was there by the least
chance. If the engine dies without that one, it was not the cause, and is refused no more. So a caller that waits for
the requests of another to kill an engine has the other refused for one time at most, after three deaths.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.engine_deaths import Sender
from shared.runtime.clock import Clock

Change = Literal["caller_banned", "caller_refused"]
ALONE: Final = 2
TOGETHER: Final = 3
"""Deaths in a row after which a caller is refused that was alone at each, or was there at each."""
WINDOW_S: Final = 600.0
"""Time in which deaths count together; how often a caller was refused is forgotten after it, too."""
LONGEST: Final = 8
"""Times as long as the first time a caller is refused at most: each time in a row is twice as long."""
_MOST_COUNTED: Final = 2_048
_MOST: Final = 1_000
_ALL: Final = ""
"""In place of a name: all callers."""


@dataclass(frozen=True)
class _Death:
    at_s: float
    senders: frozenset[Sender]
    alone: bool


@dataclass(frozen=True)
class _Ban:
    """Until when a caller is refused, for how long, and whether only its requests were there."""

    until_s: float
    length_s: float
    alone: bool


@dataclass
class _Seen:
    """What is known of an endpoint: deaths of its engine, the newest last, and how many requests each caller sent."""

    deaths: list[_Death] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    bans: dict[str, _Ban] = field(default_factory=dict)


class CallerBans:
    """The callers that one process refuses, by endpoint.

    Args:
        clock: its monotonic seconds.
        ban_s: how long a caller is refused the first time; 0 for never.
        count: counts a change.
    """

    def __init__(self, clock: Clock, ban_s: float, count: Callable[[Change], None]) -> None:
        self._clock = clock
        self._ban_s = ban_s
        self._count = count
        self._seen: dict[str, _Seen] = {}

    def note_request(self, endpoint: str, sender: Sender) -> None:
        """Note a request to an endpoint."""
        if endpoint not in self._seen and len(self._seen) >= _MOST:
            self._seen.clear()
        seen = self._seen.setdefault(endpoint, _Seen())
        seen.begun.update({sender.caller, sender.holder, _ALL})
        if len(seen.begun) > _MOST_COUNTED:
            seen.begun = Counter(dict(seen.begun.most_common(_MOST_COUNTED // 2)))

    def note_death(self, endpoint: str, senders: Iterable[Sender], alone: bool) -> None:
        """Note a death, and whose requests were there; `alone`: nothing else can have ended the engine."""
        if self._ban_s == 0 or endpoint not in self._seen:
            return
        seen, now_s, present = self._seen[endpoint], self._clock.monotonic(), frozenset(senders)
        recent = [death for death in seen.deaths if now_s - death.at_s < WINDOW_S]
        seen.deaths = [*recent, _Death(now_s, present, alone)][-TOGETHER:]
        names = {name for sender in present for name in sender}
        seen.bans = {
            name: ban
            for name, ban in seen.bans.items()
            if now_s < ban.until_s + WINDOW_S and (ban.alone or name in names or ban.until_s <= now_s)
        }
        name = find_killer(seen.deaths, seen.begun)
        if name is not None:
            self._ban(endpoint, seen, name, alone=all(death.alone for death in seen.deaths[-ALONE:]))

    def _ban(self, endpoint: str, seen: _Seen, name: str, *, alone: bool) -> None:
        before = seen.bans.get(name)
        length_s = self._ban_s if before is None else min(2 * before.length_s, LONGEST * self._ban_s)
        seen.bans[name] = _Ban(self._clock.monotonic() + length_s, length_s, alone)
        self._count("caller_banned")
        structlog.get_logger().error(
            "an engine died several times while it had requests of this caller, who is refused for a while",
            endpoint=endpoint,
            caller=name,
            deaths=len(seen.deaths),
            alone=alone,
            seconds=length_s,
        )

    def check(self, endpoints: Iterable[str], sender: Sender) -> None:
        """Raise RequestRejected (403) for a caller that is refused at one of a target's endpoints."""
        now_s = self._clock.monotonic()
        for endpoint in endpoints:
            seen = self._seen.get(endpoint)
            bans = [] if seen is None else [seen.bans.get(name) for name in sender]
            wait_s = max((ban.until_s - now_s for ban in bans if ban is not None), default=0.0)
            if wait_s > 0.0:
                self._count("caller_refused")
                raise RequestRejected(errors.caller_refused(wait_s))


def find_killer(deaths: Sequence[_Death], begun: Counter[str]) -> str | None:
    """Return the caller that is refused after some deaths, the newest last: a key, else the team of several.

    None if it cannot be told, or if it is one with most of the requests: refusing it would leave few to serve.
    """
    for most, alone in ((ALONE, True), (TOGETHER, False)):
        last = deaths[-most:]
        if len(last) < most or (alone and not all(death.alone for death in last)):
            continue
        for names_of in (_callers, _holders):
            present = frozenset.intersection(*(names_of(death) for death in last))
            if present:
                name = min(present, key=lambda name: (begun[name], name))
                return name if 2 * begun[name] <= begun[_ALL] else None
    return None


def _callers(death: _Death) -> frozenset[str]:
    return frozenset(sender.caller for sender in death.senders)


def _holders(death: _Death) -> frozenset[str]:
    return frozenset(sender.holder for sender in death.senders)
