"""Sends drawn requests to the version behind as well, after their callers have their answers; its own are dropped.

A pair of outcomes is evidence because both versions had the same request. A mirrored request delays nobody: it starts
when the caller's answer has ended, few run at a time, and all end when the gateway gets busy.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from contracts.facts import Inference
from decisions.attribution import ATTRIBUTION
from services.gateway.answer import Answer
from services.gateway.cross_checks import LONGEST_S
from services.gateway.dependencies import Dependencies
from services.gateway.domain import drills, pairing
from services.gateway.domain.failures import AnswerFailed
from services.gateway.measurement import AcceptedRequest, Outcome
from services.gateway.request_traces import RequestTrace

Result = Literal["paired", "unknown", "shed"]
"""What became of a drawn request: a pair; an outcome that shows nothing; not sent, or ended, for want of capacity."""
_BUSY_RATIO = 0.5
"""Of the requests that the gateway answers at the same time: with more in progress, none is mirrored."""


@dataclass(frozen=True)
class _Side:
    """One side of a pair: its record, and the text of its answer, if that is complete."""

    record: Inference
    text: str | None


class Mirrors:
    """The mirrored requests of one process.

    Args:
        dependencies: ports, tables and limits.
        new_answer: makes the answer to a request, as to a caller's.
    """

    def __init__(self, dependencies: Dependencies, new_answer: Callable[[AcceptedRequest], Answer]) -> None:
        self._dependencies = dependencies
        self._new_answer = new_answer
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, accepted: AcceptedRequest, served: Inference, text: str, in_flight: int) -> None:
        """Mirror a request whose answer has ended, if it was drawn and there is capacity; return at once.

        Args:
            accepted: the request.
            served: its record.
            text: its answer.
            in_flight: requests that are being answered.
        """
        if accepted.pair is None or not pairing.may_follow(served) or not self._is_in_route(accepted):
            return
        if len(self._running) >= self._dependencies.max_mirrors or self._is_busy(in_flight):
            self._count("shed")
            return
        side = _Side(served, text if served.error is None and accepted.parsed.generates else None)
        task = asyncio.ensure_future(self._mirror(accepted, side))
        self._running.add(task)
        task.add_done_callback(self._end)

    def note_load(self, in_flight: int) -> None:
        """End all mirrored requests if the gateway gets busy: they are the first that go."""
        if self._running and self._is_busy(in_flight):
            for task in self._running:
                task.cancel()

    def _is_busy(self, in_flight: int) -> bool:
        return in_flight > self._dependencies.max_in_flight * _BUSY_RATIO

    def _is_in_route(self, accepted: AcceptedRequest) -> bool:
        """Return whether the two targets still stand in the route as they did when the pair was drawn."""
        target = accepted.choice.served.target
        route = self._dependencies.tables[accepted.environment].get(target.model)
        return route is not None and pairing.find_other(route, target) == accepted.pair

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():
            self._count("shed")
        elif (error := task.exception()) is not None:
            self._count("unknown")
            structlog.get_logger().error("mirrored request failed", exc_info=error)

    async def _mirror(self, accepted: AcceptedRequest, served: _Side) -> None:
        mirrored = await self._ask(self._to_other(accepted))
        pair = pairing.as_pair(served.record, mirrored.record)
        if pair is None:
            self._count("unknown")
            return
        self._count("paired")
        texts = None if served.text is None or mirrored.text is None else (served.text, mirrored.text)
        if texts is None:
            self._dependencies.record_pair(pair)
        else:
            self._dependencies.features.submit_pair(pair, accepted.parsed.text, texts, draw_id=accepted.draw_id)

    def _to_other(self, accepted: AcceptedRequest) -> AcceptedRequest:
        """Return the request to the other target: it arrives now, and a drill of that target changes it."""
        dependencies, other = self._dependencies, accepted.pair
        assert other is not None  # noqa: S101 - `offer` checked it
        target, now, now_s = other.served.target, dependencies.clock.now(), dependencies.clock.monotonic()
        drill = dependencies.drills.get(accepted.environment, target.model)
        return replace(
            accepted,
            choice=other,
            pair=None,
            trace=RequestTrace(None, accepted.parsed.kind, target, now, ""),
            arrived_at=now,
            arrived_s=now_s,
            deadline_s=min(accepted.deadline_s, LONGEST_S),
            effect=drills.decide_effect(drill, target, accepted.draw_id, now, now_s),
        )

    async def _ask(self, mirrored: AcceptedRequest) -> _Side:
        answer, outcome = self._new_answer(mirrored), Outcome()
        try:
            await answer.start()
            async for _ in answer.pieces():
                pass
        except AnswerFailed as failure:
            outcome = Outcome(error=failure.kind, caused_by=ATTRIBUTION[failure.kind])
        finally:
            await answer.close()
        complete = outcome == Outcome() and mirrored.parsed.generates
        return _Side(answer.to_record(outcome), answer.measurement.text if complete else None)

    def _count(self, result: Result) -> None:
        self._dependencies.metrics.mirrored.labels(result).inc()
