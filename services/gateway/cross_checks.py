"""Attributes failed requests: a failure that the request alone can cause is no evidence against a target."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.routes import ServedTarget
from contracts.vocabulary import Party, Target
from services.gateway.ports import Engine
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

PROBE_PROMPT = "Hello"
PROBE_SAMPLING = {"max_tokens": 1, "temperature": 0.0}
REQUEST_ID = "cross-check"
_UNREACHABLE = frozenset({"endpoint_unreachable", "no_first_token"})
_CONSECUTIVE_FAILURES = 3
_MAX_TARGETS = 1_000
MAX_CONCURRENT = 16
"""Most failed requests that are repeated at the same time: callers whose requests fail cannot add more load."""
SECONDS_PER_TOKEN = 0.05
LONGEST_S = 60.0
"""Additional time of a comparison per token before the failure, and the time limit of any comparison."""


@dataclass(frozen=True)
class FailedRequest:
    """A request that its target failed or rejected.

    Attributes:
        prompt, sampling: what was sent to the engine.
        tokens: tokens of the answer before the failure.
        rejected: the engine reported a bad request.
    """

    served: ServedTarget
    endpoint: str
    prompt: str
    sampling: Mapping[str, Any]
    tokens: int = 0
    rejected: bool = False


@dataclass
class _ProbeResult:
    """The last result of probing one target at one endpoint; the lock is held during a probe."""

    valid_until_s: float = 0.0
    answers: bool = True
    failures: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CrossChecks:
    """Probes targets with one token of a fixed prompt, and repeats failed requests on the fallback target.

    A successful probe is valid for `kept_s`; a failure counts only after three in a row: if a target fails now and
    then, one failed probe must not attribute all bad requests of the next seconds to it. The result of a repeated
    request is used for this request only.
    """

    def __init__(self, engine: Engine, clock: Clock, *, kept_s: float = 5.0, limit_s: float = 10.0) -> None:
        self._engine = engine
        self._clock = clock
        self._kept_s = kept_s
        self._limit_s = limit_s
        self._results: dict[tuple[str, str], _ProbeResult] = {}
        self._running = asyncio.Semaphore(MAX_CONCURRENT)
        self._last_delta_s: dict[tuple[str, str], float] = {}

    def note_delta(self, target: Target, endpoint: str, at_s: float) -> None:
        """Record the time, monotonic, at which a target sent a piece of any answer."""
        key = (str(target), endpoint)
        self._last_delta_s.pop(key, None)
        if len(self._last_delta_s) >= _MAX_TARGETS:
            del self._last_delta_s[next(iter(self._last_delta_s))]
        self._last_delta_s[key] = at_s

    def is_busy(self, target: Target, endpoint: str, silent_s: float) -> bool:
        """Return whether a target sent pieces of other answers in the second half of the silence of one stream.

        Only the second half counts: the streams of an engine that dies do not all end at the same moment.
        """
        last_s = self._last_delta_s.get((str(target), endpoint))
        return last_s is not None and self._clock.monotonic() - last_s < silent_s / 2

    async def attribute(self, failed: FailedRequest, fallback: ServedTarget | None) -> Party:
        """Return who caused a failure.

        It is the target if the target also fails the probe, or if the fallback answers the same request. It is the
        caller if the fallback fails the request, too. If the fallback cannot be reached, the request is repeated on the
        target itself: if it is answered now, the request was not the cause. Otherwise it is `infrastructure`.
        """
        answers = await self.answers_probe(failed.served, failed.endpoint)
        if answers is not True:
            return "target" if answers is False else "infrastructure"
        if self._running.locked():  # do not wait: slow comparisons would delay all others
            return "infrastructure"
        try:
            async with self._running, asyncio.timeout(self.limit_s(failed)):
                return await self._compare(failed, fallback)
        except TimeoutError:
            return "infrastructure"

    def limit_s(self, failed: FailedRequest) -> float:
        """Return the time limit of a comparison: longer if the answer failed late, up to `LONGEST_S`."""
        return min(LONGEST_S, self._limit_s + SECONDS_PER_TOKEN * failed.tokens)

    async def _compare(self, failed: FailedRequest, fallback: ServedTarget | None) -> Party:
        if failed.rejected and (fallback is None or fallback.context_tokens > failed.served.context_tokens):
            return "caller"  # a longer context accepts what this target rejects correctly
        answered = None if fallback is None else await self._gets_further(fallback, fallback.endpoints[0], failed)
        if answered is None and not failed.rejected:
            answered = await self._gets_further(failed.served, failed.endpoint, failed)
        if answered is None:
            return "infrastructure"
        return "target" if answered else "caller"

    async def _gets_further(self, served: ServedTarget, endpoint: str, failed: FailedRequest) -> bool | None:
        """Return whether a target completes the answer or gets beyond the failure; None if it is unreachable."""
        stream = self._engine.generate(endpoint, served.target, failed.prompt, failed.sampling, REQUEST_ID)
        tokens = 0
        try:
            async for delta in stream:
                tokens += delta.output_tokens
                if tokens > failed.tokens or delta.finish_reason is not None:
                    return True
        except SlipwayError as error:
            return None if error.code in _UNREACHABLE else False
        finally:
            await stream.aclose()
        return False

    async def answers_probe(self, served: ServedTarget, endpoint: str) -> bool | None:
        """Return whether the target answers the probe at an endpoint; None if that is unknown."""
        key = (str(served.target), endpoint)
        if key not in self._results and len(self._results) >= _MAX_TARGETS:
            self._results.clear()
        result = self._results.setdefault(key, _ProbeResult())
        try:
            async with asyncio.timeout(self._limit_s), result.lock:
                if self._clock.monotonic() < result.valid_until_s:
                    return result.answers
                answers = await self._probe(served, endpoint)
        except TimeoutError:
            return None
        if answers is None:
            return None
        result.failures = 0 if answers else result.failures + 1
        if answers or result.failures >= _CONSECUTIVE_FAILURES:
            result.answers, result.valid_until_s = answers, self._clock.monotonic() + self._kept_s
            result.failures = 0
        return answers

    async def _probe(self, served: ServedTarget, endpoint: str) -> bool | None:
        stream = self._engine.generate(endpoint, served.target, PROBE_PROMPT, PROBE_SAMPLING, REQUEST_ID)
        try:
            async for _ in stream:
                pass
        except SlipwayError as error:
            return None if error.code in _UNREACHABLE else False
        finally:
            await stream.aclose()
        return True
