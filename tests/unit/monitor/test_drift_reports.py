"""Drift reports that hang: the alerts of all windows are raised without them, within one sweep."""

import asyncio

import structlog

from contracts import facts as cf
from testbed import factories
from tests.kit.fakes_monitor import FakeReferences
from tests.kit.fakes_registry import FixedClock
from tests.unit.monitor.drift_rows import ROWS, full
from tests.unit.monitor.world import KEY, World


class HangingReports:
    """Reports that are made one at a time and never end."""

    def __init__(self) -> None:
        self.begun = 0
        self._one_at_a_time = asyncio.Lock()

    async def make(self, *_evidence):
        async with self._one_at_a_time:
            self.begun += 1
            await asyncio.Event().wait()


async def test_each_of_two_drifted_windows_raises_its_alert_in_the_first_sweep_though_reports_hang():
    references, reports = FakeReferences(), HangingReports()
    world = World(
        clock=FixedClock(factories.after(20.0)),
        references=references,
        reports=reports,
        drift_rows=ROWS,
        report_timeout_s=0.05,
    )
    state = full(6, 7, world.rules)
    for watched in state.targets.values():
        columns = {name: [value + 1000.0 for value in values] for name, values in watched.drift.columns.items()}
        if columns:
            await references.put(watched.target, columns, taken_at=factories.after(0.0), source="a test")
    await world.records.create(KEY, state)
    await world.monitor.sweep(("production", factories.MODEL))  # finds the references
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(20):
            await world.monitor.sweep(("production", factories.MODEL))
    raised = world.publisher.of(cf.AlertRaised)
    assert {(alert.target.version, alert.kind, alert.evidence) for alert in raised} == {
        (6, "drift", None),
        (7, "drift", None),
    }
    assert [log["code"] for log in logs if log["event"] == "no drift report"] == ["deadline_passed", "deadline_passed"]
    assert reports.begun >= 1
