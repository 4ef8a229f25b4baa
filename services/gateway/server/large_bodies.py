"""Large bodies are processed one at a time, their callers in turns; small ones do not wait for them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final, ParamSpec, TypeVar

from decisions.openai.turns import Turns
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.telemetry.metrics import GatewayMetrics
from shared.runtime.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")
LARGE_BYTES: Final = 2**13
MOST_WAITING: Final = 64
"""Large bodies of a caller, or of a team, that wait for their turn at the same time."""


class LargeBodies:
    """Turns at processing large bodies, one at a time.

    Args:
        clock: measures how long bodies wait.
        metrics: shows it.
    """

    def __init__(self, clock: Clock, metrics: GatewayMetrics) -> None:
        self._clock, self._metrics = clock, metrics
        self._turns = Turns[asyncio.Future[None]]()
        self._is_busy = False

    @contextlib.asynccontextmanager
    async def turn(self, holder: str, size: int) -> AsyncGenerator[None]:
        """Wait for the turn of a body, and have it until the end; a small one needs none.

        Args:
            holder: who sent it: the team of its caller, or the caller.
            size: its bytes.

        Raises:
            RequestRejected: 429 if too many bodies of the holder wait.
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
        """Process a body whose turn it is; a large one in a thread, so that answers in progress are not delayed."""
        return work(*args, **kwargs) if size <= LARGE_BYTES else await asyncio.to_thread(work, *args, **kwargs)

    async def _wait(self, holder: str) -> None:
        if self._turns.count(holder) >= MOST_WAITING:
            raise RequestRejected(errors.too_many_large_bodies(MOST_WAITING, LARGE_BYTES))
        turn = asyncio.get_running_loop().create_future()
        self._turns.add(holder, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given the turn
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while (turn := self._turns.take()) is not None:
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._is_busy = False
