"""A capacity that callers share: a few of them never take all of it, and one alone takes most of it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.capacity import LITTLE, RESERVED, may_take

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


@given(limit=st.integers(1, RESERVED - 1), own=st.integers(0, 7))
def test_a_small_capacity_has_no_reserve(limit, own):
    assert may_take(own, own, 1, limit) == (own + 1 <= limit or own < max(1, limit // LITTLE))
