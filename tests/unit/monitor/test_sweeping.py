"""When the monitor's sweeps begin: what waited on the bus while no monitor ran comes first."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from contracts import facts as cf
from contracts.envelope import Event
from services.monitor.app import Monitor
from services.monitor.domain.monitoring import Rules
from services.monitor.domain.windows import Windowing
from shared.messaging.ledger import Ledger
from tests.kit import factories as f
from tests.kit.fakes_registry import FakePublisher, FakeRecords
from tests.unit.monitor import factories as m

LATENESS_S = 10.0
RULES = Rules(windowing=Windowing(length_s=60, lateness_s=LATENESS_S))
KEY = f"production.{f.MODEL}"
RESTARTED_S = 300.0
"""When the monitor comes back: long after the window was over that it left open."""


class Leaping(asyncio.SelectorEventLoop):
    """An event loop whose time leaps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._leapt_s = 0.0
        self._look = self._selector.select
        self._selector.select = self._leap

    def time(self) -> float:
        return super().time() + self._leapt_s

    def _leap(self, timeout_s):
        found = self._look(0)
        if not found and timeout_s:
            self._leapt_s += timeout_s
        return found


class LoopClock:
    """The restarted monitor's clock: the loop's time after it began."""

    def __init__(self) -> None:
        self._began_s = asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return f.after(RESTARTED_S + self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s


def batch(event_id, count, seconds):
    records = tuple(m.record(seconds) for _ in range(count))
    return Event[cf.InferenceBatch](
        id=event_id,
        source="/slipway/gateway",
        type=cf.InferenceBatch.TYPE,
        subject=f.MODEL,
        time=f.after(seconds),
        correlationid="r-7",
        data=cf.InferenceBatch(gateway="g", records=records),
    )


def restarted(story: Callable[[Monitor, FakeRecords, FakePublisher], Awaitable[None]]) -> None:
    """Play what happens after a monitor came back that had taken 20 requests of a window and then was gone."""

    async def play() -> None:
        records, publisher = FakeRecords(), FakePublisher()
        await records.create(KEY, m.take(m.routed(), [m.record(5.0) for _ in range(20)], 6.0, RULES))
        ledger = Ledger(records, publisher, lambda *_: m.watch(), service="monitor")
        monitor = Monitor(ledger=ledger, references=None, reports=None, clock=LoopClock(), rules=RULES)
        sweeping = asyncio.create_task(monitor.keep_sweeping(1.0))
        try:
            await story(monitor, records, publisher)
        finally:
            sweeping.cancel()

    with asyncio.Runner(loop_factory=Leaping) as runner:
        runner.run(play())


def summarised(publisher):
    return [one.requests for one in publisher.of(cf.WindowSummarised)]


@pytest.mark.parametrize("taken_after_s", [0.0, 1.0, LATENESS_S - 0.5])
def test_what_lay_on_the_bus_is_taken_before_its_window_closes(taken_after_s):
    async def story(monitor, records, publisher):
        await asyncio.sleep(taken_after_s)
        await monitor.measure(batch("waited", 30, 7.0))
        await asyncio.sleep(LATENESS_S + 5.0 - taken_after_s)
        assert summarised(publisher) == [50], "one window, with what was there and what had waited"
        (state,) = [one for one in records.kept[KEY].value.targets.values() if one.requests]
        assert (state.requests, state.late) == (50, 0)

    restarted(story)


def test_a_window_that_nothing_waits_for_is_closed_as_soon_as_that_is_sure():
    async def story(_monitor, _records, publisher):
        await asyncio.sleep(LATENESS_S - 0.1)
        assert summarised(publisher) == []
        await asyncio.sleep(1.1)
        assert summarised(publisher) == [20]

    restarted(story)


def test_sweeps_go_on_and_close_each_window_when_its_time_is_over():
    async def story(monitor, _records, publisher):
        await asyncio.sleep(LATENESS_S + 2.0)
        now = monitor.clock.now()
        end = now + timedelta(seconds=60 - now.timestamp() % 60)
        await monitor.measure(batch("fresh", 7, (now - f.after(0)).total_seconds() - 1.0))
        await asyncio.sleep((end - now).total_seconds() + LATENESS_S - 1.0)
        assert summarised(publisher) == [20]
        await asyncio.sleep(2.5)
        assert summarised(publisher) == [20, 7]

    restarted(story)
