"""An answer in progress, from the first attempt to its telemetry record."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.facts import Inference
from contracts.vocabulary import Environment, Party, Target
from decisions.attribution import ATTRIBUTION, PROVABLE, ErrorKind, as_error_kind
from decisions.triggers import CANCELLED
from services.gateway.backlog import Backlog
from services.gateway.domain import drills, features, routing, timing
from services.gateway.domain.answers import Usage
from services.gateway.domain.drills import DrillEffect
from services.gateway.domain.requests import ParsedRequest
from services.gateway.domain.routing import Choice
from services.gateway.ports import Engine, Pause
from shared.errors import Permanent, SlipwayError, Transient
from shared.runtime.clock import Clock
from shared.serving.tensors import Delta


@dataclass(frozen=True)
class AcceptedRequest:
    """A valid request with its target, its rendered prompt and its time of arrival.

    Attributes:
        environment: `staging` for rehearsals; telemetry keeps the two apart.
        effect: what a drill does to this request; None without a drill.
        arrived_at: the time when it was received completely and rendered: the time for sending and rendering does not
            count as the target's.
        arrived_s: the same on the monotonic clock; all durations start here.
    """

    request_id: str
    parsed: ParsedRequest
    choice: Choice
    prompt: str
    sampling: Mapping[str, Any]
    arrived_at: datetime
    arrived_s: float
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


class Answer:
    """An answer in progress: call `start`, read `texts` to the end, and always call `close`.

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
        self._stream: AsyncGenerator[Delta, None] | None = None
        self._backlog = Backlog(lag_bytes)
        self._reading: asyncio.Task[None] | None = None
        self._sent_s = accepted.arrived_s
        self._excused_s = 0.0
        self._ended_s: float | None = None
        self._arrivals: list[timing.Arrival] = []
        self._texts: list[str] = []
        self._begun = False
        self.endpoint = ""
        self.retried = False
        self.finish_reason = ""
        self.usage = Usage()

    async def start(self) -> None:
        """Wait for the first piece; retry once if the attempt fails before it, never on another version.

        Raises:
            Transient: both attempts failed, or the target stayed silent and has no other endpoint, or a drill failed
                the request, which is never retried.
            Permanent: the engine cannot answer this request.
        """
        try:
            await self._start()
        except SlipwayError:
            self._end()
            raise
        self._reading = asyncio.ensure_future(self._read_rest())

    async def _start(self) -> None:
        if self._accepted.effect is not None:
            await self._apply(self._accepted.effect)
        endpoints = routing.order_endpoints(self._accepted.choice.served, self._accepted.request_id)
        try:
            await self._attempt(endpoints[0])
        except Transient as error:
            if len(endpoints) == 1 and error.code == "no_first_token":  # the time limit of this endpoint is used up
                raise
            kind = as_error_kind(error.code)
            excused = ATTRIBUTION[kind] != "target" or kind in PROVABLE
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
            raise Transient("engine_failed", effect.failure)

    async def _attempt(self, endpoint: str) -> None:
        accepted = self._accepted
        self.endpoint, self._sent_s = endpoint, self._clock.monotonic()
        stream = self._engine.generate(
            endpoint, accepted.choice.served.target, accepted.prompt, accepted.sampling, accepted.request_id
        )
        self._stream = stream
        if text := self._record(await anext(stream)):
            self._backlog.put(text)

    async def _read_rest(self) -> None:
        """Read the rest of the answer as fast as the engine delivers it; forward every failure to the reader."""
        assert self._stream is not None  # noqa: S101 - start() was called
        try:
            async with contextlib.aclosing(self._stream) as stream:
                async for delta in stream:
                    if text := self._record(delta):
                        self._backlog.put(text)
            self._backlog.end()
        except Permanent as error:  # an accepted request cannot be rejected any more
            self._backlog.end(Transient("engine_failed", error.reason))
        except Exception as error:  # noqa: BLE001 - raised again by `texts`
            self._backlog.end(error)
        finally:
            self._end()

    def texts(self) -> AsyncIterator[str]:
        """Yield the pieces of text as they arrive.

        Raises:
            Transient: the stream broke; as `start`.
            SlowReader: more of the answer waits to be read than the limit allows.
        """
        return self._backlog.read()

    def _record(self, delta: Delta) -> str:
        """Record a piece from the engine, and return the text that the caller gets for it."""
        now_s = self._clock.monotonic()
        self._on_delta(self._accepted.choice.served.target, self.endpoint, now_s)
        at_s = now_s - self._accepted.arrived_s
        text = drills.alter(self._alteration, delta.text, delta.output_tokens, first=not self._begun)
        self._begun = self._begun or bool(text)
        self._arrivals.append(timing.Arrival(at_s, delta.output_tokens, bool(text)))
        self._texts.append(text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.finish_reason:
            self._ended_s = at_s
        self.usage = Usage(
            max(self.usage.input_tokens, delta.input_tokens), self.usage.output_tokens + delta.output_tokens
        )
        return text

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

    def _is_length_forced(self) -> bool:
        """Return whether the caller forced a minimum length."""
        sampling = self._accepted.parsed.sampling
        return bool(sampling.get("ignore_eos") or sampling.get("min_tokens"))

    def _is_length_set(self) -> bool:
        """Return whether the caller's own parameters decided the length of the answer."""
        parsed = self._accepted.parsed
        limited = self.finish_reason == "length" and parsed.max_tokens is not None
        stopped = self.finish_reason == "stop" and bool(parsed.sampling.get("stop"))
        return self._is_length_forced() or limited or stopped

    def to_record(self, outcome: Outcome) -> Inference:
        """Return the telemetry record, without any text.

        A caller that disconnects or does not read is no evidence against the target: that is a finish reason, not an
        error. All times end when the engine delivered, not when the caller read. They start with the arrival; a first
        attempt that failed for another reason than the target, and the wait after it, are excluded.
        """
        self._end()
        assert self._ended_s is not None  # noqa: S101 - set above
        accepted = self._accepted
        sent_after = timedelta(seconds=self._sent_s - accepted.arrived_s)
        sampling = accepted.parsed.sampling
        textless = bool(sampling.get("stop") or sampling.get("ignore_eos") or sampling.get("min_tokens"))
        held_back = self._alteration is None and textless
        complete = outcome == Outcome()
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
            sent_at=accepted.arrived_at + sent_after,
            ttft_ms=None if first_token_ms is None else first_token_ms - excused_ms,
            itl_ms=timing.inter_token(self._arrivals),
            e2e_ms=max(0.0, self._ended_s * 1000.0 - excused_ms),
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            finish_reason=CANCELLED if outcome.cancelled else self.finish_reason or None,
            error=outcome.error,
            caused_by=outcome.caused_by,
            length_set_by_caller=self._is_length_set(),
            length_forced_by_caller=self._is_length_forced(),
            features=features.describe(accepted.parsed.text, "".join(self._texts)) if complete else None,
        )
