"""Whether a target fails something harmless, too: what a request alone can cause is no evidence against a target."""

import asyncio
from dataclasses import dataclass, field

from contracts.routes import ServedTarget
from shared.clock import Clock
from shared.errors import SlipwayError

from .ports import Engine

PROMPT = "Hello"
SAMPLING = {"max_tokens": 1, "temperature": 0.0}
_UNKNOWN = frozenset({"endpoint_unreachable", "no_first_token"})
_IN_A_ROW = 3


@dataclass
class _Known:
    """What was found out about one target at one endpoint; the lock is held while it is asked."""

    until_s: float = 0.0
    answers: bool = True
    failures: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Proofs:
    """Asks targets for one token of a fixed prompt, rarely: callers who make requests fail cannot multiply them.

    An answer is remembered for `kept_s`. A failure is remembered only after three in a row: where a target fails now
    and then, one unlucky proof must not turn all that callers send wrong in the next seconds against it.
    """

    def __init__(self, engine: Engine, clock: Clock, *, kept_s: float = 5.0, limit_s: float = 10.0) -> None:
        self._engine = engine
        self._clock = clock
        self._kept_s = kept_s
        self._limit_s = limit_s
        self._known: dict[tuple[str, str], _Known] = {}

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
