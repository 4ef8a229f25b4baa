"""What runs beside a pass ends with it, also where it loses its cancellation to an answer of the same moment."""

import asyncio

from services.server_manager.background import BackgroundPublisher, renewing
from tests.kit.virtual_time import virtual_time


class Losing:
    """A lease and a log whose requests lose their first cancellation, and then wait for an answer again."""

    def __init__(self):
        self.asked, self.lost = asyncio.Event(), False

    async def confirm(self):
        self.asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if self.lost:
                raise
            self.lost = True

    async def publish(self):
        await self.confirm()
        await self.confirm()


@virtual_time
async def test_a_pass_ends_though_the_renewal_of_its_lease_loses_its_cancellation():
    lead, clock = Losing(), asyncio.get_running_loop()
    async with renewing(lead):
        await lead.asked.wait()
        ended_s = clock.time()
    assert lead.lost
    assert clock.time() - ended_s < 10


@virtual_time
async def test_publishing_stops_though_it_loses_its_cancellation():
    log, clock = Losing(), asyncio.get_running_loop()
    publisher = BackgroundPublisher(log)
    publisher.publish_soon()
    await log.asked.wait()
    ended_s = clock.time()
    await publisher.stop()
    assert log.lost
    assert clock.time() - ended_s < 10
