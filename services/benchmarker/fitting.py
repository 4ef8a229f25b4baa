"""Selects prompts that fit the served context, by the engines' own token counts where needed."""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.benchmarker.domain.prompts import Length, fits, may_overflow
from services.benchmarker.domain.records import SIDES, Side
from services.benchmarker.load import LoadedSide
from services.benchmarker.ports import Engine
from shared.errors import SlipwayError


@dataclass
class Fitting:
    """Selects prompts by their length in tokens, which only the engines know.

    Attributes:
        engine: Serves both sides.
        sides: Candidate and baseline with rendered prompts.
        limit_tokens: Maximum tokens of a prompt: the shorter context minus the answer.
        timeout_s: Timeout of a request in seconds.
    """

    engine: Engine
    sides: Mapping[Side, LoadedSide]
    limit_tokens: int
    timeout_s: float
    _silent: set[Side] = field(default_factory=set)

    async def choose(self, *, requests: int, seed: int) -> Sequence[int]:
        """Return the indices of prompts to use: all, unless one may be too long.

        Then choose at most `requests` prompts at random, because each count costs a prefill on both sides.
        """
        count = len(self.sides["candidate"].prompts)
        doubtful = {index for index in range(count) if self._is_doubtful(index)}
        if not doubtful:
            return range(count)
        order = random.Random(seed).sample(range(count), count)  # noqa: S311 - a repeatable choice, not a secret
        chosen: list[int] = []
        for index in order:
            if len(chosen) == requests:
                break
            if index not in doubtful or fits(*await self._ask(index), limit_tokens=self.limit_tokens):
                chosen.append(index)
        return sorted(chosen)

    def is_silent(self, side: Side) -> bool:
        """Return whether a side failed to count a prompt's tokens."""
        return side in self._silent

    def _is_doubtful(self, index: int) -> bool:
        return any(may_overflow(self.sides[side].prompts[index], limit_tokens=self.limit_tokens) for side in SIDES)

    async def _ask(self, index: int) -> tuple[Length, Length]:
        candidate, baseline = await asyncio.gather(*(self._length(side, index) for side in SIDES))
        return candidate, baseline

    async def _length(self, side: Side, index: int) -> Length:
        """Return a prompt's tokens, counted by one side's engine.

        After an error other than a refusal, the side is not asked again: each request could take its full timeout.
        """
        prompt = self.sides[side].prompts[index]
        if prompt is None or side in self._silent:
            return "unknown"
        stream = self.engine.stream(
            self.sides[side].served, prompt, output_tokens=1, timeout_s=self.timeout_s, number=index
        )
        tokens = 0
        try:
            async with asyncio.timeout(self.timeout_s), contextlib.aclosing(stream) as deltas:
                async for delta in deltas:
                    tokens = max(tokens, delta.input_tokens)
        except (SlipwayError, TimeoutError) as error:
            if isinstance(error, SlipwayError) and error.code == "bad_request":
                return "refused"
            self._silent.add(side)
            return "unknown"
        return tokens
