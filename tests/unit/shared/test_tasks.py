"""What is cancelled ends, also where a loop loses its cancellation to a message of the same moment."""

import asyncio

from shared.runtime.tasks import end_tasks


async def test_a_reader_that_loses_a_cancellation_is_cancelled_again():
    lost = 0

    async def read_for_ever() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    async def fail() -> None:
        raise OSError

    readers = [asyncio.create_task(read_for_ever()), asyncio.create_task(fail())]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_tasks(readers, again_s=0.01)
    assert lost == 2
    assert all(reader.done() for reader in readers)
