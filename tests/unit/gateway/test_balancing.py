"""The endpoint of a request, the time of an ejection, and what a failure shows of an endpoint."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evidence.attribution import ErrorKind
from services.gateway.domain.balancing import (
    FIRST_S,
    LONGEST_S,
    Ejection,
    assess_failure,
    choose_endpoint,
    count_outstanding,
)
from services.gateway.domain.records import AnswerFailed
from services.gateway.domain.routing import order_endpoints
from testbed.factories import served

NAMES = ("a:1", "b:1", "c:1", "d:1")
endpoints = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)
tokens = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 100_000))
ejections = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 100).map(lambda at: Ejection.begin(float(at))))


@given(endpoints, tokens, ejections)
def test_one_that_is_not_ejected_and_has_least_outstanding_takes_a_request(order, outstanding, ejected):
    chosen = choose_endpoint(order, outstanding, ejected)
    usable = [endpoint for endpoint in order if endpoint not in ejected]
    assert chosen in (usable or order), "ejection alone refuses no request"
    for other in usable:
        assert outstanding.get(chosen, 0) <= outstanding.get(other, 0)
    for other in order if not usable else ():
        assert ejected[chosen].since_s <= ejected[other].since_s


@given(endpoints, tokens, ejections)
def test_the_choice_is_deterministic_and_the_first_of_equal_ones(order, outstanding, ejected):
    chosen = choose_endpoint(order, outstanding, ejected)
    assert choose_endpoint(order, outstanding, ejected) == chosen
    for other in order[: order.index(chosen)]:
        assert other in ejected or outstanding.get(other, 0) > outstanding.get(chosen, 0)


@given(st.lists(st.integers(1, 4000), min_size=50, max_size=300))
def test_no_endpoint_gets_far_more_than_another(sizes):
    target, outstanding = served(7, endpoints=NAMES[:3]), dict.fromkeys(NAMES[:3], 0)
    for number, size in enumerate(sizes):
        outstanding[choose_endpoint(order_endpoints(target, f"id{number}"), outstanding, {})] += size
    assert max(outstanding.values()) - min(outstanding.values()) <= max(sizes)


def test_equal_endpoints_share_the_requests():
    target = served(7, endpoints=NAMES[:2])
    chosen = [choose_endpoint(order_endpoints(target, f"id{number}"), {}, {}) for number in range(1000)]
    assert 420 < chosen.count("a:1") < 580


@given(st.integers(0, 2000), st.floats(0, 1e9))
def test_an_ejection_grows_with_each_failed_check_up_to_its_limit(failed, now_s):
    ejection = Ejection.begin(now_s)
    assert ejection.check_s == now_s + FIRST_S
    waits = []
    for _ in range(min(failed, 40)):
        ejection = ejection.extend(now_s)
        waits.append(ejection.check_s - now_s)
    assert ejection.since_s == now_s
    assert waits == sorted(waits)
    assert all(FIRST_S <= round(wait, 3) <= LONGEST_S for wait in waits)
    assert Ejection(0.0, 0.0, failed).extend(0.0).check_s <= LONGEST_S


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_is_outstanding_falls_with_each_token_and_never_vanishes_before_the_end(prompt, most, generated):
    now, later = (count_outstanding(prompt, most, count) for count in (generated, generated + 1))
    assert now >= later >= 1
    assert count_outstanding(prompt, most, 0) <= max(1, prompt + most)


def failed(kind, *, silent_s=None, is_cut=False):
    failure = AnswerFailed(kind, "x", silent_s=silent_s)
    failure.is_cut = is_cut
    return failure


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_only_what_no_request_causes_while_its_engine_lives_ejects(kind):
    expected = {"endpoint_unreachable": "away", "engine_dead": "away"}
    doubtful = dict.fromkeys(("engine_failed", "no_first_token"), "doubtful")
    assert assess_failure(failed(kind)) == ({**expected, **doubtful}).get(kind, "well")


def test_silence_and_answers_that_break_off_are_no_proof():
    assert assess_failure(failed("engine_dead", silent_s=20.0)) == "doubtful"
    assert assess_failure(failed("engine_dead", is_cut=True)) == "doubtful"
