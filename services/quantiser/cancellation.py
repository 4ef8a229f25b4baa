"""Cancels work whose release has finished."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from services.quantiser.ports import ReleaseWatch

CHECK_INTERVAL_S = 2.0
T = TypeVar("T")


async def unless_finished(
    work: Coroutine[Any, Any, T], release: ReleaseWatch, *, interval_s: float = CHECK_INTERVAL_S
) -> T | None:
    """Return the result of the work; None, with the work cancelled or not started, if its release has finished.

    Args:
        work: The work.
        release: Tells whether the release has finished; it is checked before the start and at each interval.
        interval_s: Seconds between two checks.
    """
    if await _has_finished(release):
        work.close()
        return None
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=interval_s))[0]:
            if await _has_finished(release):
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _has_finished(release: ReleaseWatch) -> bool:
    finished = await release.finished()
    if finished is None:
        return False
    structlog.get_logger().info("the release has finished", outcome=finished.outcome)
    return True
