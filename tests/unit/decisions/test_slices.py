"""What a slice of live traffic shows of two versions."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import SliceCounts
from decisions.slices import (
    FEWEST,
    FEWEST_CALLERS,
    MOST_CALLERS,
    add_request,
    assess_callers,
    assess_slice,
    caller_key,
    describe,
    probability_of_worse,
    probability_within,
)
from testbed import factories as f

SLOW = f.trigger(metric="ttft_ms", threshold=800.0, allowed_ratio=0.05)


def counts(target_bad, target, other_bad, other):
    return SliceCounts(target_requests=target, target_bad=target_bad, other_requests=other, other_bad=other_bad)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (counts(60, 100, 0, 12), "target"),
        (counts(60, 100, 7, 12), "both"),
        (counts(60, 100, 12, 12), "both"),
        (counts(6, 100, 0, 12), "unknown"),
        (counts(0, 100, 0, 12), "unknown"),
        (counts(0, 100, 12, 12), "both"),
        (counts(100, 100, 0, FEWEST - 1), "unknown"),
        (counts(FEWEST - 1, FEWEST - 1, 0, 100), "unknown"),
        (counts(60, 100, 1, 12), "target"),
        (counts(20, 100, 1, 12), "unknown"),
        (counts(0, 0, 0, 0), "unknown"),
        (counts(54, 270, 2, 30), "unknown"),
        (counts(81, 270, 3, 30), "unknown"),
        (counts(54, 270, 6, 30), "both"),
    ],
)
def test_what_a_slice_shows(seen, verdict):
    assert assess_slice(seen, SLOW) == verdict


def test_the_probability_is_that_of_fishers_exact_test():
    for target_bad, target, other_bad, other in product((0, 2, 5), (5, 9), (0, 1, 4), (4, 7)):
        if target_bad > target or other_bad > other:
            continue
        bad, total = target_bad + other_bad, target + other
        ways = sum(
            math.comb(bad, hits) * math.comb(total - bad, target - hits)
            for hits in range(target_bad, min(bad, target) + 1)
            if target - hits <= total - bad
        )
        exact = ways / math.comb(total, target)
        assert probability_of_worse(counts(target_bad, target, other_bad, other)) == pytest.approx(exact, abs=1e-9)


def test_versions_that_are_alike_are_seldom_taken_for_different():
    """Over all splits of the bad requests that chance makes, weighted by their probability."""
    for target, other, bad in ((40, 10, 12), (200, 20, 30), (30, 30, 20)):
        total = target + other
        wrong = sum(
            math.comb(bad, hits) * math.comb(total - bad, target - hits) / math.comb(total, target)
            for hits in range(min(bad, target) + 1)
            if bad - hits <= other and assess_slice(counts(hits, target, bad - hits, other), SLOW) == "target"
        )
        assert wrong <= 0.01


SLOW_BOTH, SLOW_ACTIVE = counts(60, 100, 12, 12), counts(90, 100, 0, 30)


def part(whole, share):
    """Return a share of the requests of a slice."""
    return SliceCounts(**{name: int(value * share) for name, value in whole.model_dump().items()})


@pytest.mark.parametrize("whole", [SLOW_BOTH, SLOW_ACTIVE])
def test_what_all_callers_show_alike_counts(whole):
    callers = {name: part(whole, 0.25) for name in ("a", "b", "c", "d")}
    assert assess_callers(whole, callers, SLOW) == assess_slice(whole, SLOW) != "unknown"
    assert assess_callers(whole, {"a": whole}, SLOW) == assess_slice(whole, SLOW), "all are of one caller"


@pytest.mark.parametrize(
    ("of_others", "of_one"),
    [
        (counts(90, 100, 0, 30), counts(0, 0, 40, 40)),
        (counts(0, 100, 0, 30), counts(90, 100, 0, 30)),
    ],
)
def test_one_caller_carries_no_verdict(of_others, of_one):
    """It ended the bad answers of one version before they were counted, or made up those of the other."""
    whole = SliceCounts(**{name: value + getattr(of_one, name) for name, value in of_others.model_dump().items()})
    callers = {"one": of_one} | {name: part(of_others, 0.5) for name in ("a", "b")}
    assert assess_slice(whole, SLOW) != "unknown"
    assert assess_callers(whole, callers, SLOW) == "unknown"


HONEST = {f"key-{number}": counts(0, 20, 0, 6) for number in range(6)}


def whole_of(callers):
    names = SliceCounts().model_dump()
    return SliceCounts(**{name: sum(getattr(own, name) for own in callers.values()) for name in names})


@pytest.mark.parametrize(
    ("of_each", "carried"),
    [
        (counts(0, 0, 6, 6), "both"),
        (counts(40, 40, 0, 6), "target"),
    ],
)
def test_two_callers_together_carry_no_verdict(of_each, carried):
    """Each made up what one version answers badly, or ended what the other one does: neither carries it alone."""
    callers = HONEST | {"one": of_each, "two": of_each}
    assert len(callers) >= FEWEST_CALLERS
    whole = whole_of(callers)
    assert assess_slice(whole, SLOW) == carried
    assert all(assess_slice(whole_of({**callers, name: SliceCounts()}), SLOW) == carried for name in ("one", "two"))
    assert assess_callers(whole, callers, SLOW) == "unknown"


def test_a_caller_that_ends_what_one_version_answers_is_left_out_of_both_sides():
    slow = {f"key-{number}": counts(24, 40, 4, 6) for number in range(6)}
    chooser = {"chooser": counts(40, 40, 0, 40)}
    assert assess_callers(whole_of(slow), slow, SLOW) == "both"
    seen = slow | chooser
    assert assess_callers(whole_of(seen), seen, SLOW) != "both", "it takes its bad answers of the previous version away"
    assert assess_callers(whole_of(seen), seen, SLOW, {"chooser": 30}) == "both"
    assert assess_callers(whole_of(slow), slow, SLOW, {"key-1": 5}) == "both", "a tenth may be ended"
    assert assess_callers(whole_of(slow), slow, SLOW, dict.fromkeys(slow, 40)) == "unknown", "all are left out"


def test_many_callers_are_counted_under_so_many_names():
    names: dict[str, SliceCounts] = {}
    for number in range(1_000):
        key = caller_key(names, f"caller-{number}")
        names[key] = SliceCounts()
        assert caller_key(names, f"caller-{number}") == key
    assert len(names) == MOST_CALLERS


sides = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))


@given(target=sides, other=sides)
def test_more_bad_requests_of_a_side_never_speak_for_it(target, other):
    seen = counts(*target, *other)
    p = probability_of_worse(seen)
    assert 0.0 <= p <= 1.0
    if target[0] < target[1]:
        assert probability_of_worse(counts(target[0] + 1, target[1], *other)) <= p + 1e-9
    if other[0] < other[1]:
        assert probability_of_worse(counts(target[0], target[1], other[0] + 1, other[1])) >= p - 1e-9


def test_a_healthy_version_behind_seldom_holds_the_rollback_of_a_slow_one():
    """The active version has one bad request in five, the previous version one in 25, which the trigger allows."""
    held = 0.0
    for other_bad, target_bad in product(range(31), range(271)):
        if assess_slice(counts(target_bad, 270, other_bad, 30), SLOW) == "both":
            chance = math.comb(30, other_bad) * 0.04**other_bad * 0.96 ** (30 - other_bad)
            held += chance * math.comb(270, target_bad) * 0.2**target_bad * 0.8 ** (270 - target_bad)
    assert held <= 0.02


@given(bad=st.integers(0, 40), requests=st.integers(1, 40), limit=st.floats(0.0, 1.0))
def test_the_probability_within_a_limit_is_the_binomial_tail(bad, requests, limit):
    exact = sum(
        math.comb(requests, count) * limit**count * (1 - limit) ** (requests - count)
        for count in range(bad, requests + 1)
    )
    assert probability_within(bad, requests, limit) == pytest.approx(exact, abs=1e-9)


@given(target=sides, other=sides)
def test_only_a_version_behind_that_is_beyond_the_limit_holds_a_rollback(target, other):
    if assess_slice(counts(*target, *other), SLOW) == "both":
        assert other[0] / other[1] > 0.05


def test_requests_are_counted_by_side():
    seen = add_request(add_request(SliceCounts(), on_target=True, bad=True), on_target=False, bad=False)
    assert seen == counts(1, 1, 0, 1)
    assert describe(seen) == (
        "1 of 1 requests were beyond the threshold on the active version, 0 of 1 on the previous one"
    )
