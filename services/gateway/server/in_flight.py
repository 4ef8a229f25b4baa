"""Limits of requests and bytes in flight, and the queue for processing large bodies."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from contracts.vocabulary import Environment
from decisions.openai.turns import Turns
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.request_rates import may_take
from services.gateway.telemetry.metrics import GatewayMetrics
from shared.runtime.clock import Clock

_MAX_BYTES: Final = 2**28
"""Maximum bytes of the bodies of requests in flight, per environment."""
P = ParamSpec("P")
T = TypeVar("T")
LARGE_BYTES: Final = 2**13
MOST_WAITING: Final = 64
"""Maximum waiting large bodies per holder."""


@dataclass
class _Use:
    """The requests and bytes in flight in one environment, in total and per holder."""

    requests: int = 0
    size: int = 0
    requests_of: Counter[str] = field(default_factory=Counter)
    bytes_of: Counter[str] = field(default_factory=Counter)

    def add(self, holder: str, requests: int, size: int) -> None:
        self.requests += requests
        self.size += size
        self.requests_of[holder] += requests
        self.bytes_of[holder] += size
        if not self.requests_of[holder]:
            del self.requests_of[holder], self.bytes_of[holder]


class InFlight:
    """Counts requests in flight, and refuses requests above the limits.

    Args:
        limit: maximum concurrent requests per environment.
        metrics: receives the gauge.
    """

    def __init__(self, limit: int, metrics: GatewayMetrics) -> None:
        self._limit, self._metrics = limit, metrics
        self._uses: dict[Environment, _Use] = {"production": _Use(), "staging": _Use()}

    def __getitem__(self, environment: Environment) -> int:
        """Return the number of requests in flight in an environment."""
        return self._uses[environment].requests

    @contextlib.contextmanager
    def count(self, environment: Environment, holder: str, size: int) -> Iterator[None]:
        """Count a request as in flight; raise RequestRejected (429) above the limits.

        Its body counts until the answer is complete, because a retry may send it again.

        Args:
            environment: The request's environment.
            holder: The caller's team, else its key name.
            size: Bytes of the body.
        """
        use, gauge = self._uses[environment], self._metrics.in_flight.labels(environment)
        if use.requests >= self._limit:
            raise RequestRejected(errors.too_many_requests(self._limit))
        if use.requests and use.size + size > _MAX_BYTES:
            raise RequestRejected(errors.too_many_requests(use.requests))
        for own, used, added, limit, unit in (
            (use.requests_of[holder], use.requests, 1, self._limit, "requests"),
            (use.bytes_of[holder], use.size, size, _MAX_BYTES, "bytes of requests"),
        ):
            if not may_take(own, used, added, limit):
                raise RequestRejected(errors.too_many_of_caller(own, limit, unit))
        use.add(holder, 1, size)
        gauge.inc()
        try:
            yield
        finally:
            use.add(holder, -1, -size)
            gauge.dec()


class LargeBodies:
    """Processes large bodies one at a time, alternating between holders.

    Args:
        clock: measures waiting times.
        metrics: receives the waiting times.
    """

    def __init__(self, clock: Clock, metrics: GatewayMetrics) -> None:
        self._clock, self._metrics = clock, metrics
        self._turns = Turns[asyncio.Future[None]]()
        self._is_busy = False

    @contextlib.asynccontextmanager
    async def turn(self, holder: str, size: int) -> AsyncGenerator[None]:
        """Wait until no other large body is processed, and block others until exit; small bodies pass at once.

        Args:
            holder: the caller's team, else its key name.
            size: bytes of the body.

        Raises:
            RequestRejected: 429 above `MOST_WAITING` bodies of the holder.
        """
        if size <= LARGE_BYTES:
            yield
            return
        began_s = self._clock.monotonic()
        if self._is_busy:
            await self._wait(holder)
        self._is_busy = True
        self._metrics.body_wait.observe(self._clock.monotonic() - began_s)
        try:
            yield
        finally:
            self._pass_on()

    async def process(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work`, for a large body in a thread, so that answers in progress are not delayed."""
        return work(*args, **kwargs) if size <= LARGE_BYTES else await asyncio.to_thread(work, *args, **kwargs)

    async def _wait(self, holder: str) -> None:
        if self._turns.count(holder) >= MOST_WAITING:
            raise RequestRejected(errors.too_many_large_bodies(MOST_WAITING, LARGE_BYTES))
        turn = asyncio.get_running_loop().create_future()
        self._turns.add(holder, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn was assigned already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while (turn := self._turns.take()) is not None:
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._is_busy = False
