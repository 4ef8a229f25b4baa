"""Temporary bans, at all gateways, of request bodies in flight when an engine died, to protect other engines.

A body in flight at one death is refused for a minute, except at a target whose only replica died; after deaths of
two targets it is refused for ten minutes, from any caller.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import structlog

from contracts.engine_deaths import MOST_BODIES, DeathReport
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment, Target
from services.gateway.api.measurement import AcceptedRequest
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.requests import digest_of
from shared.runtime.clock import Clock

Change = Literal["banned", "refused"]
"""Label of the metric: a body was banned, or a request with a banned body was refused."""
ONE_S: Final = 60.0
"""Seconds of a ban after the death of one target."""
TWO_S: Final = 600.0
"""Seconds of a ban after deaths of two targets, and for which a death counts."""
_MOST: Final = 4_096
_MOST_ENGINES: Final = 1_000


class _Body(NamedTuple):
    environment: Environment
    model: str
    digest: str


@dataclass
class _Engine:
    """One target at one endpoint; `is_alive`: it answered a request sent after its last death."""

    deaths: int = 0
    died_s: float = -math.inf
    is_alive: bool = False
    in_flight: "set[Flight]" = field(default_factory=set)


@dataclass(eq=False)
class Flight:
    """One attempt of a request at an engine; always call `end`.

    Attributes:
        death: whether the engine died during the attempt or before it; None without a death.
    """

    bans: "BodyBans"
    engine: _Engine
    accepted: AcceptedRequest
    deaths_before: int
    death: Literal["meanwhile", "before"] | None = None

    def note_piece(self) -> None:
        """Mark the engine alive after a piece of an answer, unless it died since the attempt began."""
        if self.deaths_before == self.engine.deaths:
            self.engine.is_alive = True

    def note_death(self) -> None:
        """Record that the engine reported its death, and ban all bodies in flight.

        A dead engine reports its death to every request until it is reloaded: only the first report after an answer
        counts. A shadow may never answer, so for it any report after `ONE_S` counts.
        """
        now_s, shadow = self.bans.clock.monotonic(), self.accepted.choice.shadow
        may_live = self.engine.is_alive or (shadow and now_s - self.engine.died_s >= ONE_S)
        if self.death is not None:
            return
        if self.deaths_before != self.engine.deaths or not may_live:
            self.death = "before"
            return
        self.engine.deaths, self.engine.died_s, self.engine.is_alive = self.engine.deaths + 1, now_s, False
        for flight in self.engine.in_flight:
            flight.death = "meanwhile"
        self.bans.report([flight.accepted for flight in self.engine.in_flight])

    def end(self) -> None:
        """End the attempt; idempotent."""
        self.engine.in_flight.discard(self)


class BodyBans:
    """The request bodies that one process refuses.

    Args:
        clock: its monotonic seconds time the bans.
        process: the id of this process.
        count: counts bans and refusals.
    """

    def __init__(self, clock: Clock, process: str, count: Callable[[Change], None]) -> None:
        self.clock = clock
        self.process = process
        self._count = count
        self._engines: dict[tuple[str, Target], _Engine] = {}
        self._deaths: dict[_Body, dict[Target, float]] = {}
        self._last_s = -math.inf  # of any death
        self.reports: asyncio.Queue[DeathReport] = asyncio.Queue(_MOST)
        """Reports to publish to the other processes."""
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_empty(self) -> bool:
        """Return whether no body is banned, so that digests are not needed."""
        return self.clock.monotonic() - self._last_s >= TWO_S

    def begin(self, endpoint: str, accepted: AcceptedRequest) -> Flight:
        """Return a new attempt, in flight until `Flight.end`."""
        key = (endpoint, accepted.choice.served.target)
        if key not in self._engines and len(self._engines) >= _MOST_ENGINES:
            self._engines = {name: engine for name, engine in self._engines.items() if engine.in_flight}
        engine = self._engines.setdefault(key, _Engine())
        flight = Flight(self, engine, accepted, engine.deaths)
        engine.in_flight.add(flight)
        return flight

    def report(self, there: list[AcceptedRequest]) -> None:
        """Ban the bodies in flight at a death, here and at other gateways, except mirrored requests to shadows.

        Another version has answered the callers of those, so the death costs them nothing.
        """
        callers = [accepted for accepted in there if not accepted.choice.shadow]
        if not callers:
            return
        self._last_s = self.clock.monotonic()
        task = asyncio.ensure_future(self._report(callers))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Wait until running `report` tasks have applied their bans; cancelling the wait cancels no report."""
        if self._running:
            await asyncio.wait(self._running)

    async def _report(self, callers: list[AcceptedRequest]) -> None:
        """Ban the bodies of requests; their digests are computed in a thread."""
        bodies = await asyncio.to_thread(lambda: {digest_of(accepted.parsed) for accepted in callers})
        report = DeathReport(
            process=self.process,
            environment=callers[0].arrival.environment,
            target=callers[0].choice.served.target,
            bodies=tuple(bodies)[:MOST_BODIES],
        )
        self.take(report)
        for _ in report.bodies:
            self._count("banned")
        if not self.reports.full():
            self.reports.put_nowait(report)

    def take(self, report: DeathReport) -> None:
        """Ban the bodies of a report, from this process or another."""
        now_s = self.clock.monotonic()
        deaths = {body: lately for body, targets in self._deaths.items() if (lately := _lately(targets, now_s))}
        for digest in report.bodies:
            body = _Body(report.environment, report.target.model, digest)
            deaths[body] = {**deaths.pop(body, {}), report.target: now_s}
        self._deaths, self._last_s = dict(list(deaths.items())[-_MOST:]), now_s
        log = structlog.get_logger().bind(target=str(report.target), environment=report.environment)
        log.error("an engine died; what it had is refused for a while", bodies=len(report.bodies))

    def check(self, environment: Environment, served: ServedTarget, digest: str) -> bool:
        """Return whether other targets refuse a body; raise RequestRejected (503) if `served` refuses it."""
        body, now_s = _Body(environment, served.target.model, digest), self.clock.monotonic()
        targets = _lately(self._deaths.get(body, {}), now_s)
        if not targets:
            self._deaths.pop(body, None)
            return False
        died = max(targets, key=lambda target: targets[target])
        wait_s = targets[died] + (TWO_S if len(targets) > 1 else ONE_S) - now_s
        is_where_it_died = len(targets) == 1 and died == served.target and len(served.endpoints) == 1
        if wait_s > 0.0 and not is_where_it_died:
            self._count("refused")
            raise RequestRejected(errors.body_refused([str(target) for target in targets], wait_s))
        return wait_s > 0.0


def _lately(targets: dict[Target, float], now_s: float) -> dict[Target, float]:
    return {target: at_s for target, at_s in targets.items() if now_s - at_s < TWO_S}
