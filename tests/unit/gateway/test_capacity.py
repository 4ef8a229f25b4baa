"""A capacity that callers share: a few of them never take all of it, and one alone takes most of it."""

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.request_rates import LITTLE, RESERVED, may_take
from services.gateway.server.in_flight import InFlight
from services.gateway.telemetry.metrics import GatewayMetrics

limits = st.sampled_from([64, 100, 512, 5_000])
steps = st.lists(st.tuples(st.integers(0, 6), st.integers(-600, 600)), max_size=20)


@given(limit=limits, steps=steps)
def test_whatever_seven_callers_take_and_give_back_another_one_may_take_some(limit, steps):
    held = Counter()
    for caller, change in steps:
        for _ in range(abs(change)):
            if change < 0 and held[caller]:
                held[caller] -= 1
            elif change > 0 and held.total() < limit and may_take(held[caller], held.total(), 1, limit):
                held[caller] += 1
    assert held.total() < limit
    assert may_take(0, held.total(), 1, limit)


@given(limit=limits)
def test_one_caller_alone_takes_all_but_the_reserve(limit):
    own = 0
    while own < limit and may_take(own, own, 1, limit):
        own += 1
    assert own == limit - limit // RESERVED


def test_large_bodies_of_one_caller_leave_bytes_for_those_of_others():
    in_flight, body = InFlight(512, GatewayMetrics(CollectorRegistry())), 2**22
    with contextlib.ExitStack() as held:
        for _ in range(56):
            held.enter_context(in_flight.count("production", "one", body))
        with pytest.raises(RequestRejected) as caught:
            held.enter_context(in_flight.count("production", "one", body))
        assert caught.value.problem.status == 429
        assert "of the 268435456 bytes of requests in flight" in caught.value.problem.message
        assert in_flight["production"] == 56
        held.enter_context(in_flight.count("production", "another", body))
    assert in_flight["production"] == 0


@given(limit=st.integers(1, RESERVED - 1), own=st.integers(0, 7))
def test_a_small_capacity_has_no_reserve(limit, own):
    assert may_take(own, own, 1, limit) == (own + 1 <= limit or own < max(1, limit // LITTLE))
