"""Holding a release: the order that the bus stored last counts, whatever the order of reading."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.registry.domain.release_holds import BEGINNINGS, HoldOrder, begins_step, newest_hold, start_of_deadline

START = datetime(2026, 11, 27, tzinfo=UTC)
ORDERS = st.builds(
    HoldOrder,
    at=st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds)),
    id=st.sampled_from(["a", "b", "c"]),
    paused=st.booleans(),
)


@given(st.lists(ORDERS, max_size=6, unique_by=lambda order: (order.at, order.id)), st.data())
def test_the_newest_order_is_the_same_in_any_order_and_repetition(orders, data):
    shuffled = data.draw(st.permutations([*orders, *orders]))
    step_by_step = None
    for order in shuffled:
        step_by_step = newest_hold((step_by_step, order))
    assert step_by_step == newest_hold(orders)
    assert step_by_step is None or all(order.at <= step_by_step.at for order in orders)


def test_a_pause_holds_what_begins_a_step_and_nothing_else():
    assert begins_step("traffic.requested:0.5")
    assert all(begins_step(f"{kind}:x") for kind in BEGINNINGS)
    assert not any(begins_step(key) for key in ("release.finished", "stage.released:int8", "version.registered"))


def test_a_release_that_goes_on_has_the_whole_time_of_its_step_again():
    resumed = HoldOrder(START + timedelta(hours=2), "b", paused=False)
    assert start_of_deadline(START, resumed) == resumed.at
    assert start_of_deadline(START + timedelta(hours=3), resumed) == START + timedelta(hours=3)
    assert start_of_deadline(START, None) == START
