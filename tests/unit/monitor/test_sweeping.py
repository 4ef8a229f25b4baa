"""When the monitor's sweeps begin: telemetry that waited on the bus while no monitor ran is added first."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from contracts import facts as cf
from services.monitor.app import Monitor
from testbed import factories
from tests.kit.records import MemoryPublisher, MemoryRecords
from tests.kit.virtual_time import run_virtual
from tests.unit.monitor import factories as m
from tests.unit.monitor.world import KEY, World, batch

LATENESS_S = 10.0
RESTARTED_S = 300.0
"""When the monitor is started again: long after the end of the window that it left open."""


def restarted(story: Callable[[Monitor, MemoryRecords, MemoryPublisher], Awaitable[None]]) -> None:
    """Play what happens after the restart of a monitor that had added 20 requests to a window before it stopped."""

    async def play() -> None:
        world = World(starts_s=RESTARTED_S, lateness_s=LATENESS_S)
        await world.records.create(KEY, m.take(m.routed(), [m.record(5.0) for _ in range(20)], 6.0, world.rules))
        sweeping = asyncio.create_task(world.sweeper.run())
        try:
            await story(world.monitor, world.records, world.publisher)
        finally:
            sweeping.cancel()

    run_virtual(play())


def summarised(publisher):
    return [window.requests for window in publisher.of(cf.WindowSummarised)]


@pytest.mark.parametrize("added_after_s", [0.0, 1.0, LATENESS_S - 0.5])
def test_what_waited_on_the_bus_is_added_before_its_window_closes(added_after_s):
    async def story(monitor, records, publisher):
        await asyncio.sleep(added_after_s)
        await monitor.measure(batch("waited", [m.record(7.0) for _ in range(30)], 7.0))
        await asyncio.sleep(LATENESS_S + 5.0 - added_after_s)
        assert summarised(publisher) == [50], "one window, with what was there and what had waited"
        (watched,) = [target for target in (await records.get(KEY)).value.targets.values() if target.requests]
        assert watched.requests == 50

    restarted(story)


def test_a_backlog_that_takes_longer_than_the_lateness_to_read_is_in_its_window():
    async def story(monitor, records, publisher):
        for number in range(30):
            await asyncio.sleep(1.0)
            stored_s = 8.0 + number
            waited = batch(f"waited-{number}", [m.record(stored_s - 1)], stored_s)
            await monitor.measure(waited, factories.after(stored_s))
        assert summarised(publisher) == [], "a sweep closed the window while its telemetry was being read"
        await asyncio.sleep(LATENESS_S + 2.0)
        assert summarised(publisher) == [50]
        (watched,) = [target for target in (await records.get(KEY)).value.targets.values() if target.requests]
        assert watched.requests == 50

    restarted(story)


def test_a_window_without_waiting_telemetry_is_closed_after_the_lateness():
    async def story(_monitor, _records, publisher):
        await asyncio.sleep(LATENESS_S - 0.1)
        assert summarised(publisher) == []
        await asyncio.sleep(1.1)
        assert summarised(publisher) == [20]

    restarted(story)


def test_sweeps_continue_and_close_each_window_when_its_time_is_over():
    async def story(monitor, _records, publisher):
        await asyncio.sleep(LATENESS_S + 2.0)
        now = monitor.clock.now()
        end = now + timedelta(seconds=60 - now.timestamp() % 60)
        seconds = (now - factories.after(0)).total_seconds() - 1.0
        await monitor.measure(batch("fresh", [m.record(seconds) for _ in range(7)], seconds))
        await asyncio.sleep((end - now).total_seconds() + LATENESS_S - 1.0)
        assert summarised(publisher) == [20]
        await asyncio.sleep(2.5)
        assert summarised(publisher) == [20, 7]

    restarted(story)
