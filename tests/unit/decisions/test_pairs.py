"""Pairs: only what differs is evidence, and no caller, load or machine can raise it."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import MirroredPair
from decisions.pair_callers import MOST_CALLERS, RECENT_PAIRS, most_of_one_caller, pairs_to_confirm
from decisions.pairs import fresh_test, has_fired, is_confirmed, observe_mirrored, outcomes_of_pair
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
SLOW = f.trigger(name="slow", metric="ttft_ms", threshold=800.0)


ALPHAS = st.sampled_from([0.1, 0.05, 0.01, 0.001, 1e-6])
BAD, GOOD = (True, False), (False, False)


def observe(test, target, other, caller=None, alpha=ERRORS.alpha):
    return observe_mirrored(test, target=target, other=other, caller=caller, alpha=alpha)


def run(draws, *, canary=False, alpha=ERRORS.alpha):
    test = fresh_test(canary=canary)
    for draw in draws:
        test = observe(test, *draw, alpha=alpha)
    return test


def mixed(seed, share, count, hostile=BAD, others=GOOD):
    """Return pairs of a hostile caller with a share of the traffic, and of twenty others."""
    draw = random.Random(seed)
    return [
        (*hostile, "mallory") if draw.random() < share else (*others, f"key-{draw.randrange(20)}") for _ in range(count)
    ]


def pair(served=None, mirrored=None):
    plain = {"drill": None, "error": None, "canary": False}
    return MirroredPair(
        served=f.inference(target=f.target(7), **plain | (served or {})),
        mirrored=f.inference(target=f.target(6), **plain | (mirrored or {})),
    )


@given(st.lists(st.booleans(), max_size=200))
def test_what_both_versions_do_is_evidence_against_nobody(outcomes):
    test = run([(bad, bad) for bad in outcomes])
    assert test.discordant == fresh_test(canary=False).discordant
    assert (test.both, test.neither) == (sum(outcomes), len(outcomes) - sum(outcomes))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=100), st.integers(0, 10))
def test_pairs_that_do_not_differ_change_nothing_wherever_they_come(pairs, seed):
    """Whoever floods both versions with requests that both fail neither raises nor delays an alarm."""
    flooded = [
        item for differing in pairs for item in (differing, *([(True, True)] * random.Random(seed).randrange(3)))
    ]
    assert run(flooded).discordant == run(pairs).discordant


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_alike_versions_are_alarmed_about_at_most_as_often_as_alpha_allows(seed):
    """An e-process on a canary's pairs: both sides fail at ratios that vary with the hour, and alike."""
    draw, alarms, runs = random.Random(seed), 0, 200
    for _ in range(runs):
        test = fresh_test(canary=True)
        for number in range(300):
            ratio = 0.5 if number % 100 < 50 else 0.05
            test = observe(test, draw.random() < ratio, draw.random() < ratio, draw.choice("abcd"), alpha=0.05)
        alarms += has_fired(ERRORS.model_copy(update={"alpha": 0.05}), test)
    assert alarms / runs < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_an_active_target_as_good_as_the_one_behind_runs_long_without_an_alarm():
    draw = random.Random(7)
    test = run([(draw.random() < 0.3, draw.random() < 0.3) for _ in range(20_000)])
    assert not has_fired(ERRORS, test)


def test_a_version_that_fails_what_the_other_answers_is_found_within_a_few_pairs():
    test, needed = fresh_test(canary=False), 0
    while not has_fired(ERRORS, test):
        test, needed = observe(test, True, False), needed + 1
    assert needed == ERRORS.min_requests
    assert is_confirmed(ERRORS, run([(True, False)] * 13))
    assert not is_confirmed(ERRORS, run([(True, False)] * 9))


def test_a_confirmation_ends_once_the_other_version_is_the_worse_one():
    test = run([(True, False)] * 13 + [(False, True)] * 13)
    assert not is_confirmed(ERRORS, test)


def test_pairs_never_raise_an_alarm_about_latency_but_confirm_it():
    test = run([(True, False)] * 100)
    assert not has_fired(SLOW, test)
    assert is_confirmed(SLOW, test)


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


# -- no caller alone ---------------------------------------------------------------------------------------------------

DIFFERING = st.tuples(st.booleans(), st.booleans(), st.sampled_from(["a", "b", "c", None]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0.02, 0.4), ALPHAS, st.booleans())
def test_one_caller_that_repeats_what_only_the_target_fails_confirms_and_raises_nothing(seed, share, alpha, canary):
    trigger, test = ERRORS.model_copy(update={"alpha": alpha, "min_requests": 1}), fresh_test(canary=canary)
    for item in mixed(seed, share, 1500):
        test = observe(test, *item, alpha=alpha)
        assert not is_confirmed(trigger, test)
        assert not has_fired(trigger, test)
    assert test.counts.only_target == test.discordant.hits + test.capped
    assert test.pairs == 1500


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.4))
def test_nor_if_it_alternates_with_what_only_the_other_version_fails(seed, share):
    draw, test = random.Random(seed), fresh_test(canary=False)
    for target, other, caller in mixed(seed, share, 1500):
        sides = draw.choice([BAD, BAD, (False, True)]) if caller == "mallory" else (target, other)
        test = observe(test, *sides, caller)
        assert not is_confirmed(ERRORS, test)


@given(st.lists(DIFFERING, max_size=120), ALPHAS, st.booleans())
def test_what_is_left_out_never_makes_the_evidence_stronger(draws, alpha, canary):
    """So its guarantees for versions that are alike hold."""
    capped, whole = fresh_test(canary=canary), fresh_test(canary=canary)
    for target, other, caller in draws:
        capped = observe(capped, target, other, caller, alpha=alpha)
        whole = observe(whole, target, other, None, alpha=alpha)
        assert capped.discordant.log_e <= whole.discordant.log_e + 1e-9
        assert capped.discordant.peak <= whole.discordant.peak + 1e-9
        assert capped.counts == whole.counts


@pytest.mark.parametrize("canary", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01, 0.001, 1e-5, 1e-6])
def test_two_callers_confirm_what_one_cannot(alpha, canary):
    trigger, most = ERRORS.model_copy(update={"alpha": alpha}), most_of_one_caller(alpha, canary=canary)
    quiet = list(itertools.repeat((*GOOD, "shop"), 40))
    assert most < pairs_to_confirm(alpha, canary=canary) <= 2 * most
    for callers, confirmed in (("a", False), ("ab", True)):
        bad = [(*BAD, caller) for caller in callers for _ in range(2 * most)]
        rested = [] if canary else [(False, True, "shop")] * 8  # an e-process keeps what outweighs it
        assert is_confirmed(trigger, run([*quiet, *rested, *bad], canary=canary, alpha=alpha)) == confirmed


def test_a_caller_with_most_of_the_traffic_is_not_limited():
    assert is_confirmed(ERRORS, run([(*GOOD, "shop")] * 20 + [(*BAD, "shop")] * 13))
    assert is_confirmed(ERRORS, run(mixed(3, 0.9, 60)))


def test_a_key_that_replaces_another_soon_has_most_of_the_traffic():
    before = [(*GOOD, "old")] * 5000
    needed = next(count for count in range(200) if is_confirmed(ERRORS, run(before + [(*BAD, "new")] * count)))
    assert needed < RECENT_PAIRS


def test_a_caller_has_its_part_again_once_the_evidence_is_outweighed():
    outweighed = [(*BAD, "a")] * 6 + [(False, True, "b")] * 30
    assert {pairs.net for pairs in run(outweighed).callers.known.values()} == {0}
    again = run([*outweighed, *([(*BAD, "a")] * 6)])
    assert again.capped == 0
    assert not is_confirmed(ERRORS, again)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_callers_that_are_known_are_bounded_and_a_hostile_one_is_not_forgotten(seed):
    draw, test = random.Random(seed), fresh_test(canary=False)
    for number in range(600):
        target = draw.random() < 0.2
        caller = "mallory" if target else f"key-{draw.randrange(300)}"
        test = observe(test, target, False, caller)
        assert len(test.callers.known) <= MOST_CALLERS
        assert sum(pairs.recent for pairs in test.callers.known.values()) <= test.callers.recent <= RECENT_PAIRS + 1
        assert number < 100 or test.callers.known["mallory"].net == most_of_one_caller(ERRORS.alpha, canary=False)
    assert not is_confirmed(ERRORS, test)
