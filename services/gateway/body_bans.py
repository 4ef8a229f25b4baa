"""Refuses for a while the requests under which an engine died.

One that was alone at the engine, and had a part of its answer, is refused to all callers after one death. Any other is
refused after a second death with no complete answer in between: to all callers if it was alone then, else only to its
own, so that no caller can have the requests of another refused by ending engines under them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

import structlog

from contracts.facts import EngineDeath
from contracts.routes import Route
from contracts.vocabulary import Environment, Target
from services.gateway.domain import errors
from services.gateway.domain.body_digests import digest_of
from services.gateway.domain.errors import RequestRejected
from services.gateway.engine_deaths import INVOLVEMENTS, Attempt, EngineDeaths, Involvement
from services.gateway.measurement import AcceptedRequest
from shared.runtime.clock import Clock

K = TypeVar("K")
V = TypeVar("V")
Change = Literal["banned", "refused"]
"""What is counted: bodies that are refused from now on, and requests that were refused."""
Unseen = Literal["suspected", "proven"]
"""What a body had to do with a death of a candidate's engine in its shadow: it was there, or it is the cause."""
MOST: Final = 4_096
"""Bodies that are refused, and as many that an engine died under once; above it the oldest is forgotten."""
_ALL = ""
"""In place of an account: all callers."""
_UNSEEN = " in its shadow"
"""After a target, in place of a model: bodies under which the engine of a candidate without traffic died."""


class _Body(NamedTuple):
    """Whose body it is, and where it was sent."""

    environment: Environment
    model: str
    account: str
    digest: str


@dataclass(frozen=True)
class _Ban:
    """A body that is refused: until when, whose engine died, and which targets do not get it."""

    until_s: float
    target: Target
    targets: frozenset[Target]


@dataclass(frozen=True)
class _Suspicion:
    """A body under which an engine died once: until when that counts, whose engine it was, and which death."""

    until_s: float
    target: Target
    death: EngineDeath | None


class BodyBans:
    """The bodies that one process refuses, and those that it may refuse after another death.

    Args:
        clock: its monotonic seconds: a clock that is set changes nothing.
        ban_s: how long a body is refused; 0 for never.
        deaths: which requests were in flight when an engine died.
        find_route: returns the route of a model in an environment.
        count: counts a change.
    """

    def __init__(
        self,
        clock: Clock,
        ban_s: float,
        deaths: EngineDeaths,
        find_route: Callable[[Environment, str], Route | None],
        count: Callable[[Change], None],
    ) -> None:
        self._clock = clock
        self._ban_s = ban_s
        self._deaths = deaths
        self._find_route = find_route
        self._count = count
        self._bans: dict[_Body, _Ban] = {}
        self._suspects: dict[_Body, _Suspicion] = {}

    @property
    def is_empty(self) -> bool:
        """Return whether no body is refused: then no digest has to be computed."""
        newest = next(reversed(self._bans.values()), None)  # the last that ends
        return newest is None or newest.until_s <= self._clock.monotonic()

    def check(self, environment: Environment, target: Target, account: str, digest: str) -> None:
        """Raise RequestRejected (422) for a body that is refused.

        A target that was in no route when the engine died gets the body: it may do better. A previous version does not.
        """
        now_s = self._clock.monotonic()
        for whose in (_ALL, account):
            body = _Body(environment, target.model, whose, digest)
            ban = self._bans.get(body)
            if ban is not None and ban.until_s <= now_s:
                del self._bans[body]
            elif ban is not None and target in ban.targets:
                self._count("refused")
                raise RequestRejected(errors.body_refused(str(ban.target), ban.until_s - now_s))

    def knows_deaths(self, environment: Environment, model: str) -> bool:
        """Return whether an engine of a model died of late under any body, of which any may be sent again."""
        now_s = self._clock.monotonic()
        return any(
            (body.environment, body.model) == (environment, model) and entry.until_s > now_s
            for entries in (self._bans, self._suspects)
            for body, entry in entries.items()
        )

    def is_blamed(self, accepted: AcceptedRequest) -> bool:
        """Return whether an engine died under a body that was not answered since: it goes to no other endpoint."""
        if not self._bans and not self._suspects:
            return False
        now_s, body = self._clock.monotonic(), _as_body(accepted)
        entries = (self._suspects.get(body), self._bans.get(body), self._bans.get(body._replace(account=_ALL)))
        return any(entry is not None and entry.until_s > now_s for entry in entries)

    def is_banned(self, accepted: AcceptedRequest) -> bool:
        """Return whether a body is known to end that engine: it may no more be there by chance (see `note_death`)."""
        now_s, body = self._clock.monotonic(), _as_body(accepted)
        entries = (self._bans.get(body), self._bans.get(body._replace(account=_ALL)))
        return any(entry is not None and entry.until_s > now_s for entry in entries)

    @property
    def knows_shadows(self) -> bool:
        """Return whether an engine of a candidate died of late: else no digest has to be computed for a canary."""
        now_s = self._clock.monotonic()
        return any(
            body.model.endswith(_UNSEEN) and entry.until_s > now_s
            for entries in (self._bans, self._suspects)
            for body, entry in entries.items()
        )

    def died_unseen(self, environment: Environment, target: Target, account: str, digest: str) -> Unseen | None:
        """Return what a body had to do with a death of its target's engine in its shadow; None if nothing is known.

        The active target has answered that body: while the candidate is a canary, it goes there.
        """
        now_s, model = self._clock.monotonic(), f"{target}{_UNSEEN}"
        for_all, own = (_Body(environment, model, whose, digest) for whose in (_ALL, account))
        proven = self._bans.get(for_all)
        if proven is not None and proven.until_s > now_s:
            return "proven"
        entries = (self._bans.get(own), self._suspects.get(own))
        return "suspected" if any(entry is not None and entry.until_s > now_s for entry in entries) else None

    def watch(self, accepted: AcceptedRequest) -> "Watch":
        """Return what follows a request through its attempts."""
        return Watch(self, self._deaths, accepted)

    def note_answer(self, accepted: AcceptedRequest) -> None:
        """Note a complete answer: its body did not end that engine before."""
        if not self._suspects:
            return
        body = _as_body(accepted)
        suspicion = self._suspects.get(body)
        if suspicion is not None and suspicion.target == accepted.choice.served.target:
            del self._suspects[body]

    def note_death(self, accepted: AcceptedRequest, involvement: Involvement, death: EngineDeath | None) -> None:
        """Note a request under which an engine died and that was not answered after all.

        Of the same body sent twice at once, both meet the same death: that is one.
        """
        if self._ban_s == 0:
            return
        now_s, body = self._clock.monotonic(), _as_body(accepted)
        before = self._suspects.get(body)
        known = before if before is not None and before.until_s > now_s else None
        if known is not None and known.death is death and involvement != "certain":
            return
        self._suspects.pop(body, None)
        if involvement == "certain" or known is not None:
            self._ban(accepted, body if involvement == "shared" else body._replace(account=_ALL))
        else:
            _forget_oldest(self._suspects)
            self._suspects[body] = _Suspicion(now_s + self._ban_s, accepted.choice.served.target, death)

    def _ban(self, accepted: AcceptedRequest, body: _Body) -> None:
        target = accepted.choice.served.target
        route = self._find_route(body.environment, body.model)
        self._bans.pop(body, None)
        _forget_oldest(self._bans)
        targets = frozenset({target, *(() if route is None else _targets(route))})
        self._bans[body] = _Ban(self._clock.monotonic() + self._ban_s, target, targets)
        self._count("banned")
        structlog.get_logger().error(
            "an engine died under this request; it is refused for a while"
            if not accepted.choice.shadow
            else "a candidate's engine died under this request; it is not sent there again for a while",
            target=str(target),
            environment=body.environment,
            request_id=accepted.request_id,
            caller=accepted.arrival.caller.pseudonym,
            all_callers=body.account == _ALL,
            digest=body.digest,
            seconds=self._ban_s,
        )


class Watch:
    """Follows one request through its attempts: call `end` once it has ended, however it ended."""

    def __init__(self, bans: BodyBans, deaths: EngineDeaths, accepted: AcceptedRequest) -> None:
        self._bans = bans
        self._deaths = deaths
        self._accepted = accepted
        self._attempts: list[Attempt] = []
        self._ended = False

    def begin(self, endpoint: str) -> None:
        """Note the beginning of an attempt; the one before has ended."""
        if self._attempts:
            self._attempts[-1].end(complete=False)
        choice, sender = self._accepted.choice, self._accepted.arrival.caller.sender
        self._attempts.append(self._deaths.begin(endpoint, choice.served.target, sender, shadow=choice.shadow))

    def is_blamed(self) -> bool:
        """Return whether an engine died under the same body (see `BodyBans.is_blamed`)."""
        return self._bans.is_blamed(self._accepted)

    @property
    def death(self) -> EngineDeath | None:
        """Return the death of an engine that the request met, or that came before it; None without one."""
        return next((attempt.death for attempt in reversed(self._attempts) if attempt.death is not None), None)

    def note_piece(self) -> None:
        """Note a part of the answer."""
        self._attempts[-1].note_piece()

    def note_death(self) -> None:
        """Note that the engine of the attempt died."""
        self._attempts[-1].note_death()

    def end(self, *, complete: bool) -> None:
        """Note the end of the request, once: what counts is whether it was answered after all."""
        if self._ended or not self._attempts:
            return
        self._ended = True
        self._attempts[-1].end(complete=complete)
        strongest = max((attempt.involvement for attempt in self._attempts), key=INVOLVEMENTS.index)
        if complete:
            self._bans.note_answer(self._accepted)
        elif strongest != "none":
            self._bans.note_death(self._accepted, strongest, self.death)


def _as_body(accepted: AcceptedRequest) -> _Body:
    """Return the body of a request. What a candidate dies of that answers no caller is refused to no caller.

    It is another body: one of a model that has no route, and that no caller can name.
    """
    target, account = accepted.choice.served.target, accepted.arrival.caller.account
    model = f"{target}{_UNSEEN}" if accepted.choice.shadow else target.model
    return _Body(accepted.environment, model, account, digest_of(accepted.parsed))


def _targets(route: Route) -> set[Target]:
    """Return all targets that a route knows."""
    served = (route.active, route.previous, *route.history, None if route.canary is None else route.canary.served)
    return {known.target for known in served if known is not None} | set(route.quarantined)


def _forget_oldest(table: dict[K, V]) -> None:
    """Remove the oldest entry of a table that is full."""
    if len(table) >= MOST:
        del table[next(iter(table))]
