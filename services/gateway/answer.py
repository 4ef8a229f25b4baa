"""An answer in progress, from the first attempt to its telemetry record."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.facts import Inference
from contracts.vocabulary import Environment, Party, Target
from decisions.attribution import ATTRIBUTION, PROVABLE, ErrorKind, as_error_kind
from decisions.shaping import is_length_forced_by_caller, is_length_set_by_caller, is_shaped_by_caller
from decisions.triggers import CANCELLED
from services.gateway.backlog import Backlog
from services.gateway.domain import drills, features, routing, timing
from services.gateway.domain.altered import AlteredBody
from services.gateway.domain.drills import DrillEffect
from services.gateway.domain.failures import REJECTED, AnswerFailed, EngineResponse, read_failure
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.ports import Engine, Pause
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.openai_stream import ApiPiece, ApiRequest

_FINAL = REJECTED | {"template_failed", "deadline_exceeded"}
"""Failures that a second attempt would only repeat."""
_FIRST_ANSWER = "0.0"
"""The answer whose text is described in telemetry, if a request asks for several."""


@dataclass(frozen=True)
class AcceptedRequest:
    """A valid request with its target and its time of arrival.

    Attributes:
        environment: `staging` for rehearsals; telemetry keeps the two apart.
        effect: what a drill does to this request; None without a drill.
        arrived_at: the time when it was received completely: the time for sending does not count as the target's.
        arrived_s: the same on the monotonic clock; all durations start here.
        deadline_s: time limit of the whole answer.
    """

    request_id: str
    parsed: ParsedRequest
    choice: Choice
    arrived_at: datetime
    arrived_s: float
    deadline_s: float
    environment: Environment = "production"
    effect: DrillEffect | None = None

    @property
    def response_headers(self) -> dict[str, str]:
        """Return the headers of the response: request id, target, release, and the drill if there is one."""
        target = self.choice.served.target
        return {
            "x-request-id": self.request_id,
            "x-slipway-version": str(target),
            "x-slipway-release": f"{target.model}@v{target.version}",
            **(self.effect.headers if self.effect else {}),
        }

    @property
    def api_request(self) -> ApiRequest:
        """Return the request for the engine: the caller's own bytes."""
        parsed = self.parsed
        return ApiRequest("POST", parsed.path, parsed.raw, self.deadline_s, self.request_id, parsed.model)


@dataclass(frozen=True)
class Outcome:
    """How a request ended; the default is a complete answer.

    Attributes:
        error: what failed. A bad request of the caller is answered with a 400, and is not an error here.
        caused_by: who caused the failure.
        cancelled: the caller disconnected, or did not read.
    """

    error: ErrorKind | None = None
    caused_by: Party | None = None
    cancelled: bool = False


@dataclass
class _Measured:
    """What the engine's records of one request say, so far."""

    input_tokens: int = 0
    output_tokens: int = 0
    queue_ms: float | None = None
    logprob_mean: float | None = None
    nan_logits: bool = False

    def update(self, record: dict[str, Any]) -> int:
        """Take over a record; return the tokens that it adds."""
        before = self.output_tokens
        self.input_tokens = max(self.input_tokens, record.get("prompt_tokens", 0))
        self.output_tokens = max(before, record.get("output_tokens", 0))
        self.queue_ms = record.get("queue_ms", self.queue_ms)
        self.logprob_mean = record.get("logprob_mean", self.logprob_mean)
        self.nan_logits = self.nan_logits or bool(record.get("nan_logits"))
        return self.output_tokens - before


class Answer:
    """An answer in progress: call `start`, read `pieces` to the end, and always call `close`.

    A task of its own reads and times what the engine delivers; the caller may read later.
    """

    def __init__(
        self,
        accepted: AcceptedRequest,
        engine: Engine,
        clock: Clock,
        pause: Pause,
        *,
        lag_bytes: int,
        on_delta: Callable[[Target, str, float], None],
    ) -> None:
        self._accepted = accepted
        self._engine = engine
        self._clock = clock
        self._pause = pause
        self._on_delta = on_delta
        self._alteration = accepted.effect.alteration if accepted.effect else None
        self._altered = AlteredBody(stream=accepted.parsed.stream) if self._alteration else None
        self._stream: AsyncGenerator[ApiPiece, None] | None = None
        self._backlog = Backlog(lag_bytes)
        self._reading: asyncio.Task[None] | None = None
        self._sent_s = accepted.arrived_s
        self._excused_s = 0.0
        self._ended_s: float | None = None
        self._arrivals: list[timing.Arrival] = []
        self._texts: list[str] = []
        self._finish_reasons: dict[str, str] = {}
        self.measured = _Measured()
        self.content_type = "application/json"
        self.endpoint = ""
        self.retried = False

    @property
    def finish_reason(self) -> str:
        """Return the finish reason of the first answer that has one; empty without any."""
        return self._finish_reasons[min(self._finish_reasons)] if self._finish_reasons else ""

    async def start(self) -> None:
        """Wait for the first token or byte; retry once if the attempt fails before it, never on another version.

        Raises:
            AnswerFailed: both attempts failed, the target refused the request, or it stayed silent and has no other
                endpoint, or a drill failed the request, which is never retried.
        """
        try:
            await self._start()
        except AnswerFailed:
            self._end()
            raise
        self._reading = asyncio.ensure_future(self._read_rest())

    async def _start(self) -> None:
        if self._accepted.effect is not None:
            await self._apply(self._accepted.effect)
        endpoints = routing.order_endpoints(self._accepted.choice.served, self._accepted.request_id)
        try:
            await self._attempt(endpoints[0])
        except AnswerFailed as failure:
            if failure.kind in _FINAL or (len(endpoints) == 1 and failure.kind == "no_first_token"):
                raise  # the time limit of this endpoint is used up, or the second answer would be the same
            excused = ATTRIBUTION[failure.kind] != "target" or failure.kind in PROVABLE
            if excused:
                self._excused_s = math.inf  # until the next attempt
            if len(endpoints) == 1:
                await self._engine.await_reconnect(endpoints[0])
            self.retried = True
            if excused:
                self._excused_s = self._clock.monotonic() - self._sent_s
            await self._attempt(endpoints[1 % len(endpoints)])

    async def _apply(self, effect: DrillEffect) -> None:
        if effect.delay_s > 0.0:
            await self._pause(effect.delay_s)
        if effect.fails:
            raise AnswerFailed("engine_failed", effect.failure)

    async def _attempt(self, endpoint: str) -> None:
        accepted = self._accepted
        self.endpoint, self._sent_s = endpoint, self._clock.monotonic()
        stream = self._engine.send(endpoint, accepted.choice.served.target, accepted.api_request)
        self._stream = stream
        with _as_failures():
            while True:
                piece = await anext(stream, None)
                if piece is None:
                    raise AnswerFailed("engine_dead", "The target's stream ended without an answer.")
                await self._raise_failure(piece, stream)
                self._take(piece)
                if self.measured.output_tokens or piece.status is not None:
                    return

    async def _raise_failure(self, piece: ApiPiece, stream: AsyncGenerator[ApiPiece, None]) -> None:
        """Raise AnswerFailed if a piece reports a failure, with the engine's complete response if it is one."""
        failure = read_failure(piece.status, piece.record, piece.body)
        if failure is None:
            return
        if piece.status is not None and piece.status >= 400 and not self._begun:
            body = piece.body + b"".join([rest.body async for rest in stream])
            content_type = dict(piece.headers).get("content-type", self.content_type)
            failure.response = EngineResponse(piece.status, content_type, body)
        raise failure

    @property
    def _begun(self) -> bool:
        """Return whether the answer has begun: a request that was accepted cannot be rejected any more."""
        return self.measured.output_tokens > 0 or self._reading is not None

    async def _read_rest(self) -> None:
        """Read the rest of the answer as fast as the engine delivers it; forward every failure to the reader."""
        assert self._stream is not None  # noqa: S101 - start() was called
        try:
            with _as_failures():
                async with contextlib.aclosing(self._stream) as stream:
                    async for piece in stream:
                        await self._raise_failure(piece, stream)
                        self._take(piece)
            self._backlog.end()
        except AnswerFailed as failure:
            kind = "engine_failed" if failure.kind in _FINAL - {"deadline_exceeded"} else failure.kind
            self._backlog.end(AnswerFailed(kind, failure.reason, silent_s=failure.silent_s))
        except Exception as error:  # noqa: BLE001 - raised again by `pieces`
            self._backlog.end(error)
        finally:
            self._end()

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the answer as they arrive.

        Raises:
            AnswerFailed: the stream broke; as `start`.
            SlowReader: more of the answer waits to be read than the limit allows.
        """
        return self._backlog.read()

    def _take(self, piece: ApiPiece) -> None:
        """Record a piece from the engine, and put what the caller gets for it into the backlog."""
        now_s = self._clock.monotonic()
        at_s = now_s - self._accepted.arrived_s
        if piece.status is not None:
            self.content_type = dict(piece.headers).get("content-type", self.content_type)
        tokens = self.measured.update(dict(piece.record))
        text = "".join(text for answer, text in piece.record.get("texts", ()) if answer == _FIRST_ANSWER)
        if tokens or text:
            self._on_delta(self._accepted.choice.served.target, self.endpoint, now_s)
            text = drills.alter(self._alteration, text, tokens, first=not any(self._texts))
            has_text = bool(text) or (self._alteration is None and bool(piece.record.get("texts")))
            self._arrivals.append(timing.Arrival(at_s, tokens, has_text))
            self._texts.append(text)
        if reasons := piece.record.get("finish_reasons"):
            self._finish_reasons.update(reasons)
            self._ended_s = at_s
        body = piece.body if self._altered is None else self._altered.feed(piece.body, text)
        if body:
            self._backlog.put(body)

    def _end(self) -> None:
        if self._ended_s is None:
            self._ended_s = self._clock.monotonic() - self._accepted.arrived_s

    async def close(self) -> None:
        """Abort the request in the engine if it still runs there."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._stream is not None:
            await self._stream.aclose()

    def to_record(self, outcome: Outcome) -> Inference:
        """Return the telemetry record, without any text.

        A caller that disconnects or does not read is no evidence against the target: that is a finish reason, not an
        error. All times end when the engine delivered, not when the caller read. They start with the arrival; a first
        attempt that failed for another reason than the target, and the wait after it, are excluded.
        """
        self._end()
        assert self._ended_s is not None  # noqa: S101 - set above
        accepted, measured = self._accepted, self.measured
        parsed = accepted.parsed
        forced = is_length_forced_by_caller(parsed.body)
        held_back = self._alteration is None and (parsed.has_stops or forced)
        excused_ms = self._excused_s * 1000.0
        first_token_ms = timing.first_token_ms(self._arrivals, held_back=held_back)
        return Inference(
            request_id=accepted.request_id,
            target=accepted.choice.served.target,
            endpoint=self.endpoint,
            environment=accepted.environment,
            canary=accepted.choice.canary,
            drill=accepted.effect.drill_id if accepted.effect else None,
            scheduled_at=accepted.arrived_at,
            sent_at=accepted.arrived_at + timedelta(seconds=self._sent_s - accepted.arrived_s),
            ttft_ms=None if first_token_ms is None else first_token_ms - excused_ms,
            itl_ms=timing.inter_token(self._arrivals),
            e2e_ms=max(0.0, self._ended_s * 1000.0 - excused_ms),
            input_tokens=measured.input_tokens,
            output_tokens=measured.output_tokens,
            finish_reason=CANCELLED if outcome.cancelled else self.finish_reason or None,
            error=outcome.error,
            caused_by=outcome.caused_by,
            length_set_by_caller=is_length_set_by_caller(parsed.path, parsed.body, self.finish_reason),
            length_forced_by_caller=forced,
            queue_ms=measured.queue_ms,
            logprob_mean=measured.logprob_mean,
            nan_logits=measured.nan_logits,
            shaped_by_caller=is_shaped_by_caller(parsed.path, parsed.body),
            features=features.describe(parsed.text, "".join(self._texts)) if outcome == Outcome() else None,
        )


@contextlib.contextmanager
def _as_failures() -> Any:
    """Raise errors of the client as AnswerFailed."""
    try:
        yield
    except SlipwayError as error:
        silent_s = error.details.get("silent_s")
        raise AnswerFailed(as_error_kind(error.code), error.reason, silent_s=silent_s) from error
