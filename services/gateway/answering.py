"""One answer, from the first attempt to its telemetry record."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.facts import Inference
from contracts.vocabulary import Environment
from shared.clock import Clock
from shared.errors import Transient
from shared.inference import Delta

from .domain import drills, features, routing, timing
from .domain.answers import Usage
from .domain.drills import Touch
from .domain.requests import Ask
from .domain.routing import Choice
from .ports import Engine, Pause

CANCELLED = "cancelled"


@dataclass(frozen=True)
class Question:
    """A request that was understood: what is asked, of whom, and when it came.

    Attributes:
        environment: `staging` for rehearsals; kept apart in telemetry.
        touch: what a drill does to this request, if any does.
        arrived_s: the arrival on the monotonic clock; all durations count from it.
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


class Answer:
    """An answer in progress: `start`, then read `texts` to their end, then `close`, whatever happened."""

    def __init__(self, question: Question, engine: Engine, clock: Clock, pause: Pause) -> None:
        self._question = question
        self._engine = engine
        self._clock = clock
        self._pause = pause
        self._alteration = question.touch.alteration if question.touch else None
        self._stream: AsyncGenerator[Delta, None] | None = None
        self._first: str | None = None
        self._endpoint = ""
        self._sent_s = question.arrived_s
        self._arrivals: list[timing.Arrival] = []
        self._texts: list[str] = []
        self._begun = False
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
        if self._question.touch is not None:
            await self._suffer(self._question.touch)
        endpoints = routing.order_endpoints(self._question.choice.served, self._question.request_id)
        try:
            await self._attempt(endpoints[0])
        except Transient as error:
            if len(endpoints) == 1:
                if error.code == "no_first_token":  # waited long enough for this endpoint
                    raise
                await self._engine.await_reconnect(endpoints[0])
            self.retried = True
            await self._attempt(endpoints[1 % len(endpoints)])

    async def _suffer(self, touch: Touch) -> None:
        if touch.delay_s > 0.0:
            await self._pause(touch.delay_s)
        if touch.fails:
            raise Transient("engine_failed", touch.failure)

    async def _attempt(self, endpoint: str) -> None:
        question = self._question
        self._endpoint, self._sent_s = endpoint, self._clock.monotonic()
        stream = self._engine.generate(
            endpoint, question.choice.served.target, question.prompt, question.sampling, question.request_id
        )
        self._stream = stream
        self._first = self._note(await anext(stream))

    async def texts(self) -> AsyncIterator[str]:
        """Give the pieces of text as they come; raises as `start` where the stream breaks."""
        assert self._stream is not None  # noqa: S101 - start() was called
        assert self._first is not None  # noqa: S101
        if self._first:
            yield self._first
        async for delta in self._stream:
            if text := self._note(delta):
                yield text

    def _note(self, delta: Delta) -> str:
        """Take a piece from the engine and give the text that the caller gets for it."""
        at_s = self._clock.monotonic() - self._question.arrived_s
        text = drills.alter(self._alteration, delta.text, delta.output_tokens, first=not self._begun)
        self._begun = self._begun or bool(text)
        self._arrivals.append(timing.Arrival(at_s, delta.output_tokens, bool(text)))
        self._texts.append(text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = Usage(
            max(self.usage.input_tokens, delta.input_tokens), self.usage.output_tokens + delta.output_tokens
        )
        return text

    async def close(self) -> None:
        """Abort in the engine whatever still runs there."""
        if self._stream is not None:
            await self._stream.aclose()

    def report(self, *, error: str | None = None, cancelled: bool = False) -> Inference:
        """Give the telemetry record; never any text.

        A caller that goes away says nothing against the target: that is a finish reason, not an error.
        """
        question = self._question
        sent_after = timedelta(seconds=self._sent_s - question.arrived_s)
        return Inference(
            request_id=question.request_id,
            target=question.choice.served.target,
            endpoint=self._endpoint,
            environment=question.environment,
            canary=question.choice.canary,
            drill=question.touch.drill_id if question.touch else None,
            scheduled_at=question.arrived_at,
            sent_at=question.arrived_at + sent_after,
            ttft_ms=timing.first_token_ms(self._arrivals),
            itl_ms=timing.inter_token(self._arrivals),
            e2e_ms=(self._clock.monotonic() - question.arrived_s) * 1000.0,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            finish_reason=CANCELLED if cancelled else self.finish_reason or None,
            error=error,
            features=None if error or cancelled else features.describe(question.ask.text, "".join(self._texts)),
        )
