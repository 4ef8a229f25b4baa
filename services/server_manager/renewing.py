"""Renews the lease while a pass takes long, so that what is slow costs no process its lead."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from services.server_manager.ports import Leadership
from shared.runtime.tasks import end_tasks

RENEW_EVERY_S = 1.0
LIMIT_S = 60.0
"""Longer than a pass whose requests all run out of time. One that lasts longer hangs: another process leads then."""


@contextlib.asynccontextmanager
async def renewing(lead: Leadership) -> AsyncIterator[None]:
    """Renew the lease every second until the block ends. A lease that was lost is not taken again."""
    task = asyncio.create_task(_renew(lead), name="renew the lease")
    try:
        yield
    finally:
        await end_tasks([task], again_s=RENEW_EVERY_S)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().warning("renewing the lease failed", error=repr(task.exception()))


async def _renew(lead: Leadership) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_S):
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                await lead.confirm()
