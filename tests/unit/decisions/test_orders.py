"""Until when an order counts: whatever its publisher's clock says, and whatever the order itself says."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.rollback.orders import (
    CLOCK_SKEW,
    LONGEST_ORDER,
    ORDER_AGE,
    assess_epoch,
    assess_expiry,
    epoch_in_reason,
    expiry,
)
from testbed import factories as f

seconds = st.integers(min_value=-40 * 86_400, max_value=40 * 86_400)
maybe = st.none() | st.integers(min_value=-40 * 86_400, max_value=400 * 86_400)


def at(offset):
    return None if offset is None else f.after(offset)


@given(seconds, seconds, maybe)
def test_no_order_counts_longer_than_the_longest_after_its_time_and_arrival_whatever_clocks_say(
    ordered, stored, expires
):
    until = expiry(at(ordered), at(stored), at(expires))
    assert until <= min(at(ordered), at(stored)) + LONGEST_ORDER
    assert assess_expiry(at(ordered), at(stored), at(expires), at(stored) + LONGEST_ORDER)


@given(seconds, seconds)
def test_without_an_expiry_the_older_of_both_times_counts(ordered, stored):
    assert expiry(at(ordered), at(stored), None) == min(at(ordered), at(stored)) + ORDER_AGE


@given(seconds, st.integers(min_value=0, max_value=3600))
def test_a_clock_that_is_ahead_makes_no_order_immortal(stored, ahead):
    ordered = at(stored) + timedelta(seconds=ahead)
    assert assess_expiry(ordered, at(stored), None, at(stored) + ORDER_AGE)
    assert assess_expiry(ordered, at(stored), ordered + timedelta(days=3650), at(stored) + LONGEST_ORDER)


@given(seconds, seconds, maybe, st.integers(min_value=0, max_value=10**7))
def test_once_void_an_order_stays_void(ordered, stored, expires, later):
    now = expiry(at(ordered), at(stored), at(expires))
    assert assess_expiry(at(ordered), at(stored), at(expires), now + timedelta(seconds=later))
    believed = ordered - stored <= CLOCK_SKEW.total_seconds()
    assert (assess_expiry(at(ordered), at(stored), at(expires), now - timedelta(seconds=1)) is None) is believed


@pytest.mark.parametrize("ordered_days", [-30, -2, 1, 40])
@pytest.mark.parametrize("expires_days", [1, 50, 1500])
def test_a_replayed_order_is_void_whatever_it_says_of_its_own_time_and_end(ordered_days, expires_days):
    day = 86_400
    assert assess_expiry(f.after(ordered_days * day), f.after(0), f.after(expires_days * day), f.after(0))


@given(st.integers(min_value=0, max_value=40 * 86_400), maybe)
def test_an_order_of_the_future_is_void_and_says_that_a_clock_is_wrong(ahead, expires):
    reason = assess_expiry(f.after(ahead), f.after(0), at(expires), f.after(0))
    assert ("check the clock" in (reason or "")) is (ahead > CLOCK_SKEW.total_seconds())


def test_a_fresh_order_counts_and_a_month_old_one_says_why_not():
    assert assess_expiry(f.after(0), f.after(1), None, f.after(2)) is None
    reason = assess_expiry(f.after(-30 * 86_400), f.after(1), None, f.after(2))
    assert "2026-10-25T09:30:00+00:00" in reason
    assert "2026-11-24T09:30:01+00:00" in reason


def test_an_order_without_an_epoch_means_any():
    assert assess_epoch(None, 7, "m") is None
    assert assess_epoch(7, 7, "m") is None
    assert assess_epoch(0, None, "m") is None
    assert "epoch 6" in assess_epoch(6, 7, "m")


@given(st.integers(min_value=0, max_value=10**9), st.none() | st.integers(min_value=0, max_value=10**9))
def test_the_refusal_of_another_epoch_names_the_present_one(ordered, current):
    reason = assess_epoch(ordered, current, "m")
    assert reason is None or epoch_in_reason(f"{reason} Look again.") == (current or 0)


def test_another_reason_names_no_epoch():
    assert epoch_in_reason("m.v7 takes no traffic; there is nothing to take back.") is None
