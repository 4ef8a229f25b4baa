"""One answer, from the first attempt to its telemetry record."""

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
from services.gateway.domain.drills import Touch
from services.gateway.domain.requests import Ask
from services.gateway.domain.routing import Choice
from services.gateway.ports import Engine, Pause
from shared.errors import Permanent, SlipwayError, Transient
from shared.runtime.clock import Clock
from shared.serving.inference import Delta


@dataclass(frozen=True)
class Question:
    """A request that was understood: what is asked, of whom, and when it came.

    Attributes:
        environment: `staging` for rehearsals; kept apart in telemetry.
        touch: what a drill does to this request, if any does.
        arrived_at: when it was whole and rendered: how long a caller takes to send it, or its conversation to render,
            is no time of the target's.
        arrived_s: the same on the monotonic clock; all durations count from it.
    """

    request_id: str
    ask: Ask
    choice: Choice
    prompt: str
    sampling: Mapping[str, Any]
    arrived_at: datetime
    arrived_s: float
    environment: Environment = "production"
    touch: Touch | None = None


@dataclass(frozen=True)
class Ending:
    """How a request ended; without anything, as a whole answer.

    Attributes:
        error: what failed. A request that the caller made so is answered with a 400, and is no error here.
        caused_by: who caused it.
        cancelled: the caller went away, or did not read.
    """

    error: ErrorKind | None = None
    caused_by: Party | None = None
    cancelled: bool = False


class Answer:
    """An answer in progress: `start`, then read `texts` to their end, then `close`, whatever happened.

    What the engine delivers is taken and timed at once, by a task of its own; the caller reads behind it.
    """

    def __init__(
        self,
        question: Question,
        engine: Engine,
        clock: Clock,
        pause: Pause,
        *,
        lag_bytes: int,
        hear: Callable[[Target, str, float], None],
    ) -> None:
        self._question = question
        self._engine = engine
        self._clock = clock
        self._pause = pause
        self._hear = hear
        self._alteration = question.touch.alteration if question.touch else None
        self._stream: AsyncGenerator[Delta, None] | None = None
        self._backlog = Backlog(lag_bytes)
        self._taking: asyncio.Task[None] | None = None
        self._sent_s = question.arrived_s
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
        """Get the first piece; a failure before it is tried once more, never on another version.

        Raises:
            Transient: both attempts failed, or the target stayed silent and has no other endpoint; or a drill failed
                the request, which is never tried again.
            Permanent: the engine cannot answer this request.
        """
        try:
            await self._start()
        except SlipwayError:
            self._end()
            raise
        self._taking = asyncio.ensure_future(self._take())

    async def _start(self) -> None:
        if self._question.touch is not None:
            await self._suffer(self._question.touch)
        endpoints = routing.order_endpoints(self._question.choice.served, self._question.request_id)
        try:
            await self._attempt(endpoints[0])
        except Transient as error:
            if len(endpoints) == 1 and error.code == "no_first_token":  # waited long enough for this endpoint
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

    async def _suffer(self, touch: Touch) -> None:
        if touch.delay_s > 0.0:
            await self._pause(touch.delay_s)
        if touch.fails:
            raise Transient("engine_failed", touch.failure)

    async def _attempt(self, endpoint: str) -> None:
        question = self._question
        self.endpoint, self._sent_s = endpoint, self._clock.monotonic()
        stream = self._engine.generate(
            endpoint, question.choice.served.target, question.prompt, question.sampling, question.request_id
        )
        self._stream = stream
        if text := self._note(await anext(stream)):
            self._backlog.put(text)

    async def _take(self) -> None:
        """Read the rest of the answer as fast as the engine delivers it; pass every failure on to the reader."""
        assert self._stream is not None  # noqa: S101 - start() was called
        try:
            async with contextlib.aclosing(self._stream) as stream:
                async for delta in stream:
                    if text := self._note(delta):
                        self._backlog.put(text)
            self._backlog.end()
        except Permanent as error:  # what it had accepted it cannot refuse any more
            self._backlog.end(Transient("engine_failed", error.reason))
        except Exception as error:  # noqa: BLE001 - raised again by `texts`
            self._backlog.end(error)
        finally:
            self._end()

    def texts(self) -> AsyncIterator[str]:
        """Yield the pieces of text as they come.

        Raises:
            Transient: as `start`, where the stream breaks.
            SlowReader: more of the answer waits to be read than may.
        """
        return self._backlog.read()

    def _note(self, delta: Delta) -> str:
        """Record a piece from the engine and return the text that the caller gets for it."""
        now_s = self._clock.monotonic()
        self._hear(self._question.choice.served.target, self.endpoint, now_s)
        at_s = now_s - self._question.arrived_s
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
            self._ended_s = self._clock.monotonic() - self._question.arrived_s

    async def close(self) -> None:
        """Abort in the engine whatever still runs there."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)
        if self._stream is not None:
            await self._stream.aclose()

    def _is_forced(self) -> bool:
        """Return whether the caller forced a least length."""
        sampling = self._question.ask.sampling
        return bool(sampling.get("ignore_eos") or sampling.get("min_tokens"))

    def _is_bound(self) -> bool:
        """Return whether the caller's own parameters decided where the answer ends."""
        ask = self._question.ask
        limited = self.finish_reason == "length" and ask.max_tokens is not None
        stopped = self.finish_reason == "stop" and bool(ask.sampling.get("stop"))
        return self._is_forced() or limited or stopped

    def report(self, ending: Ending) -> Inference:
        """Return the telemetry record; never any text.

        A caller that goes away, or does not read, says nothing against the target: that is a finish reason, not an
        error. All times end where the engine delivered, not where the caller read. They begin with the arrival; what
        a first attempt took that failed through anything but the target is left out, with the wait after it.
        """
        self._end()
        assert self._ended_s is not None  # noqa: S101 - set above
        question = self._question
        sent_after = timedelta(seconds=self._sent_s - question.arrived_s)
        sampling = question.ask.sampling
        textless = bool(sampling.get("stop") or sampling.get("ignore_eos") or sampling.get("min_tokens"))
        held_back = self._alteration is None and textless
        whole = ending == Ending()
        excused_ms = self._excused_s * 1000.0
        first_token_ms = timing.first_token_ms(self._arrivals, held_back=held_back)
        return Inference(
            request_id=question.request_id,
            target=question.choice.served.target,
            endpoint=self.endpoint,
            environment=question.environment,
            canary=question.choice.canary,
            drill=question.touch.drill_id if question.touch else None,
            scheduled_at=question.arrived_at,
            sent_at=question.arrived_at + sent_after,
            ttft_ms=None if first_token_ms is None else first_token_ms - excused_ms,
            itl_ms=timing.inter_token(self._arrivals),
            e2e_ms=max(0.0, self._ended_s * 1000.0 - excused_ms),
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            finish_reason=CANCELLED if ending.cancelled else self.finish_reason or None,
            error=ending.error,
            caused_by=ending.caused_by,
            length_set_by_caller=self._is_bound(),
            length_forced_by_caller=self._is_forced(),
            features=features.describe(question.ask.text, "".join(self._texts)) if whole else None,
        )
