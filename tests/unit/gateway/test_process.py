"""A gateway whose background work failed ends, so that it is started again; one that is stopped just stops."""

import asyncio

from services.gateway.process import end_with


async def broken():
    raise RuntimeError


async def test_failed_work_ends_the_process():
    stopped = asyncio.Event()
    end_with(asyncio.ensure_future(broken()), stopped.set)
    await asyncio.wait_for(stopped.wait(), 5)


async def test_work_that_is_cancelled_or_done_does_not():
    stopped = []
    waiting = end_with(asyncio.ensure_future(asyncio.sleep(60)), lambda: stopped.append(1))
    done = end_with(asyncio.ensure_future(asyncio.sleep(0)), lambda: stopped.append(1))
    await done
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not stopped
