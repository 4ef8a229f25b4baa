"""Whose pairs: no caller confirms alone, whatever it sends and when; two and three honest ones always can."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decisions.evidence import EQUAL_SHARE, EProcess, observe_process
from decisions.pair_callers import (
    LARGEST_ALPHA,
    MOST_CALLERS,
    RECENT_DIFFERING,
    RECENT_PAIRS,
    most_of_one_caller,
    needed_log_e,
    pairs_to_confirm,
)
from decisions.pairs import fresh_test, has_fired, is_confirmed, observe_mirrored
from testbed import factories as f

ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
ALPHAS = st.sampled_from([0.1, 0.05, 0.01, 0.001, 1e-6])
BAD, OTHER, GOOD = (True, False), (False, True), (False, False)
DIFFERING = st.tuples(st.booleans(), st.booleans(), st.sampled_from(["a", "b", "c", None]))


def observe(test, target, other, caller=None, alpha=ERRORS.alpha):
    return observe_mirrored(test, target=target, other=other, caller=caller, alpha=alpha)


def run(draws, *, canary=False, alpha=ERRORS.alpha, test=None):
    test = test or fresh_test(canary=canary)
    for draw in draws:
        test = observe(test, *draw, alpha=alpha)
    return test


def of(alpha, **changes):
    return ERRORS.model_copy(update={"alpha": alpha, **changes})


def mixed(seed, share, count, hostile=BAD, others=GOOD):
    """Return pairs of a hostile caller with a share of the traffic, and of twenty others."""
    draw = random.Random(seed)
    return [
        (*hostile, "mallory") if draw.random() < share else (*others, f"key-{draw.randrange(20)}") for _ in range(count)
    ]


# -- one caller --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0.02, 0.4), ALPHAS, st.booleans())
def test_one_caller_that_repeats_what_only_the_target_fails_confirms_and_raises_nothing(seed, share, alpha, canary):
    trigger, test = of(alpha, min_requests=1), fresh_test(canary=canary)
    for item in mixed(seed, share, 1500):
        test = observe(test, *item, alpha=alpha)
        assert not is_confirmed(trigger, test)
        assert not has_fired(trigger, test)
    assert test.counts.only_target == test.discordant.hits + test.capped
    assert test.pairs == 1500


def moved(test, side, alpha):
    """Return the test after a pair of the hostile caller and one of another, of which both sides are good."""
    return run([(*side, "mallory"), (*GOOD, "shop")], alpha=alpha, test=test)


def repeated(test, alpha, count):
    """Return the test after pairs bad on the target only, until they are left out."""
    for _ in range(count):
        before, test = test, moved(test, BAD, alpha)
        if test.capped > before.capped:
            break
    return test


@pytest.mark.parametrize(("alpha", "canary"), [(0.1, False), (0.01, False), (0.001, False), (0.01, True)])
def test_no_sequence_of_one_caller_confirms_also_where_some_of_it_speaks_for_the_target(alpha, canary):
    """A search for the sequence: of each length the two that lead furthest, for each part that the caller has left."""
    count, strongest = 2 * pairs_to_confirm(alpha, canary=canary), [fresh_test(canary=canary)]
    for _ in range(48):
        reached = {}
        for test, side in itertools.product(strongest, (BAD, OTHER)):
            after = moved(test, side, alpha)
            end = repeated(after, alpha, count)
            assert not is_confirmed(of(alpha), end)
            reached.setdefault(after.callers.known["mallory"].net, []).append((end.discordant.log_e, after))
        strongest = [
            test for tests in reached.values() for _, test in sorted(tests, key=lambda item: item[0], reverse=True)[:2]
        ]


@pytest.mark.parametrize("canary", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.03, LARGEST_ALPHA, 0.015, 0.01, 0.002, 0.001])
def test_nor_one_that_alternates_until_the_evidence_grows_no_more(alpha, canary):
    """The most that an e-detector can have while its caller has all of its part left."""
    test = run([(*side, name) for _ in range(120) for side, name in ((BAD, "mallory"), (OTHER, "mallory"))], alpha=1e-9)
    test = test if not canary else fresh_test(canary=True)
    quiet = run([(*GOOD, "shop")] * 600, alpha=alpha, test=test)
    end = repeated(quiet, alpha, 20)
    assert end.capped == 1
    assert not is_confirmed(of(alpha), end)


@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_a_burst_after_a_promotion_is_not_most_of_the_traffic(alpha):
    assert not is_confirmed(of(alpha), run([(*BAD, "mallory")] * (RECENT_PAIRS // 2 - 1), alpha=alpha))
    for seed in range(20):
        test = fresh_test(canary=False)
        for item in mixed(seed, 0.7, RECENT_PAIRS // 2 - 1):
            test = observe(test, *item, alpha=alpha)
            assert not is_confirmed(of(alpha), test)


def test_a_burst_into_the_traffic_of_others_is_not_most_of_it():
    before = [(*GOOD, f"key-{number % 10}") for number in range(1000)]
    for quiet in range(0, RECENT_PAIRS, 9):
        assert not is_confirmed(ERRORS, run([*before[quiet:], *([(*BAD, "mallory")] * 28)]))


def test_a_caller_that_is_forgotten_is_no_other_caller_when_it_returns():
    """It keeps the evidence from rest with pairs of another, until nothing is known of it any more."""
    part = [(*BAD, "mallory"), *mixed(1, 0.0, 1)] * 60 + [(*OTHER, "mallory")] * 6
    kept = run([*part, *([(*BAD, "b"), (*BAD, "b")]), *mixed(2, 0.0, 20 * RECENT_PAIRS)])
    assert "mallory" not in kept.callers.known
    assert kept.callers.target == sum(pairs.target for pairs in kept.callers.known.values())
    again = run(mixed(3, 0.3, 200), test=kept)
    assert again.callers.known["mallory"].net == most_of_one_caller(ERRORS.alpha, canary=False)


def test_a_caller_that_has_some_of_its_part_is_not_forgotten_while_it_sends_nothing():
    kept = run([(*GOOD, "shop"), *([(*BAD, "mallory")] * 4), *mixed(2, 0.0, 20 * RECENT_PAIRS)])
    assert kept.callers.known["mallory"].net == 4


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


# -- several callers ---------------------------------------------------------------------------------------------------


def honest(seed, callers, bad, count=700, differing=0.3):
    """Return pairs of callers that all meet the same regression: the share `bad` of those that differ shows it."""
    draw = random.Random(seed)
    for _ in range(count):
        side = (BAD if draw.random() < bad else OTHER) if draw.random() < differing else GOOD
        yield (*side, draw.choice(callers))


def needed(draws, alpha, *, canary=False, test=None):
    """Return how many pairs it takes to confirm; None if they do not."""
    test = test or fresh_test(canary=canary)
    for number, draw in enumerate(draws, 1):
        test = observe(test, *draw, alpha=alpha)
        if is_confirmed(of(alpha), test):
            return number
    return None


@pytest.mark.parametrize("canary", [False, True])
@pytest.mark.parametrize("alpha", [0.01, 0.001])
@pytest.mark.parametrize("bad", [0.85, 0.75])
@pytest.mark.parametrize("callers", ["ab", "abc", "aaabb"])
def test_a_few_honest_callers_confirm_a_regression_that_does_not_show_in_every_pair(callers, bad, alpha, canary):
    for seed in range(3):
        assert needed(honest(seed, callers, bad), alpha, canary=canary) is not None


@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_one_caller_does_not_keep_two_from_confirming_with_what_only_the_other_version_fails(alpha):
    """It has a tenth of the pairs; what it sends outweighs as many of theirs, and no more."""
    for seed in range(6):
        blocked = random.Random(seed)
        draws = ((*OTHER, "mallory") if blocked.random() < 0.1 else draw for draw in honest(seed, "ab", 0.85, 1500))
        assert needed(draws, alpha) is not None


def test_what_differed_before_a_regression_does_not_delay_it_for_long():
    """One caller keeps the evidence from rest, while versions that are alike differ for two others."""
    draw = random.Random(5)
    noise = [((*draw.choice([BAD, OTHER]), draw.choice("ab")), (*BAD, "c"), (*OTHER, "c")) for _ in range(1000)]
    before = run([pair for pairs in noise for pair in pairs], alpha=1e-9)
    assert before.callers.target + before.callers.other <= RECENT_DIFFERING
    assert needed(honest(1, "ab", 0.95, differing=1.0), 1e-9, test=before) < 2 * RECENT_DIFFERING


@pytest.mark.parametrize("canary", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01, 0.001, 1e-5, 1e-6])
def test_two_callers_confirm_what_one_cannot(alpha, canary):
    most = most_of_one_caller(alpha, canary=canary)
    quiet = list(itertools.repeat((*GOOD, "shop"), 100))
    assert most < pairs_to_confirm(alpha, canary=canary) <= 2 * most
    for callers, confirmed in (("a", False), ("ab", True)):
        bad = [(*BAD, caller) for caller in callers for _ in range(2 * most)]
        rested = [] if canary else [(*OTHER, "shop")] * 8  # an e-process keeps what outweighs it
        assert is_confirmed(of(alpha), run([*quiet, *rested, *bad], canary=canary, alpha=alpha)) == confirmed


def test_a_caller_with_most_of_the_traffic_is_not_limited():
    assert is_confirmed(ERRORS, run([(*GOOD, "shop")] * 64 + [(*BAD, "shop")] * 13))
    assert is_confirmed(ERRORS, run(mixed(3, 0.9, 100)))


def test_a_key_that_replaces_another_soon_has_most_of_the_traffic():
    before = run([(*GOOD, "old")] * 1000)
    assert needed([(*BAD, "new")] * RECENT_PAIRS, ERRORS.alpha, test=before) < RECENT_PAIRS


def test_a_caller_has_its_part_again_once_the_evidence_is_outweighed():
    outweighed = [(*BAD, "a")] * 6 + [(*OTHER, "b")] * 30
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


# -- several keys in one hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [2, 5, 50])
@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_keys_of_one_team_are_one_caller_and_keys_of_none_are_several(alpha, keys):
    confirmed = []
    for team in ("mallory", None):
        draw, test = random.Random(1), fresh_test(canary=False)
        for number in range(1500):
            hostile = draw.random() < 0.4
            caller = f"bad-{number % keys}" if hostile else f"key-{draw.randrange(20)}"
            holder = team if hostile else caller
            test = observe_mirrored(
                test, target=hostile, other=False, caller=caller, holder=holder or caller, alpha=alpha
            )
        confirmed.append(is_confirmed(of(alpha), test))
    assert confirmed == [False, True]


def test_a_key_is_limited_within_a_team_that_has_most_of_the_traffic():
    test = fresh_test(canary=False)
    for item in mixed(2, 0.3, 600):
        target, other, caller = item
        test = observe_mirrored(test, target=target, other=other, caller=caller, holder="shop", alpha=ERRORS.alpha)
    assert not is_confirmed(ERRORS, test)


@pytest.mark.parametrize("alpha", [0.02, 0.001, 1e-6])
def test_a_canary_is_confirmed_by_the_least_pairs_whose_evidence_suffices(alpha):
    pairs = pairs_to_confirm(alpha, canary=True)
    evidence = [observe_process(EProcess(), EQUAL_SHARE, [True] * number).log_e for number in (pairs - 1, pairs)]
    assert evidence[0] < needed_log_e(alpha) <= evidence[1]
