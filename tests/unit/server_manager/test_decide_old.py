"""A traffic order is valid for a day of the wall clock, however often the process that leads is started again."""

import pytest

from services.server_manager.domain import staging
from services.server_manager.domain.answer_types import ApplyOrder, RefuseOrder
from services.server_manager.domain.decide import decide_answers
from services.server_manager.domain.records import Servers
from tests.unit.server_manager.factories import LIMITS, at, held, traffic_requested

HOUR = 3600.0
READY = {"bot.v3.bf16": held(3)}


def decide(*, now_h, received_h=0.0, waited_s=0.0):
    """Decide on an order that was given at hour 0 and whose target is ready."""
    record = staging.enqueue_order(Servers(), traffic_requested("t1", 3), at(received_h * HOUR))
    (answer,) = decide_answers(record, {}, READY, LIMITS, at(now_h * HOUR), waited_s={"t1": waited_s})
    return answer


def test_an_order_that_lay_in_the_record_for_three_days_is_refused_by_a_new_leader():
    refused = decide(now_h=72)
    assert isinstance(refused, RefuseOrder)
    assert refused.code == "order_expired"
    assert "72 h" in refused.reason


@pytest.mark.parametrize("now_h", [-72, 0, 23.9])
def test_an_order_of_today_is_applied_also_if_the_clock_was_set_back(now_h):
    assert isinstance(decide(now_h=now_h), ApplyOrder)


def test_a_clock_that_was_set_back_makes_no_old_order_young():
    assert isinstance(decide(now_h=-72, waited_s=25 * HOUR), RefuseOrder)
    assert isinstance(decide(now_h=-72, received_h=30), RefuseOrder)


def test_a_clock_that_was_behind_as_the_order_came_makes_no_old_order_young():
    assert isinstance(decide(now_h=-72, received_h=-72, waited_s=25 * HOUR), RefuseOrder)
