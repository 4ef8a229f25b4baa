"""Ends tasks that lose a cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

AGAIN_S: Final = 5.0
"""How long a task is waited for before it is cancelled again: longer than what services do at their end takes."""


async def end_tasks(tasks: Iterable[asyncio.Future[Any]], *, again_s: float = AGAIN_S) -> None:
    """Cancel tasks until all have ended, and drop their results and errors.

    Before Python 3.12 `asyncio.wait_for`, with which nats-py waits for messages, may return a result instead of the
    cancellation that came in the same moment (python/cpython#86296): a loop goes on then, and is awaited for ever.

    Args:
        tasks: The tasks.
        again_s: Seconds until a task is cancelled again: its clean-up must take less.
    """
    ended = [*tasks]
    left = {task for task in ended if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
    await asyncio.gather(*ended, return_exceptions=True)
