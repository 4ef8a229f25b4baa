"""The one background loop over many items: does again and again what is due for each of them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

import structlog

from shared.errors import translate

K = TypeVar("K")
T = TypeVar("T")
_Sleep = Callable[[float], Awaitable[None]]


class Sweeper(Generic[K]):
    """Does what is due for each item, for ever, with one rule for failures.

    An item that fails, or takes longer than `item_limit_s`, is logged and left to the next sweep; the others go on.
    A sweep that cannot list its items is tried again after `every_s`. Sweeps do not overlap. Only cancelling ends them.
    """

    def __init__(
        self,
        name: str,
        items: Callable[[], Awaitable[Iterable[K]]],
        do: Callable[[K], Awaitable[object]],
        *,
        every_s: float,
        first_after_s: float = 0.0,
        item_limit_s: float = 60.0,
        sleep: _Sleep = asyncio.sleep,
    ) -> None:
        """Set up the sweeper.

        Args:
            name: What is swept, for the log.
            items: Returns the items that there are now.
            do: Does what is due for one of them. It may be cancelled at any point.
            every_s: Seconds from the end of a sweep to the next one.
            first_after_s: Seconds until the first sweep.
            item_limit_s: Seconds that one item may take.
            sleep: Waits for some seconds.
        """
        self._name = name
        self._items = items
        self._do = do
        self._every_s = every_s
        self._first_after_s = first_after_s
        self._item_limit_s = item_limit_s
        self._sleep = sleep
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Begin the next sweep soon instead of after `every_s`."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        if self._first_after_s > 0.0:
            await self._sleep(self._first_after_s)
        while True:
            self._wake.clear()
            await self.sweep()
            await self._rest()

    async def sweep(self) -> int:
        """Do what is due for each item once; return how many failed."""
        listed = await self._guarded(self._items(), "all")
        if listed is None:
            return 1
        failed = 0
        for item in listed:
            failed += await self._guarded(self._do_in_time(item), item) is None
        return failed

    async def _do_in_time(self, item: K) -> bool:
        async with asyncio.timeout(self._item_limit_s):
            await self._do(item)
        return True

    async def _guarded(self, work: Awaitable[T], item: object) -> T | None:
        """Return what the work returns; None, and a line in the log, if it fails."""
        try:
            return await work
        except Exception as error:
            known, log = translate(error), structlog.get_logger().bind(sweep=self._name, item=str(item))
            if known is not None:
                log.warning("sweep failed, will be tried again", code=known.code, reason=known.reason)
            elif isinstance(error, TimeoutError):
                log.warning("sweep took too long, will be tried again", limit_s=self._item_limit_s)
            else:
                log.exception("sweep failed, will be tried again")
            return None

    async def _rest(self) -> None:
        """Wait `every_s`, or until woken."""
        waits = [asyncio.ensure_future(self._sleep(self._every_s)), asyncio.ensure_future(self._wake.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
