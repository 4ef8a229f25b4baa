"""Sends a drawn request again to two versions, after its caller has the answer; both new answers are dropped.

The pair of outcomes is evidence: both versions get the same request under the same limits, and the caller cannot
influence after the draw whether there is a pair. The draw reserves capacity, so each drawn request is sent.
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
"""Result of a drawn request: a pair; an outcome without evidence; not sent, for lack of capacity."""
_BUSY_RATIO = 0.5
"""Share of `max_in_flight` above which no request is drawn."""
_WAITING = 4
"""Maximum drawn requests, running or waiting, as a multiple of `max_mirrors`."""
_CANDIDATES = 1_000
"""Maximum candidates in the table of deaths."""
_DEATHS_FOR_S = 600.0
_LONGEST_S = 60.0
"""Time limit of an answer for a pair."""
_DEATHS = 2
"""Deaths of a candidate's engine that fail its shadow."""
_QUEUED_MS = 50.0
_QUEUED_FOR_S = 5.0
"""After a request waited `_QUEUED_MS` in an engine's queue, the engine gets no pairs for `_QUEUED_FOR_S`."""


@dataclass(frozen=True)
class _Side:
    """One side of a pair: record, texts (None if incomplete), and whether the engine died."""

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
        self._held: dict[str, str] = {}  # accounts, by draw id
        self._unseen: set[str] = set()  # draw ids of shadows
        self._capacity = _WAITING * dependencies.settings.max_mirrors
        self._queued_s: dict[Target, float] = {}
        self._deaths_s: dict[str, list[float]] = {}  # when a candidate's engine died, the last two times
        self._turn = asyncio.Semaphore(dependencies.settings.max_mirrors)
        self._shadow_turn = asyncio.Semaphore(max(1, dependencies.settings.max_mirrors // 2))
        self._running: set[asyncio.Task[None]] = set()

    def draw(
        self, route: Route | None, choice: Choice, parsed: ParsedRequest, arrival: Arrival, in_flight: int
    ) -> Choice | None:
        """Return the other target of a request's pair; None if it is not drawn, or without capacity.

        A drawn request holds capacity until its pair is complete, or until `release`.
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
        """Return whether a caller already holds as much capacity as is free, the rest being for other callers.

        Shadows get at most half of the capacity, and are counted separately from pairs of serving versions.
        """
        if other.shadow and len(self._unseen) >= self._capacity // 2:
            return True
        alike = Counter(whose for draw_id, whose in self._held.items() if (draw_id in self._unseen) == other.shadow)
        return alike[account] >= self._capacity - len(self._held)

    def note(self, record: Inference) -> None:
        """Record whether a request waited in its engine's queue; requests of drills are ignored."""
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
        """Return whether a shadow may crash an endpoint shared with callers: its engine died twice lately.

        Such a candidate has failed its shadow, so further pairs are useless.
        """
        if not other.shadow or set(choice.served.endpoints).isdisjoint(other.served.endpoints):
            return False
        died_s = self._deaths_s.get(str(other.served.target), [])
        lately_s = self._dependencies.clock.monotonic() - _DEATHS_FOR_S
        return sum(at_s > lately_s for at_s in died_s) >= _DEATHS

    def release(self, accepted: AcceptedRequest) -> None:
        """Free the capacity of a drawn request."""
        self._held.pop(accepted.arrival.draw_id, None)
        self._unseen.discard(accepted.arrival.draw_id)

    def offer(self, accepted: AcceptedRequest, served: Inference) -> None:
        """Start the pair of a drawn request after its answer ended; return at once.

        Args:
            accepted: the request.
            served: the record of its answer.
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
        """Return whether both targets have the same roles in the route as at the draw."""
        target = accepted.choice.served.target
        route = self._dependencies.tables[accepted.arrival.environment].get(target.model)
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
        """Send a request to both targets, and publish the pair; a shadow is first in half of the draws.

        If the serving target's engine dies, another target with traffic is not asked.
        """
        async with self._shadow_turn if other.shadow else contextlib.nullcontext(), self._turn:
            shadow_first = routing.asks_shadow_first(accepted.arrival.draw_id, other)
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
            self._dependencies.features.submit(pair, served.texts, mirrored.texts, draw_id=accepted.arrival.draw_id)

    async def _ask_other(self, accepted: AcceptedRequest, other: Choice) -> _Side:
        """Ask the other target; record the time if this kills a shadow's engine."""
        side = await self._ask(self._again(accepted, other))
        if other.shadow and side.record.engine_died == "meanwhile":
            if len(self._deaths_s) >= _CANDIDATES:
                self._deaths_s.clear()
            name, now_s = str(other.served.target), self._dependencies.clock.monotonic()
            self._deaths_s[name] = [*self._deaths_s.get(name, []), now_s][-_DEATHS:]
        return side

    async def _as_silent(self, accepted: AcceptedRequest, served: _Side, mirrored: _Side) -> MirroredPair | None:
        """Return the pair of a request that only the candidate left unanswered; None if the machine may have hung.

        To exclude that, the active target must answer the request once more.
        """
        again = await self._ask(self._again(accepted, accepted.choice))
        return None if again.record.error is not None else routing.as_failed(served.record, mirrored.record)

    def _as_pair(self, served: _Side, mirrored: _Side, choice: Choice, other: Choice) -> MirroredPair | None:
        """Return the pair of two sides; None if either is no evidence, such as an engine dead before."""
        if not mirrored.died:
            record, context_tokens = mirrored.record, other.served.context_tokens
            if context_tokens < choice.served.context_tokens:
                record = routing.excuse_cut(served.record, record, context_tokens)
            return routing.as_pair(served.record, record, shadow=other.shadow)
        if not other.shadow or mirrored.record.engine_died != "meanwhile":
            return None
        return routing.as_failed(served.record, mirrored.record)

    def _again(self, accepted: AcceptedRequest, choice: Choice) -> AcceptedRequest:
        """Return a copy of the request for a target, arriving now, without cached prefixes, with the current drill."""
        dependencies, target = self._dependencies, choice.served.target
        now, now_s = dependencies.clock.now(), dependencies.clock.monotonic()
        drill = dependencies.drills.get(accepted.arrival.environment, target.model)
        return replace(
            accepted,
            arrival=replace(accepted.arrival, at=now, at_s=now_s),
            choice=choice,
            pair=None,
            trace=RequestTrace(None, accepted.parsed.kind, target, now, ""),
            waited_s=0.0,
            deadline_s=min(accepted.deadline_s, _LONGEST_S),
            effect=drills.decide_effect(drill, target, accepted.arrival.draw_id, now, now_s),
            cache_salt=f"pair-{accepted.arrival.draw_id}",
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
