"""An answer in progress: attempts at endpoints, and the engine's output on its way to the caller."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import Literal

from contracts.facts import Inference
from decisions.evidence.attribution import ATTRIBUTION, PROVABLE, ErrorKind, as_error_kind
from services.gateway.api.body_bans import Flight
from services.gateway.api.measurement import AcceptedRequest, Measurement, Outcome
from services.gateway.dependencies import Dependencies
from services.gateway.domain import routing
from services.gateway.domain.drills import AlteredBody, DrillEffect
from services.gateway.domain.records import (
    FIRST_ERROR_STATUS,
    REJECTED,
    AnswerFailed,
    EngineRecord,
    EngineResponse,
    read_failure,
    read_record,
)
from services.gateway.routing.balancer import Load
from services.gateway.server.http import Backlog
from shared.errors import SlipwayError
from shared.serving.openai_stream import ApiPiece

_FINAL = REJECTED | {"template_failed", "deadline_exceeded"}
"""Failures that a second attempt would repeat."""
_NEVER_AGAIN = _FINAL | {"no_first_token"}
"""Failures without a second attempt: `_FINAL`, and silence, because it used up the time limit."""
_SLACK_S = 5.0
"""Extra time after an answer's deadline for the backend to report it."""
_CONTENT_TYPES = frozenset({"application/json", "text/event-stream"})


class Answer:
    """An answer in progress: call `start`, read `pieces` to the end, and always call `close`.

    A separate task reads and times the engine's output, independent of the caller's reading.
    """

    def __init__(self, accepted: AcceptedRequest, dependencies: Dependencies) -> None:
        self.accepted = accepted
        self._dependencies = dependencies
        self._clock = dependencies.clock
        self._balancer = dependencies.balancer
        self._flight: Flight | None = None
        self._load: Load | None = None
        self._alteration = accepted.effect.alteration if accepted.effect else None
        reason = "length" if self._alteration == "cut" else None
        self._altered = (
            AlteredBody(stream=accepted.parsed.stream, finish_reason=reason) if self._alteration is not None else None
        )
        self._stream: AsyncGenerator[ApiPiece, None] | None = None
        self._backlog = self._new_backlog()
        self._deadline_s = 0.0
        self._has_head = False
        self._reading: asyncio.Task[None] | None = None
        self._death: Literal["meanwhile", "before"] | None = None
        self.measurement = Measurement(accepted)
        self.content_type = "application/json"
        self.endpoint = ""
        self.retried: ErrorKind | None = None  # reason for a second attempt
        self.engine_died = False  # during this request, in any attempt
        self.other_failed: ErrorKind | None = None  # the fallback's failure of the same request
        self.is_sent = False  # completely, to the caller

    def _new_backlog(self) -> Backlog:
        """Return an empty backlog, bounded for streams only."""
        return Backlog(self._dependencies.settings.max_lag_bytes if self.accepted.parsed.stream else None)

    async def start(self) -> None:
        """Wait for the first token or byte; retry a failed attempt once, on the same version.

        Raises:
            AnswerFailed: both attempts failed; or, without a retry, the target refused the request or stayed
                silent, or a drill failed it.
        """
        try:
            await self._start()
        except AnswerFailed:
            self._end()
            raise
        self._reading = asyncio.ensure_future(self._read_rest())

    async def _start(self) -> None:
        if self.accepted.effect is not None:
            await self._apply(self.accepted.effect)
        accepted = self.accepted
        served, kind = accepted.choice.served, accepted.parsed.kind
        first = self._balancer.choose(served, accepted.arrival.draw_id, kind)
        try:
            await self._attempt(first)
        except AnswerFailed as failure:
            if failure.kind in _NEVER_AGAIN:
                raise
            if self.engine_died and not (accepted.is_callers and len(served.endpoints) == 1):
                raise  # the request may kill another engine, too
            excused = ATTRIBUTION[failure.kind] != "target" or failure.kind in PROVABLE
            if excused:
                self.measurement.excused_s = math.inf  # until the next attempt
            second = self._choose_second(first)
            if second == first or self._balancer.is_ejected(served, second):
                await self._dependencies.engine.await_reconnect(second)
            self.retried = failure.kind
            if excused:
                again_s = self._clock.monotonic() - self.measurement.sent_s
                self.measurement.excused_s = accepted.waited_s + again_s
            await self._attempt(second)

    def _choose_second(self, first: str) -> str:
        """Return another endpoint; the first if there is none, or if the request depends on one engine's state."""
        accepted = self.accepted
        served, kind = accepted.choice.served, accepted.parsed.kind
        other = self._balancer.choose_other(served, accepted.arrival.draw_id, kind, first)
        if other is None or routing.has_state(accepted.parsed):
            return first
        return other

    async def _apply(self, effect: DrillEffect) -> None:
        if effect.delay_s > 0.0:
            await self._dependencies.pause(effect.delay_s)
        if effect.fails:
            raise AnswerFailed("engine_failed", effect.failure, public=True)

    async def _attempt(self, endpoint: str) -> None:
        """Read an answer up to its first token, or to its end if it has none."""
        self._end_attempt()
        self._flight = self._dependencies.bans.begin(endpoint, self.accepted)
        load = self._load = self._balancer.begin(endpoint, self.accepted)
        try:
            await self._read_first(endpoint, load)
        except AnswerFailed as failure:
            self._note_failure(failure)
            raise
        load.note_answer()

    def _note_failure(self, failure: AnswerFailed) -> None:
        if failure.kind == "engine_dead":
            self.engine_died = True
            is_reported = failure.silent_s is None and not failure.is_cut  # silence and a cut have other causes, too
            if self._flight is not None and is_reported:
                self._flight.note_death()
                self._death = self._death if self._death == "meanwhile" else self._flight.death
        if self._load is not None:
            self._load.note_failure(failure)

    def _end_attempt(self) -> None:
        if self._load is not None:
            self._load.end()
        if self._flight is not None:
            self._flight.end()

    async def _read_first(self, endpoint: str, load: Load) -> None:
        accepted = self.accepted
        now_s = self._clock.monotonic()
        self.endpoint, self.measurement.sent_s = endpoint, now_s
        self._deadline_s = self._deadline_s or now_s + accepted.deadline_s
        self._backlog = self._new_backlog()  # drops output of a failed attempt
        self._has_head = False
        sent_at = accepted.arrival.at + timedelta(seconds=now_s - accepted.arrival.at_s)
        traceparent = accepted.trace.begin_attempt(endpoint, sent_at)
        request = accepted.to_api_request(self._deadline_s - now_s, traceparent)
        stream = self._stream = self._dependencies.engine.send(endpoint, accepted.choice.served.target, request)
        try:
            async with self._limits() as limit:
                with load.leaving(limit):
                    while self.measurement.output_tokens == 0:
                        piece = await anext(stream, None)
                        if piece is None:
                            self._check_complete()
                            return
                        await self._take(piece, stream)
        except BaseException:
            await stream.aclose()
            raise

    @contextlib.asynccontextmanager
    async def _limits(self) -> AsyncIterator[asyncio.Timeout]:
        """Convert errors of the engine's client, and a passed deadline, to AnswerFailed."""
        remaining_s = max(0.0, self._deadline_s - self._clock.monotonic()) + _SLACK_S
        try:
            async with asyncio.timeout(remaining_s) as timeout:
                yield timeout
        except SlipwayError as error:
            failure = AnswerFailed(as_error_kind(error.code), error.reason, silent_s=error.details.get("silent_s"))
            failure.is_not_loaded = bool(error.details.get("not_loaded"))
            raise failure from error
        except TimeoutError:
            if not timeout.expired():
                raise
            if self._load is not None and self._load.has_left:
                failure = AnswerFailed("endpoint_unreachable", "The server of the endpoint answers nothing.")
                failure.is_stall = True
                raise failure from None
            limit_s = self.accepted.deadline_s
            raise AnswerFailed("deadline_exceeded", f"The answer was not complete within {limit_s:g} s.") from None

    async def _read_rest(self) -> None:
        """Read the rest of the answer as fast as the engine delivers it; forward every failure to the reader."""
        assert self._stream is not None  # noqa: S101 - start() was called
        try:
            async with self._limits(), contextlib.aclosing(self._stream) as stream:
                async for piece in stream:
                    await self._take(piece, stream)
            self._check_complete()
            self._backlog.end()
        except AnswerFailed as failure:
            self._note_failure(failure)
            kind = "engine_failed" if failure.kind in _FINAL - {"deadline_exceeded"} else failure.kind
            self._backlog.end(AnswerFailed(kind, failure.reason, silent_s=failure.silent_s))
        except Exception as error:  # noqa: BLE001 - raised again by `pieces`
            self._backlog.end(error)
        finally:
            self._end()

    def _check_complete(self) -> None:
        """Raise AnswerFailed if the stream ended before the answer was complete."""
        if not self._has_head or (self.accepted.parsed.generates and not self.measurement.has_ended):
            failure = AnswerFailed("engine_dead", "The target's stream ended before its answer.")
            failure.is_cut = True
            raise failure

    async def _take(self, piece: ApiPiece, stream: AsyncGenerator[ApiPiece, None]) -> None:
        """Measure a piece of the engine's stream, and append its bytes for the caller to the backlog.

        Raises:
            AnswerFailed: the piece reports a failure, or is invalid.
        """
        record = read_record(piece.record)
        failure = read_failure(piece.status, record, piece.body)
        if failure is not None:
            if piece.status is not None and piece.status >= FIRST_ERROR_STATUS and self._reading is None:
                body = piece.body + b"".join([rest.body async for rest in stream])
                failure.response = EngineResponse(piece.status, _read_content_type(piece), body)
            raise failure
        if self._flight is not None:
            self._flight.note_piece()
        if piece.status is not None:
            self._has_head, self.content_type = True, _read_content_type(piece)
        elif piece.body and not self._has_head:
            raise AnswerFailed("engine_failed", "The engine sent bytes before the status of its answer.")
        await self._delay(record)
        now_s = self._clock.monotonic()
        text = self.measurement.note(record, now_s)
        if text is not None:
            self._dependencies.checks.note_delta(self.accepted.choice.served.target, self.endpoint, now_s)
            if self._load is not None:
                self._load.note_tokens(self.measurement.output_tokens)
        body = piece.body if self._altered is None else self._altered.feed(piece.body, text or "")
        if body:
            self._backlog.put(body)
            self.measurement.note_delivered(body)

    async def _delay(self, record: EngineRecord) -> None:
        """Wait for a drill's delay of a piece's tokens, except of the first piece."""
        effect = self.accepted.effect
        if effect is None or effect.token_delay_s == 0.0 or self.measurement.output_tokens == 0:
            return
        tokens = self.measurement.count_new_tokens(record)
        delay_s = min(tokens * effect.token_delay_s, effect.until_s - self._clock.monotonic())
        if delay_s > 0.0:
            await self._dependencies.pause(delay_s)

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the answer as they arrive.

        Raises:
            AnswerFailed: the stream broke.
            SlowReader: the unread part of the answer exceeds the limit.
        """
        return self._backlog.read()

    def _end(self) -> None:
        self.measurement.end(self._clock.monotonic())
        self._end_attempt()

    async def close(self) -> None:
        """Abort the request in the engine if it still runs."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._end_attempt()
        if self._stream is not None:
            await self._stream.aclose()

    def to_record(self, outcome: Outcome) -> Inference:
        """Return the telemetry record (see `Measurement.to_record`)."""
        self._end()
        return self.measurement.to_record(outcome, self.endpoint, self._death)


def _read_content_type(piece: ApiPiece) -> str:
    """Return the content type of an answer, JSON if it is none of the API's."""
    content_type = dict(piece.headers).get("content-type", "")
    return content_type if content_type.partition(";")[0] in _CONTENT_TYPES else "application/json"
