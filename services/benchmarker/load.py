"""Sends an open-loop load: each request at its planned time, whether or not earlier ones were answered."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.policy import LoadProfile
from contracts.routes import ServedTarget
from services.benchmarker.domain.plan import Arrival
from services.benchmarker.domain.records import SIDES, RequestRecord, Side
from services.benchmarker.ports import Engine, Progress
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

WARMUP_PAIR = -1


@dataclass(frozen=True)
class LoadedSide:
    """A target under load with its rendered prompts; None where the chat template rejected a prompt."""

    served: ServedTarget
    prompts: tuple[str | None, ...]


class Load:
    """The load on two targets.

    Attributes:
        engine: Streams the answers.
        clock: The clock.
        sides: The two targets.
        profile: Number of requests, answer length, timeout.
        salt: Prefix of each request's unique cache salt. It prevents prefix cache hits: the baseline may have cached
            the prompts of earlier benchmarks.
    """

    def __init__(
        self, *, engine: Engine, clock: Clock, sides: Mapping[Side, LoadedSide], profile: LoadProfile, salt: str
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._sides = sides
        self._profile = profile
        self._salt = salt
        self._sent = 0

    async def warm_up(self) -> tuple[RequestRecord, ...]:
        """Send each side's warm-up requests one by one; no figure includes them.

        A side stops at its first error, because a hanging engine would take the full timeout each time.
        """
        halves = await asyncio.gather(*(self._warm_up_side(side) for side in SIDES))
        return tuple(record for half in halves for record in half)

    async def _warm_up_side(self, side: Side) -> list[RequestRecord]:
        records: list[RequestRecord] = []
        origin = self._clock.monotonic()
        for number in range(self._profile.warmup_requests):
            now_s = self._clock.monotonic() - origin
            prompt = number % len(self._sides[side].prompts)
            record = await self._request(Arrival(at_s=now_s, side=side, pair=WARMUP_PAIR, prompt=prompt), origin)
            records.append(record)
            if record.error is not None:
                break
        return records

    async def run(self, plan: Sequence[Arrival], progress: Progress) -> tuple[RequestRecord, ...]:
        """Send all planned requests at their times; return their records in plan order."""
        origin = self._clock.monotonic()
        done = 0

        async def send(arrival: Arrival) -> RequestRecord:
            nonlocal done
            record = await self._request(arrival, origin)
            done += 1
            progress(done, len(plan))
            return record

        tasks: list[asyncio.Task[RequestRecord]] = []
        async with asyncio.TaskGroup() as group:
            for arrival in plan:
                await asyncio.sleep(max(0.0, origin + arrival.at_s - self._clock.monotonic()))
                tasks.append(group.create_task(send(arrival)))
        return tuple(task.result() for task in tasks)

    async def _request(self, arrival: Arrival, origin: float) -> RequestRecord:
        side = self._sides[arrival.side]
        prompt = side.prompts[arrival.prompt]
        sent_s = self._clock.monotonic() - origin
        answer = _Answer()
        error = "template" if prompt is None else await self._receive(side.served, prompt, arrival, origin, answer)
        return RequestRecord(
            side=arrival.side,
            pair=arrival.pair,
            prompt=arrival.prompt,
            scheduled_s=arrival.at_s,
            sent_s=sent_s,
            first_s=answer.first_s,
            last_s=answer.last_s,
            done_s=self._clock.monotonic() - origin,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            error=error,
        )

    async def _receive(
        self, served: ServedTarget, prompt: str, arrival: Arrival, origin: float, answer: "_Answer"
    ) -> str | None:
        """Receive an answer; return its error kind, or None."""
        profile = self._profile
        self._sent += 1
        stream = self._engine.stream(
            served,
            prompt,
            output_tokens=profile.output_tokens,
            timeout_s=profile.timeout_s,
            number=arrival.pair,
            cache_salt=f"{self._salt}-{self._sent}",
        )
        try:
            async with asyncio.timeout(profile.timeout_s), contextlib.aclosing(stream) as deltas:
                async for delta in deltas:
                    answer.add(self._clock.monotonic() - origin, delta.text, delta.input_tokens, delta.output_tokens)
        except TimeoutError:
            return "timeout"
        except SlipwayError as failure:
            return failure.code
        return None if answer.first_s is not None else "empty"


@dataclass
class _Answer:
    """The part of an answer received so far."""

    first_s: float | None = None
    last_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, at_s: float, text: str, input_tokens: int, output_tokens: int) -> None:
        """Add a piece; one without text or tokens sets no time."""
        self.input_tokens = max(self.input_tokens, input_tokens)
        self.output_tokens += output_tokens
        if text and self.first_s is None:
            self.first_s = at_s
        if self.first_s is not None and (text or output_tokens):
            self.last_s = at_s
