"""Budgets of a month: when a request is admitted, and when the next month begins."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.access.token_budgets import fits, month_of, seconds_to_next_month


@given(st.integers(1, 1000), st.lists(st.tuples(st.sampled_from(["ask", "end"]), st.integers(1, 400), st.floats(0, 1))))
def test_a_budget_is_exceeded_by_less_than_one_request(budget, steps):
    used, running = 0, []
    for action, size, share in steps:
        if action == "end" and running:
            _, taken = running.pop()
            used += taken
        elif action == "ask" and fits(budget, used, sum(most for most, _ in running), size):
            running.append((size, round(size * share)))
    largest = max((size for _, size, _ in steps), default=0)
    assert used + sum(taken for _, taken in running) < budget + max(1, largest)


@pytest.mark.parametrize(
    ("now", "month", "left_s"),
    [
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), "2026-11", 1),
        (datetime(2026, 12, 31, tzinfo=UTC), "2026-12", 86_400),
        (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2026-11", 1800),
    ],
)
def test_months_are_those_of_utc(now, month, left_s):
    assert (month_of(now), seconds_to_next_month(now)) == (month, left_s)
