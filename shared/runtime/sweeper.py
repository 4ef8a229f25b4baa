"""The background loop of services: runs the due work of each item, again and again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import structlog

from shared.errors import translate

K = TypeVar("K", bound=Hashable)
_SLOW_RATIO = 0.1
"""Share of the time limit above which an item is slow."""


class Sweeper(Generic[K]):
    """Runs the due work of each item until cancelled.

    Up to `at_once` items run concurrently, in the order of the list, never one of them twice. An item that fails, or
    takes longer than `item_limit_s`, is logged and left to the next sweep, which does not wait for running items.
    Items that were slow last time come after all others, the longest waiting first, and leave one slot free. A failed
    listing is repeated after `every_s`.
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
        at_once: int = 4,
    ) -> None:
        """Set up the sweeper.

        Args:
            name: Name of the swept items, for the log.
            items: Returns the current items.
            do: Processes one item. It may be cancelled at any point.
            every_s: Seconds from the start of a sweep's last item to the next sweep.
            first_after_s: Seconds until the first sweep.
            item_limit_s: Time limit of an item, and of the listing.
            at_once: Maximum number of concurrent items.
        """
        self._name = name
        self._items = items
        self._do = do
        self._every_s = every_s
        self._first_after_s = first_after_s
        self._item_limit_s = item_limit_s
        self._at_once = at_once
        self._tasks: dict[K, asyncio.Task[bool]] = {}
        self._slow: dict[K, None] = {}
        """Items that were slow last time, the longest known first."""

    async def run(self) -> None:
        """Sweep until cancelled."""
        try:
            await asyncio.sleep(self._first_after_s)
            while True:
                await self._begin_all(slow_wait_s=self._every_s)
                await asyncio.sleep(self._every_s)
        finally:
            await self._cancel()

    async def sweep(self) -> int:
        """Run the due work of each item once; return the number of failures. Do not call it while `run` runs."""
        try:
            tasks = await self._begin_all(slow_wait_s=None)
            if tasks is None:
                return 1
            await self._free_slot(1)
            return sum(task.cancelled() or not task.result() for task in tasks)
        finally:
            await self._cancel()

    async def _begin_all(self, *, slow_wait_s: float | None) -> list[asyncio.Task[bool]] | None:
        """Begin each listed item that is not running; return the tasks, None after a failed listing.

        Slow items without a slot after `slow_wait_s` are left out.
        """
        listed: list[K] = []

        async def list_items() -> None:
            listed.extend(await self._items())

        if not await self._in_time(list_items, "all"):
            return None
        await self._reap(wait_s=0.0)
        due = dict.fromkeys(item for item in listed if item not in self._tasks)
        self._slow = {item: None for item in self._slow if item in due or item in self._tasks}
        quick = [item for item in due if item not in self._slow]
        slow = [item for item in self._slow if item in due]
        begun = []
        for item in quick:
            await self._free_slot(self._at_once)
            begun.append(self._begin(item))
        slots = max(1, self._at_once - 1)
        for item in slow:
            all_slow = sum(running in self._slow for running in self._tasks) >= slots
            if (slow_wait_s is not None and all_slow) or not await self._free_slot(slots, slow_wait_s):
                break
            begun.append(self._begin(item))
        return begun

    def _begin(self, item: K) -> asyncio.Task[bool]:
        task = self._tasks[item] = asyncio.create_task(self._do_one(item))
        return task

    async def _do_one(self, item: K) -> bool:
        """Process one item, note whether it is slow, and return whether it succeeded."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        done = await self._in_time(lambda: self._do(item), item)
        self._slow.pop(item, None)
        if loop.time() - began_s > _SLOW_RATIO * self._item_limit_s:
            self._slow[item] = None
        return done

    async def _free_slot(self, slots: int, wait_s: float | None = None) -> bool:
        """Return True once fewer than `slots` items are running, False after `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while len(self._tasks) >= slots:
                    await self._reap()
                return True
        return False

    async def _reap(self, wait_s: float | None = None) -> None:
        """Remove the finished items; wait for at least one, up to `wait_s`."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for item, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[item]
                if task.cancelled():  # by what it waited for, not by us
                    structlog.get_logger().warning(
                        "sweep was cancelled, will be tried again", sweep=self._name, item=str(item)
                    )
                else:
                    task.result()

    async def _cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _in_time(self, work: Callable[[], Awaitable[Any]], item: object) -> bool:
        """Return whether work succeeded within the time limit; log the failure otherwise."""
        limit = asyncio.timeout(self._item_limit_s)
        try:
            async with limit:
                await work()
        except Exception as error:
            known, log = translate(error), structlog.get_logger().bind(sweep=self._name, item=str(item))
            if limit.expired():
                log.warning("sweep took too long, will be tried again", limit_s=self._item_limit_s)
            elif known is not None:
                log.warning("sweep failed, will be tried again", code=known.code, reason=known.reason)
            else:
                log.exception("sweep failed, will be tried again")
            return False
        return True
