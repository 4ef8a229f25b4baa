"""Finds which requests were in flight at an engine when it died, as far as this process sees them."""

import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple, get_args

from contracts.facts import EngineDeath
from contracts.vocabulary import Target
from shared.runtime.clock import Clock

Involvement = Literal["none", "shared", "alone", "certain"]
"""What a request had to do with a death: nothing; in flight with others; alone; alone with a part of its answer.

One that is alone without any part of an answer may have met an engine that died before, while it had nothing to do.
"""
INVOLVEMENTS: Final[tuple[Involvement, ...]] = get_args(Involvement)
"""All of them, the weakest first."""
QUIET_S: Final = 10.0
"""Time after a request without a complete answer in which no other counts as alone: an engine may die of it later."""
SAME_S: Final = 5.0
"""Deaths of several targets at one endpoint within this time have one cause."""
STILL_DEAD_S: Final = 60.0
"""A candidate's engine without a sign of life counts again after this time: it dies of each request, or stays dead."""
_MOST_ENGINES = 1_000
MOST_HOLDERS: Final = 64
"""Holders that a death names in telemetry; of more, nothing can be known of who caused it."""


class Sender(NamedTuple):
    """Who sent a request: pseudonyms of the key, and of who holds it, a team with all its keys or the key itself."""

    caller: str
    holder: str


UNKNOWN: Final = Sender("", "")


class _Presence(NamedTuple):
    """Whose request was at an engine, and whether it was asked unseen of a candidate: then no caller is to blame."""

    sender: Sender
    shadow: bool


@dataclass(frozen=True)
class _Incident:
    """Which targets of an endpoint died of one cause, when the last one was reported, and who had requests there."""

    at_s: float = -math.inf
    targets: AbstractSet[str] = frozenset()
    present: AbstractSet[_Presence] = frozenset()


@dataclass
class _Engine:
    """One target at one endpoint, with the attempts that are in flight there.

    Attributes:
        deaths: how often it died.
        is_alive: it sent a part of an answer to a request that came after its last death.
        last: that death.
        died_s: when it was.
    """

    deaths: int = 0
    is_alive: bool = False
    last: EngineDeath | None = None
    died_s: float = -math.inf
    attempts: "set[Attempt]" = field(default_factory=set)


@dataclass(eq=False)
class Attempt:
    """One attempt of a request at an engine: report what the engine does, and always call `end`.

    Attributes:
        presence: whose it is.
        involvement: what it had to do with a death of the engine.
        has_piece: the engine sent a part of its answer.
        death: the death that it met, or that came before it and after which the engine gave no sign of life.
    """

    _deaths: "EngineDeaths"
    _engine: _Engine
    _endpoint: str
    _target: str
    _deaths_before: int
    presence: _Presence
    involvement: Involvement = "none"
    has_piece: bool = False
    death: EngineDeath | None = None

    def note_piece(self) -> None:
        """Note a part of an answer: the engine is alive, unless it died since the attempt began."""
        self.has_piece = True
        if self._deaths_before == self._engine.deaths:
            self._engine.is_alive = True

    def note_death(self) -> None:
        """Note that the engine reported its death, or ended the stream.

        An engine that is dead answers every request so until it is loaded again: only the first report after a sign of
        life is a death, of all that are in flight there. Without one before, no caller is named: the first request of
        all may have killed it, or what was sent before this process was started. A candidate in its shadow may never
        give one.
        """
        engine, now_s = self._engine, self._deaths.now_s
        if self._deaths_before != engine.deaths:
            return
        if not engine.is_alive and not (self.presence.shadow and now_s - engine.died_s >= STILL_DEAD_S):
            engine.last = self.death = engine.last or self._deaths.describe_unseen()
            return
        engine.died_s, was_alive = now_s, engine.is_alive
        alone = self._deaths.is_alone(self._endpoint)
        engine.deaths, engine.is_alive, engine.last = (
            engine.deaths + 1,
            False,
            self._deaths.describe(self._endpoint, self._target, alone=alone, shadow=self.presence.shadow),
        )
        for attempt in engine.attempts:
            attempt.death = engine.last
            is_cause = alone and was_alive  # else it may have met an engine that is still dead
            attempt.involvement = "shared" if not is_cause else "certain" if attempt.has_piece else "alone"

    def end(self, *, complete: bool) -> None:
        """Note the end of the attempt; again changes nothing."""
        if self in self._engine.attempts:
            self._engine.attempts.remove(self)
            self._deaths.note_end(self._endpoint, complete=complete)
            if not complete and self.death is None:
                self._deaths.note_left(self._endpoint, self.presence)


class EngineDeaths:
    """The engines that this process sends requests to.

    Args:
        clock: its monotonic seconds, and the time of a death.
        is_sole: whether no other process sends requests to these engines.
        on_request: is told each attempt, with its endpoint and its sender, which is unknown in a shadow.
        on_death: is told each death but a candidate's in its shadow, with the endpoint, the target, the senders,
            without those of a shadow, and whether one request alone can be the cause.
    """

    def __init__(
        self,
        clock: Clock,
        is_sole: Callable[[], bool],
        on_request: Callable[[str, Sender], None] = lambda *_: None,
        on_death: Callable[[str, str, AbstractSet[Sender], bool], None] = lambda *_: None,
    ) -> None:
        self._clock = clock
        self._is_sole = is_sole
        self._on_request = on_request
        self._on_death = on_death
        self._engines: dict[tuple[str, str], _Engine] = {}
        self._incomplete_s: dict[str, float] = {}
        self._left_s: dict[str, dict[_Presence, float]] = {}
        self._died: dict[str, _Incident] = {}

    def begin(self, endpoint: str, target: Target, sender: Sender = UNKNOWN, *, shadow: bool = False) -> Attempt:
        """Return a new attempt, which is in flight until its end.

        Args:
            endpoint: where it is sent.
            target: what it is sent to.
            sender: who sent it.
            shadow: it is asked unseen of a candidate. It was there if another target of the endpoint dies, and no
                caller is refused because of it.
        """
        key = (endpoint, str(target))
        if key not in self._engines and len(self._engines) >= _MOST_ENGINES:
            self._engines = {name: engine for name, engine in self._engines.items() if engine.attempts}
            self._incomplete_s.clear()
            self._left_s.clear()
            self._died.clear()
        engine = self._engines.setdefault(key, _Engine())
        attempt = Attempt(self, engine, endpoint, str(target), engine.deaths, _Presence(sender, shadow))
        engine.attempts.add(attempt)
        self._on_request(endpoint, UNKNOWN if shadow else sender)
        return attempt

    @property
    def now_s(self) -> float:
        """Return the monotonic time in seconds."""
        return self._clock.monotonic()

    def is_alone(self, endpoint: str) -> bool:
        """Return whether only one request can have ended an engine: the targets of an endpoint share one process."""
        in_flight = sum(len(engine.attempts) for (at, _), engine in self._engines.items() if at == endpoint)
        ended_s = self._incomplete_s.get(endpoint)
        quiet = ended_s is None or self._clock.monotonic() - ended_s >= QUIET_S
        return in_flight == 1 and quiet and self._is_sole()

    def describe(self, endpoint: str, target: str, *, alone: bool, shadow: bool = False) -> EngineDeath:
        """Return the death of an engine that is reported now: who had requests there, of any target.

        Several targets that die of one cause report it one after the other: the cause may be gone by then.

        Args:
            endpoint: where it served.
            target: what it served.
            alone: only one request can be the cause.
            shadow: it is a candidate in its shadow.
        """
        now_s = self._clock.monotonic()
        here = [engine for (at, _), engine in self._engines.items() if at == endpoint]
        present = {attempt.presence for engine in here for attempt in engine.attempts}
        present |= {who for who, ended_s in self._left_s.pop(endpoint, {}).items() if now_s - ended_s < QUIET_S}
        before = self._died.get(endpoint, _Incident())
        if now_s - before.at_s >= SAME_S or target in before.targets:  # one that was alive again dies of another cause
            before = _Incident()
        present |= before.present
        self._died[endpoint] = _Incident(now_s, before.targets | {target}, present)
        if not shadow and not any(who.shadow for who in present):  # what a candidate may have done refuses no caller
            self._on_death(endpoint, target, {who.sender for who in present}, alone)
        return _as_death(self._clock.now(), (who.sender for who in present))

    def describe_unseen(self) -> EngineDeath:
        """Return the death of an engine that this process never saw alive, so that any may have caused it."""
        return EngineDeath(died_at=self._clock.now(), others=1)

    def note_left(self, endpoint: str, presence: _Presence) -> None:
        """Note the end of an attempt that was not answered, at an engine that was alive: it may die of it later."""
        now_s, left_s = self._clock.monotonic(), self._left_s.setdefault(endpoint, {})
        left_s[presence] = now_s
        if len(left_s) > MOST_HOLDERS:
            self._left_s[endpoint] = {who: ended_s for who, ended_s in left_s.items() if now_s - ended_s < QUIET_S}

    def note_end(self, endpoint: str, *, complete: bool) -> None:
        """Note the end of an attempt."""
        if not complete:
            self._incomplete_s[endpoint] = self._clock.monotonic()


def _as_death(died_at: datetime, senders: Iterable[Sender]) -> EngineDeath:
    holders = sorted({sender.holder for sender in senders})
    return EngineDeath(
        died_at=died_at, holders=tuple(holders[:MOST_HOLDERS]), others=max(0, len(holders) - MOST_HOLDERS)
    )
