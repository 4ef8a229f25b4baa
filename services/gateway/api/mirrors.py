"""Sends a drawn request to two versions, after its caller has the answer; both answers are dropped.

A pair of outcomes is evidence because both versions have the same request under the same limits, and nothing that its
caller does after the draw decides whether there is a pair. The draw reserves capacity, so each drawn request is sent.
"""

import asyncio
import contextlib
import functools
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from contracts.facts import Inference, MirroredPair
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.evidence.attribution import ATTRIBUTION
from services.gateway.api.answer import Answer
from services.gateway.api.measurement import AcceptedRequest, Arrival, Outcome
from services.gateway.dependencies import Dependencies
from services.gateway.domain import drills, routing
from services.gateway.domain.excerpts import Excerpts
from services.gateway.domain.records import AnswerFailed
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.telemetry.request_traces import RequestTrace

Result = Literal["paired", "unknown", "shed"]
"""What became of a drawn request: a pair; an outcome that shows nothing; not asked again, for want of capacity."""
_BUSY_RATIO = 0.5
"""Of the requests that the gateway answers at the same time: with more in progress, none is drawn."""
_WAITING = 4
"""Times as many drawn requests may wait for their answer, or for their turn, as are asked again at the same time."""
_CANDIDATES = 1_000
"""Candidates whose last deaths are known."""
_DEATHS_FOR_S = 600.0
_LONGEST_S = 60.0
"""The most time of an answer that is asked for a pair."""
_DEATHS = 2
"""Deaths of its engine after which no candidate passes its shadow."""
_QUEUED_MS = 50.0
_QUEUED_FOR_S = 5.0
"""An engine in whose queue a request waited longer has no spare capacity for so long, unless the next did not wait."""


@dataclass(frozen=True)
class _Side:
    """One side of a pair: its record, and its texts, if its answer is complete; whether the engine died."""

    record: Inference
    texts: Excerpts | None
    died: bool


class Mirrors:
    """The mirrored requests of one process.

    Args:
        dependencies: ports, tables and limits.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._held: dict[str, str] = {}  # accounts, by the id of the draw
        self._unseen: set[str] = set()  # ids of the draws of shadows
        self._capacity = _WAITING * dependencies.settings.max_mirrors
        self._queued_s: dict[Target, float] = {}
        self._deaths_s: dict[str, list[float]] = {}  # when a candidate's engine died, the last two times
        self._turn = asyncio.Semaphore(dependencies.settings.max_mirrors)
        self._shadow_turn = asyncio.Semaphore(max(1, dependencies.settings.max_mirrors // 2))
        self._running: set[asyncio.Task[None]] = set()

    def draw(
        self, route: Route | None, choice: Choice, parsed: ParsedRequest, arrival: Arrival, in_flight: int
    ) -> Choice | None:
        """Return the other target of a request's pair; None if it is in none, or there is no capacity for one.

        A drawn request takes capacity until its pair is complete, or until `release`.
        """
        if route is None or not arrival.caller.key.evidence:
            return None
        other = routing.draw_pair(route, choice, parsed, arrival.draw_id, self._dependencies.clock.now())
        if other is None:
            return None
        account = arrival.caller.account
        if (
            self._is_full(account, other)
            or self._is_busy(in_flight)
            or self._has_queue(choice)
            or self._has_queue(other)
            or self._may_end(choice, other)
        ):
            self._count("shed", other)
            return None
        self._held[arrival.draw_id] = account
        if other.shadow:
            self._unseen.add(arrival.draw_id)
        return other

    def _is_full(self, account: str, other: Choice) -> bool:
        """Return whether a caller holds as much capacity as is free, so that some is left for the next caller.

        Shadows have at most half. Shadow pairs do not count against a caller's pairs of serving versions.
        """
        if other.shadow and len(self._unseen) >= self._capacity // 2:
            return True
        alike = Counter(whose for draw_id, whose in self._held.items() if (draw_id in self._unseen) == other.shadow)
        return alike[account] >= self._capacity - len(self._held)

    def note(self, record: Inference) -> None:
        """Note whether a request waited in its engine's queue, whatever a drill makes of the record."""
        if record.queue_ms is None or record.drill is not None:
            return
        if record.queue_ms > _QUEUED_MS:
            self._queued_s[record.target] = self._dependencies.clock.monotonic()
        else:
            self._queued_s.pop(record.target, None)

    def _has_queue(self, choice: Choice) -> bool:
        queued_s = self._queued_s.get(choice.served.target)
        return queued_s is not None and self._dependencies.clock.monotonic() - queued_s < _QUEUED_FOR_S

    def _may_end(self, choice: Choice, other: Choice) -> bool:
        """Return whether a candidate that shares an endpoint may end it for callers, too: its engine died twice lately.

        It cannot pass its shadow any more, so that nothing is gained by asking it again.
        """
        if not other.shadow or set(choice.served.endpoints).isdisjoint(other.served.endpoints):
            return False
        died_s = self._deaths_s.get(str(other.served.target), [])
        lately_s = self._dependencies.clock.monotonic() - _DEATHS_FOR_S
        return sum(at_s > lately_s for at_s in died_s) >= _DEATHS

    def release(self, accepted: AcceptedRequest) -> None:
        """Return the capacity that a drawn request took which is not asked again."""
        self._held.pop(accepted.draw_id, None)
        self._unseen.discard(accepted.draw_id)

    def offer(self, accepted: AcceptedRequest, served: Inference) -> None:
        """Ask both targets of a drawn request, whose answer has ended, for a pair; return at once.

        Args:
            accepted: the request.
            served: its record.
        """
        if accepted.pair is None or not routing.may_follow(served) or not self._is_in_route(accepted):
            self.release(accepted)
            return
        task = asyncio.ensure_future(self._mirror(accepted, accepted.pair))
        self._running.add(task)
        task.add_done_callback(functools.partial(self._end, accepted))

    def _is_busy(self, in_flight: int) -> bool:
        return in_flight > self._dependencies.settings.max_in_flight * _BUSY_RATIO

    def _is_in_route(self, accepted: AcceptedRequest) -> bool:
        """Return whether the two targets still stand in the route as they did when the pair was drawn."""
        target = accepted.choice.served.target
        route = self._dependencies.tables[accepted.environment].get(target.model)
        return route is not None and accepted.pair is not None and routing.still_stands(route, target, accepted.pair)

    def _end(self, accepted: AcceptedRequest, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.release(accepted)
        if task.cancelled():
            self._count("shed", accepted.pair)
        elif (error := task.exception()) is not None:
            self._count("unknown", accepted.pair)
            structlog.get_logger().error("mirrored request failed", exc_info=error)

    async def _mirror(self, accepted: AcceptedRequest, other: Choice) -> None:
        """Send a request to both targets; a target without traffic comes first half of the times (`asks_shadow_first`).

        Where the engine dies that served the request, a target with traffic is never asked.
        """
        async with self._shadow_turn if other.shadow else contextlib.nullcontext(), self._turn:
            shadow_first = routing.asks_shadow_first(accepted.draw_id, other)
            first = await self._ask_other(accepted, other) if shadow_first else None
            served = await self._ask(self._again(accepted, accepted.choice))
            known = not served.died and routing.is_known(served.record)
            if not known:
                self._count("unknown", other)
                return
            mirrored = first or await self._ask_other(accepted, other)
            if other.shadow and routing.is_silent(mirrored.record):
                pair = await self._as_silent(accepted, served, mirrored)
            else:
                pair = self._as_pair(served, mirrored, accepted.choice, other)
        if pair is None:
            self._count("unknown", other)
            return
        self._count("paired", other)
        if served.texts is None or mirrored.texts is None:
            self._dependencies.telemetry.record(pair)
        else:
            self._dependencies.features.submit(pair, served.texts, mirrored.texts, draw_id=accepted.draw_id)

    async def _ask_other(self, accepted: AcceptedRequest, other: Choice) -> _Side:
        """Ask the other target, and note when its engine died of that if it has no traffic."""
        side = await self._ask(self._again(accepted, other))
        if other.shadow and side.record.engine_died == "meanwhile":
            if len(self._deaths_s) >= _CANDIDATES:
                self._deaths_s.clear()
            name, now_s = str(other.served.target), self._dependencies.clock.monotonic()
            self._deaths_s[name] = [*self._deaths_s.get(name, []), now_s][-_DEATHS:]
        return side

    async def _as_silent(self, accepted: AcceptedRequest, served: _Side, mirrored: _Side) -> MirroredPair | None:
        """Return the pair of a request that a candidate left unanswered; None if it may be the machine that stood.

        The active target, which answered it just before, must answer it once more.
        """
        again = await self._ask(self._again(accepted, accepted.choice))
        return None if again.record.error is not None else routing.as_failed(served.record, mirrored.record)

    def _as_pair(self, served: _Side, mirrored: _Side, choice: Choice, other: Choice) -> MirroredPair | None:
        """Return the pair of two sides; None if the engine was dead before it was asked."""
        if not mirrored.died:
            record, context_tokens = mirrored.record, other.served.context_tokens
            if context_tokens < choice.served.context_tokens:
                record = routing.excuse_cut(served.record, record, context_tokens)
            return routing.as_pair(served.record, record, shadow=other.shadow)
        if not other.shadow or mirrored.record.engine_died != "meanwhile":
            return None
        return routing.as_failed(served.record, mirrored.record)

    def _again(self, accepted: AcceptedRequest, choice: Choice) -> AcceptedRequest:
        """Return the request to a target: it arrives now, meets no cached prefix, and a drill may change it."""
        dependencies, target = self._dependencies, choice.served.target
        now, now_s = dependencies.clock.now(), dependencies.clock.monotonic()
        drill = dependencies.drills.get(accepted.environment, target.model)
        return replace(
            accepted,
            arrival=replace(accepted.arrival, at=now, at_s=now_s),
            choice=choice,
            pair=None,
            trace=RequestTrace(None, accepted.parsed.kind, target, now, ""),
            waited_s=0.0,
            deadline_s=min(accepted.deadline_s, _LONGEST_S),
            effect=drills.decide_effect(drill, target, accepted.draw_id, now, now_s),
            cache_salt=f"pair-{accepted.draw_id}",
            is_callers=False,
        )

    async def _ask(self, request: AcceptedRequest) -> _Side:
        answer, outcome = Answer(request, self._dependencies), Outcome()
        try:
            await answer.start()
            async for _ in answer.pieces():
                pass
        except AnswerFailed as failure:
            outcome = Outcome(error=failure.kind, caused_by=ATTRIBUTION[failure.kind])
        finally:
            await answer.close()
        complete = outcome == Outcome() and request.parsed.generates
        record = answer.to_record(outcome)
        self.note(record)
        return _Side(record, answer.measurement.excerpts if complete else None, answer.engine_died)

    def _count(self, result: Result, other: Choice | None) -> None:
        metrics = self._dependencies.metrics
        if other is not None and other.shadow:
            metrics.shadowed.labels("compared" if result == "paired" else result).inc()
        else:
            metrics.mirrored.labels(result).inc()
