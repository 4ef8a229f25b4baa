"""What the rollback-controller remembers of the load that callers offer."""

import pytest

from contracts.api_usage import DemandReport, OfferedLoad
from decisions.offered_load import REMEMBERED_S
from services.rollback_controller.offered import OfferedLoads
from testbed import factories as f
from tests.kit.fakes_serving import FakeClock

STEADY_S, RISEN_S = 120, 40


def offer(loads, clock, seconds, per_second):
    for _ in range(seconds):
        clock.seconds += 1.0
        offered = OfferedLoad(requests=per_second, tokens=10 * per_second)
        loads.take_report(DemandReport(process="0" * 8, offered={f.MODEL: offered}))


@pytest.mark.parametrize("after_rps", [8, 2], ids=["the load stays", "the burst is over"])
def test_a_rise_counts_for_some_minutes(after_rps):
    """An alert may take longer than the load needs to look steady again."""
    clock = FakeClock()
    loads = OfferedLoads(clock)
    offer(loads, clock, STEADY_S, 2)
    assert not loads.have_risen(f.MODEL)
    offer(loads, clock, RISEN_S, 8)
    assert loads.have_risen(f.MODEL)
    offer(loads, clock, 120, after_rps)
    assert loads.have_risen(f.MODEL), "two minutes later"
    offer(loads, clock, int(REMEMBERED_S), after_rps)
    assert not loads.have_risen(f.MODEL)
    assert not loads.have_risen("other")


def test_a_rise_that_is_only_reported_is_remembered_without_an_alert():
    clock = FakeClock()
    loads = OfferedLoads(clock)
    offer(loads, clock, STEADY_S, 2)
    offer(loads, clock, RISEN_S, 8)
    offer(loads, clock, 120, 8)
    assert loads.have_risen(f.MODEL)
