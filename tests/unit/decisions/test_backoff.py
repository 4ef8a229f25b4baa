"""Waits after failures."""

from hypothesis import given
from hypothesis import strategies as st

from decisions.backoff import backoff_s


@given(st.integers(0, 5000))
def test_waits_grow_to_a_limit_and_never_overflow(failures):
    assert backoff_s(failures, 2.0, 300.0) <= backoff_s(failures + 1, 2.0, 300.0) <= 300.0


def test_the_first_wait_comes_after_a_failure_and_each_further_one_doubles_it():
    assert [backoff_s(failures, 2.0, 10.0) for failures in range(5)] == [0.0, 2.0, 4.0, 8.0, 10.0]
