"""Whose doing a failed request was: what a request alone can cause is no evidence against a target."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.routes import ServedTarget
from contracts.vocabulary import Party, Target
from services.gateway.ports import Engine
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

PROMPT = "Hello"
SAMPLING = {"max_tokens": 1, "temperature": 0.0}
_UNKNOWN = frozenset({"endpoint_unreachable", "no_first_token"})
_IN_A_ROW = 3
_HEARD_KEPT = 1_000
PLACES = 16
"""So many failed requests are asked again at once; callers who make requests fail cannot multiply the load by more."""
SECONDS_PER_TOKEN = 0.05
LONGEST_S = 60.0
"""How much longer a request may be compared for each token that came before it failed, and how long at most."""


@dataclass(frozen=True)
class Failed:
    """A request that its target failed or refused.

    Attributes:
        prompt, sampling: what the engine was asked.
        tokens: how many tokens of the answer came before the failure.
        refused: the engine said that the request was bad.
    """

    served: ServedTarget
    endpoint: str
    prompt: str
    sampling: Mapping[str, Any]
    tokens: int = 0
    refused: bool = False


@dataclass
class _Known:
    """What was found out about one target at one endpoint; the lock is held while it is asked."""

    until_s: float = 0.0
    answers: bool = True
    failures: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Proofs:
    """Asks targets for one token of a fixed prompt, rarely, and the version behind for the failed request itself.

    That the fixed prompt is answered is remembered for `kept_s`; a failure of it only after three in a row: where a
    target fails now and then, one unlucky proof must not turn all that callers send wrong in the next seconds against
    it. What is found out about a request is said of this request only, and never remembered.
    """

    def __init__(self, engine: Engine, clock: Clock, *, kept_s: float = 5.0, limit_s: float = 10.0) -> None:
        self._engine = engine
        self._clock = clock
        self._kept_s = kept_s
        self._limit_s = limit_s
        self._known: dict[tuple[str, str], _Known] = {}
        self._places = asyncio.Semaphore(PLACES)
        self._heard_s: dict[tuple[str, str], float] = {}

    def hear(self, target: Target, endpoint: str, at_s: float) -> None:
        """Note when a target gave a piece of any answer, monotonic."""
        key = (str(target), endpoint)
        self._heard_s.pop(key, None)
        if len(self._heard_s) >= _HEARD_KEPT:
            del self._heard_s[next(iter(self._heard_s))]
        self._heard_s[key] = at_s

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target that left one stream silent so long gave others something in the second half of it.

        In the second half, because the streams of an engine that dies do not all have their last piece at once.
        """
        heard_s = self._heard_s.get((str(target), endpoint))
        return heard_s is not None and self._clock.monotonic() - heard_s < silent_s / 2

    async def judge(self, failed: Failed, behind: ServedTarget | None) -> Party:
        """Return who caused a failure, from what else fails.

        The target, where it fails something harmless as well, or where the version behind answers this very request.
        The caller, where the version behind fails it, too. Where that one cannot be asked, the target is asked the same
        once more: what it answers now did not fail because of what was asked. `infrastructure` where nothing is proved.
        """
        plain = await self.answers(failed.served, failed.endpoint)
        if plain is not True:
            return "target" if plain is False else "infrastructure"
        if self._places.locked():  # not waited for: slow comparisons would keep all others out
            return "infrastructure"
        try:
            async with self._places, asyncio.timeout(self.allowed_s(failed)):
                return await self._compare(failed, behind)
        except TimeoutError:
            return "infrastructure"

    def allowed_s(self, failed: Failed) -> float:
        """Return how long a comparison may take: longer where the answer broke off late, within bounds."""
        return min(LONGEST_S, self._limit_s + SECONDS_PER_TOKEN * failed.tokens)

    async def _compare(self, failed: Failed, behind: ServedTarget | None) -> Party:
        if failed.refused and (behind is None or behind.context_tokens > failed.served.context_tokens):
            return "caller"  # a longer context takes what this one rightly refuses
        answered = None if behind is None else await self._gets_further(behind, behind.endpoints[0], failed)
        if answered is None and not failed.refused:
            answered = await self._gets_further(failed.served, failed.endpoint, failed)
        if answered is None:
            return "infrastructure"
        return "target" if answered else "caller"

    async def _gets_further(self, served: ServedTarget, endpoint: str, failed: Failed) -> bool | None:
        """Return whether a target ends the answer, or gets beyond where it broke off; None if it cannot be asked."""
        stream = self._engine.generate(endpoint, served.target, failed.prompt, failed.sampling, "proof")
        tokens = 0
        try:
            async for delta in stream:
                tokens += delta.output_tokens
                if tokens > failed.tokens or delta.finish_reason is not None:
                    return True
        except SlipwayError as error:
            return None if error.code in _UNKNOWN else False
        finally:
            await stream.aclose()
        return False

    async def answers(self, served: ServedTarget, endpoint: str) -> bool | None:
        """Return whether the target answers something harmless there; None if that cannot be told."""
        key = (str(served.target), endpoint)
        if key not in self._known and len(self._known) >= 1_000:
            self._known.clear()
        known = self._known.setdefault(key, _Known())
        try:
            async with asyncio.timeout(self._limit_s), known.lock:
                if self._clock.monotonic() < known.until_s:
                    return known.answers
                found = await self._ask(served, endpoint)
        except TimeoutError:
            return None
        if found is None:
            return None
        known.failures = 0 if found else known.failures + 1
        if found or known.failures >= _IN_A_ROW:
            known.answers, known.until_s = found, self._clock.monotonic() + self._kept_s
            known.failures = 0
        return found

    async def _ask(self, served: ServedTarget, endpoint: str) -> bool | None:
        stream = self._engine.generate(endpoint, served.target, PROMPT, SAMPLING, "proof")
        try:
            async for _ in stream:
                pass
        except SlipwayError as error:
            return None if error.code in _UNKNOWN else False
        finally:
            await stream.aclose()
        return True
