"""Ends tasks that lose a cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

AGAIN_S: Final = 5.0
"""Wait before a task is cancelled again, in seconds: longer than the clean-up of services."""


async def end_tasks(tasks: Iterable[asyncio.Future[Any]], *, again_s: float = AGAIN_S) -> None:
    """Cancel tasks until all have ended, and drop their results and errors.

    Before Python 3.12 `asyncio.wait_for`, which nats-py uses, may lose a cancellation (python/cpython#86296).

    Args:
        tasks: The tasks.
        again_s: Seconds until a task is cancelled again; its clean-up must take less.
    """
    ended = [*tasks]
    left = {task for task in ended if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
    await asyncio.gather(*ended, return_exceptions=True)
