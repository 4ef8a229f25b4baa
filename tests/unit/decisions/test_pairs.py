"""Pairs: only what differs is evidence, and no caller, load or machine can raise it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import MirroredPair
from decisions.pairs import MirrorTest, has_fired, observe_mirrored, outcomes_of_pair
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0)


def observe(test, target, other, holder="a", alpha=ERRORS.alpha):
    return observe_mirrored(test, target=target, other=other, holder=holder, alpha=alpha)


def run(draws, *, alpha=ERRORS.alpha):
    """Return a test with pairs of many callers, one after the other."""
    test = MirrorTest()
    for number, draw in enumerate(draws):
        test = observe(test, *draw, holder=f"team-{number % 50}", alpha=alpha)
    return test


def pair(served=None, mirrored=None):
    plain = {"drill": None, "error": None, "canary": False}
    return MirroredPair(
        served=f.inference(target=f.target(7), **plain | (served or {})),
        mirrored=f.inference(target=f.target(6), **plain | (mirrored or {})),
    )


@given(st.lists(st.booleans(), max_size=200))
def test_what_both_versions_do_is_evidence_against_nobody(outcomes):
    test = run([(bad, bad) for bad in outcomes])
    assert test.discordant == MirrorTest().discordant
    assert (test.both, test.neither) == (sum(outcomes), len(outcomes) - sum(outcomes))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=100), st.integers(0, 10))
def test_pairs_that_do_not_differ_change_nothing_wherever_they_come(pairs, seed):
    """Whoever floods both versions with requests that both fail neither raises nor delays an alarm."""
    flooded = [
        item for differing in pairs for item in (differing, *([(True, True)] * random.Random(seed).randrange(3)))
    ]
    assert run(flooded).discordant == run(pairs).discordant


@pytest.mark.parametrize("callers", ["ab", "abc"])
@settings(deadline=None, max_examples=2)
@given(st.integers(0, 10**6))
def test_alike_versions_are_alarmed_about_at_most_as_often_as_alpha_allows(callers, seed):
    """An e-process on a canary's pairs: both sides fail at ratios that vary with the hour, and alike."""
    draw, alarms, runs, alpha = random.Random(seed), 0, 200, 0.02
    for _ in range(runs):
        test = MirrorTest()
        for number in range(300):
            ratio = 0.5 if number % 100 < 50 else 0.05
            test = observe(test, draw.random() < ratio, draw.random() < ratio, draw.choice(callers), alpha=alpha)
        alarms += has_fired(ERRORS.model_copy(update={"alpha": alpha}), test)
    assert alarms / runs < alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5


def test_a_version_that_fails_what_the_other_answers_is_found_within_a_few_pairs():
    assert not has_fired(ERRORS, run([(True, False)] * (ERRORS.min_requests - 1)))
    assert has_fired(ERRORS, run([(True, False)] * ERRORS.min_requests))


def test_pairs_are_no_evidence_of_latency():
    assert not has_fired(SLOW, run([(True, False)] * 100))


def test_one_caller_alone_fails_no_version_unless_most_pairs_are_its_own():
    test = MirrorTest()
    for _ in range(500):
        test = observe(test, True, False, "repeats")
        test = observe(test, False, False, "others-1")
        test = observe(test, False, False, "others-2")
    assert not has_fired(ERRORS, test)
    assert test.counts.only_target == 500
    alone = MirrorTest()
    for _ in range(500):
        alone = observe(alone, True, False, "repeats")
    assert has_fired(ERRORS, alone)


def test_a_second_caller_that_meets_the_same_fails_it():
    test = MirrorTest()
    for _ in range(100):
        for holder in ("a", "b"):
            test = observe(test, True, False, holder)
        for other in range(4):
            test = observe(test, False, False, f"others-{other}")
    assert has_fired(ERRORS, test)


@pytest.mark.parametrize(
    ("served", "mirrored", "outcomes"),
    [
        ({}, {}, (False, False)),
        ({"error": "engine_failed", "caused_by": "target"}, {}, (True, False)),
        (
            {"error": "engine_failed", "caused_by": "target"},
            {"error": "engine_failed", "caused_by": "target"},
            (True,) * 2,
        ),
        ({}, {"error": "deadline_exceeded", "caused_by": "infrastructure"}, None),
        ({"finish_reason": "cancelled", "caused_by": "caller"}, {}, None),
    ],
)
def test_what_a_pair_shows_of_errors(served, mirrored, outcomes):
    assert outcomes_of_pair(ERRORS, pair(served, mirrored)) == outcomes


def test_the_time_in_the_queue_is_no_difference_of_the_versions():
    """A flood of long prompts makes the active version's queue long, and that of the version behind not."""
    waited = pair({"ttft_ms": 5000.0, "queue_ms": 4900.0}, {"ttft_ms": 110.0, "queue_ms": 0.0})
    slow = pair({"ttft_ms": 5000.0, "queue_ms": 10.0}, {"ttft_ms": 110.0, "queue_ms": 0.0})
    assert outcomes_of_pair(SLOW, waited) == (False, False)
    assert outcomes_of_pair(SLOW, slow) == (True, False)
