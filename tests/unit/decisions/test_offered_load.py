"""Whether the load that callers offer has risen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.offered_load import BEFORE_S, RECENT_S, Offered, add_offered, has_risen

NOW_S = 1_000.0
WHOLE_S = RECENT_S + BEFORE_S


def offered(before_rps, recent_rps, *, before_tokens=10, recent_tokens=10, at_s=NOW_S):
    """Return what was offered: a rate for a minute, then another for half a minute."""
    buckets = {}
    for second in range(int(WHOLE_S)):
        is_recent = second >= BEFORE_S
        count, tokens = (recent_rps, recent_tokens) if is_recent else (before_rps, before_tokens)
        load = Offered(count, count * tokens)
        buckets = add_offered(buckets, load, at_s - WHOLE_S + second)
    return buckets


@pytest.mark.parametrize(
    ("buckets", "risen"),
    [
        (offered(4, 4), False),
        (offered(4, 8), True),
        (offered(4, 5), False),
        (offered(0, 4), True),
        (offered(0, 0), False),
        (offered(8, 4), False),
        (offered(4, 4, recent_tokens=40), True),
        (offered(4, 4, recent_tokens=12), False),
        (offered(4, 4, before_tokens=0, recent_tokens=0), False),
        ({}, False),
    ],
)
def test_a_rise_is_one_by_half_of_requests_or_of_their_tokens(buckets, risen):
    assert has_risen(buckets, NOW_S, WHOLE_S) == risen


def test_a_process_that_began_a_moment_ago_knows_of_no_rise():
    assert not has_risen(offered(0, 50), NOW_S, WHOLE_S - 1)


def test_a_few_requests_are_no_load():
    buckets = add_offered({}, Offered(9, 90_000), NOW_S - 5)
    assert not has_risen(buckets, NOW_S, WHOLE_S)
    assert has_risen(add_offered({}, Offered(10, 10), NOW_S - 5), NOW_S, WHOLE_S)


@pytest.mark.parametrize(("huge", "risen"), [(1, False), (3, False), (5, True)])
def test_a_few_huge_prompts_are_no_rise(huge, risen):
    buckets = offered(4, 4)
    for _ in range(huge):
        buckets = add_offered(buckets, Offered(1, 100_000, 100_000), NOW_S - 5)
    assert has_risen(buckets, NOW_S, WHOLE_S) == risen


def test_what_is_old_is_left_out():
    buckets = add_offered(offered(4, 8), Offered(1, 1), NOW_S + 500)
    assert list(buckets.values()) == [Offered(1, 1)]


@given(rps=st.integers(1, 40), tokens=st.integers(1, 500), at_s=st.floats(200, 1e6))
def test_a_steady_load_is_no_rise_whatever_the_clock_shows(rps, tokens, at_s):
    buckets = offered(rps, rps, before_tokens=tokens, recent_tokens=tokens, at_s=at_s)
    assert not has_risen(buckets, at_s, WHOLE_S)
