"""Metrics by which others notice that the monitor gets no telemetry, or decides nothing."""

from prometheus_client import generate_latest

from contracts.metrics import MONITOR_SWEPT, RECORDS_ARRIVED
from testbed import factories
from tests.kit.virtual_time import run_virtual
from tests.unit.monitor import factories as m
from tests.unit.monitor.world import KEY, World, batch


def series(world, metric):
    lines = generate_latest(world.bus.metrics).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric.name)}


def test_all_records_that_arrive_are_counted_by_target_also_those_that_are_ignored():
    async def play():
        world = World()
        await world.monitor.measure(batch("one", [m.record(1.0), m.record(2.0), m.record(3.0, e2e_ms=-1.0)], 4.0))
        await world.monitor.measure(batch("two", [m.record(5.0, version=6)], 6.0))
        assert sorted(series(world, RECORDS_ARRIVED).values()) == [1.0, 3.0]

    run_virtual(play())


def test_the_time_of_the_last_sweep_moves_only_while_sweeps_decide():
    async def play():
        world = World(starts_s=100.0)
        assert series(world, MONITOR_SWEPT) == {MONITOR_SWEPT.name: 0.0}, "a monitor that never decided is silent"
        await world.records.create(KEY, m.routed())
        await world.monitor.sweep(("production", factories.MODEL))
        assert series(world, MONITOR_SWEPT) == {MONITOR_SWEPT.name: factories.after(100.0).timestamp()}

    run_virtual(play())
