"""Clocks on a real bus: its own time is known, and a batch is handled with the time at which it was stored."""

import asyncio
from datetime import timedelta

import pytest

from contracts import facts as f
from services.monitor.app import build
from services.monitor.domain.record import MonitorState
from services.monitor.metrics import MonitorMetrics
from services.monitor.settings import MonitorSettings
from shared.messaging.bus import Bus, publish_event
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import RecordStore
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed import factories as k
from tests.unit.monitor import factories as m

HOUR = timedelta(hours=1)
NOW = SystemClock().now


class Wrong(SystemClock):
    """This machine's clock, an hour ahead."""

    ahead = HOUR

    def now(self):
        return super().now() + self.ahead


async def test_a_wrong_clock_is_set_right_by_the_bus(js):
    clock = BusClock(Wrong(), lambda: js, "alerts")
    assert clock.now() - NOW() > HOUR / 2
    await clock.compare()
    assert clock.offset_s == pytest.approx(HOUR.total_seconds(), abs=2)
    assert abs(clock.now() - NOW()) < timedelta(seconds=2)


async def test_a_clock_that_is_set_is_set_right_before_it_is_compared_again(js):
    machine = Wrong()
    clock = BusClock(machine, lambda: js, "alerts")
    await clock.compare()
    machine.ahead = -HOUR
    assert abs(clock.now() - NOW()) < timedelta(seconds=2)


async def test_a_right_clock_is_left_alone(js):
    clock = BusClock(SystemClock(), lambda: js, "rollbacks")
    await clock.compare()
    assert abs(clock.offset_s) < 2
    assert clock.now() <= NOW()


async def counted(js):
    """Return how many requests are in the monitor's record."""
    entry = await Bucket(js, "alerts", MonitorState).get(f"production.{k.MODEL}")
    return sum(target.requests for target in entry.value.targets.values()) if entry is not None else 0


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_records_of_a_gateway_with_a_wrong_clock_are_counted_and_shown(js, bus_settings, ahead):
    bus = Bus(bus_settings, "monitor", SystemClock())
    await bus.connect()
    build(
        bus,
        states=RecordStore("alerts", Bucket(js, "alerts", MonitorState), bus, service="monitor"),
        references=None,
        reports=None,
        settings=MonitorSettings(),
        metrics=MonitorMetrics(bus.metrics),
        clock=SystemClock(),
    )
    for number in range(4):
        at = NOW() + ahead
        records = tuple(m.record(scheduled_at=at - timedelta(seconds=1), sent_at=at) for _ in range(5))
        batch = f.InferenceBatch(gateway="gateway-east-1", records=records)
        await publish_event(js, k.event(batch, id=f"b{number}", time=at))
    await bus.broker.start()
    try:
        async with asyncio.timeout(20):
            while await counted(js) < 20:
                await asyncio.sleep(0.05)
    finally:
        await bus.broker.stop()
    offset = bus.metrics.get_sample_value("slipway_gateway_clock_offset_seconds", {"gateway": "gateway-east-1"})
    assert offset == pytest.approx(ahead.total_seconds(), abs=20)
    watch = (await Bucket(js, "alerts", MonitorState).get(f"production.{k.MODEL}")).value
    (target,) = watch.targets.values()
    assert (target.requests, watch.implausible) == (20, 0)
