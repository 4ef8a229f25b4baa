"""Refuses for a while a caller whose requests were there at each of several deaths of an engine, whatever its bodies.

Two deaths in a row under requests of one caller alone are enough, and each time in a row is twice as long. With
requests of others in flight it takes three, and of several callers that were there each time, the one with the fewest
requests is refused: it was there by the least chance. If the engine dies without that one, it was not the cause, and
is refused no more. If it dies again once that one is back, it takes three new deaths, and then another caller that was
there each time is refused, if there is one. So a caller that waits for the requests of another to kill an engine is
refused as often as the other.

Deaths count by target: what a version does says nothing of a caller at another version. Deaths of several targets
within a moment are one incident. They count at each endpoint for itself: where a version has copies, a caller that ends
each in turn is refused after as many deaths at one of them, and then at all that the version's route names.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.engine_deaths import SAME_S, Sender
from shared.runtime.clock import Clock

Change = Literal["caller_banned", "caller_refused"]
ALONE: Final = 2
TOGETHER: Final = 3
"""Deaths in a row after which a caller is refused that was alone at each, or was there at each."""
WINDOW_S: Final = 600.0
"""Time in which deaths count together; how often a caller was refused is forgotten after it, too."""
LONGEST: Final = 8
"""Times as long as the first time a caller is refused at most."""
_MOST_DEATHS: Final = 32
_MOST_COUNTED: Final = 2_048
_MOST: Final = 1_000
_ALL: Final = ""
"""In place of a name: all callers."""


@dataclass(frozen=True)
class _Death:
    """A death of one or more targets in one incident."""

    at_s: float
    targets: frozenset[str]
    senders: frozenset[Sender]
    alone: bool

    @property
    def names(self) -> frozenset[str]:
        """Return the callers that had requests there, and their holders."""
        return frozenset(name for sender in self.senders for name in sender)


@dataclass(frozen=True)
class _Ban:
    """Until when a caller is refused, for how long, and whether only its requests were there."""

    until_s: float
    length_s: float
    alone: bool


@dataclass
class _Seen:
    """What is known of an endpoint.

    Attributes:
        deaths: deaths there, the newest last.
        begun: how many requests each caller sent.
        bans: by target, and by the caller that does not reach it.
        suspects: by target, who was refused last because it was there with others, until the engine dies again.
    """

    deaths: list[_Death] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    bans: dict[str, dict[str, _Ban]] = field(default_factory=dict)
    suspects: dict[str, str] = field(default_factory=dict)

    def lift(self, death: _Death, now_s: float) -> None:
        """Forget the bans that a death shows to be wrong, at the targets that died, and those that are long over."""
        bans = {
            name: {
                who: ban
                for who, ban in of_target.items()
                if now_s < ban.until_s + WINDOW_S
                and (name not in death.targets or ban.alone or who in death.names or ban.until_s <= now_s)
            }
            for name, of_target in self.bans.items()
        }
        self.bans = {name: of_target for name, of_target in bans.items() if of_target}


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

    def note_death(self, endpoint: str, target: str, senders: Iterable[Sender], alone: bool) -> None:
        """Note a death, and whose requests were there; `alone`: nothing else can have ended the engine."""
        if self._ban_s == 0 or endpoint not in self._seen:
            return
        seen, now_s = self._seen[endpoint], self._clock.monotonic()
        death = _Death(now_s, frozenset({target}), frozenset(senders), alone)
        recent = [known for known in seen.deaths if now_s - known.at_s < WINDOW_S]
        is_same = bool(recent) and now_s - recent[-1].at_s < SAME_S and target not in recent[-1].targets
        if is_same:
            death = _merged(recent.pop(), death)
        seen.lift(death, now_s)
        counted = is_same and any(ban.until_s > now_s for ban in seen.bans.get(target, {}).values())
        if not counted and seen.suspects.pop(target, None) in death.names:
            recent = [known for known in recent if target not in known.targets]
        seen.deaths = [*recent, death][-_MOST_DEATHS:]
        if not counted:
            self._find_killer(endpoint, seen, target)

    def _find_killer(self, endpoint: str, seen: _Seen, target: str) -> None:
        """Refuse the caller that may have ended the engine of a target, if there is one."""
        deaths = [death for death in seen.deaths if target in death.targets]
        before = {name: ban.until_s for name, ban in seen.bans.get(target, {}).items()}
        killer = find_killer(deaths, seen.begun, before)
        if killer is None:
            return
        alone = all(death.alone for death in deaths[-ALONE:])
        for name in frozenset[str]().union(*(death.targets for death in deaths[-(ALONE if alone else TOGETHER) :])):
            self._ban(seen, name, killer, alone=alone)
            if not alone:
                seen.suspects[name] = killer
        self._count("caller_banned")
        structlog.get_logger().error(
            "an engine died several times while it had requests of this caller, who is refused for a while",
            endpoint=endpoint,
            target=target,
            caller=killer,
            deaths=len(deaths),
            alone=alone,
            seconds=seen.bans[target][killer].length_s,
        )

    def _ban(self, seen: _Seen, target: str, name: str, *, alone: bool) -> None:
        before = seen.bans.get(target, {}).get(name)
        doubles = alone and before is not None and before.alone
        length_s = min(2 * before.length_s, LONGEST * self._ban_s) if doubles and before is not None else self._ban_s
        ban = _Ban(self._clock.monotonic() + length_s, length_s, alone)
        if before is None or before.until_s < ban.until_s:
            seen.bans.setdefault(target, {})[name] = ban

    def check(self, endpoints: Iterable[str], target: str, sender: Sender) -> None:
        """Raise RequestRejected (403) for a caller that is refused at one of a target's endpoints."""
        now_s = self._clock.monotonic()
        for endpoint in endpoints:
            seen = self._seen.get(endpoint)
            bans = {} if seen is None else seen.bans.get(target, {})
            wait_s = max((bans[name].until_s - now_s for name in sender if name in bans), default=0.0)
            if wait_s > 0.0:
                self._count("caller_refused")
                raise RequestRejected(errors.caller_refused(wait_s))


def _merged(death: _Death, other: _Death) -> _Death:
    return _Death(death.at_s, death.targets | other.targets, death.senders | other.senders, alone=False)


def find_killer(deaths: Sequence[_Death], begun: Counter[str], before: Mapping[str, float]) -> str | None:
    """Return the caller that is refused after some deaths, the newest last: a key, or the team of several.

    None if it cannot be told. One with most of the requests is never refused: that would leave few to serve.

    Args:
        deaths: deaths of one target.
        begun: how many requests each caller sent.
        before: until when callers were refused lately; of those that were there with others, others come first.
    """
    last = deaths[-ALONE:]
    if len(last) == ALONE and all(death.alone for death in last):
        present = _find_present(last)
        if present:
            return min(_without_most(present, begun), default=None)
    last = deaths[-TOGETHER:]
    present = _without_most(_find_present(last), begun) if len(last) == TOGETHER else frozenset()
    return min(present, key=lambda name: (before.get(name, -math.inf), begun[name], name), default=None)


def _without_most(names: Iterable[str], begun: Counter[str]) -> frozenset[str]:
    """Return callers without one that has more than half of the requests."""
    return frozenset(name for name in names if 2 * begun[name] <= begun[_ALL])


def _find_present(deaths: Sequence[_Death]) -> frozenset[str]:
    """Return who was there at each death: keys, and teams of which no single key was."""
    keys = frozenset.intersection(*(frozenset(sender.caller for sender in death.senders) for death in deaths))
    holders = frozenset.intersection(*(frozenset(sender.holder for sender in death.senders) for death in deaths))
    holders_of_keys = {sender.holder for death in deaths for sender in death.senders if sender.caller in keys}
    return keys | (holders - holders_of_keys)
