"""A candidate passes and fails with the declared probabilities, whichever callers it has and whenever one looks."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from contracts.policy import PASS_BETA, Canary
from decisions.evidence.block_tests import BLOCK_S, GRACE_S
from decisions.evidence.candidates import CandidateState, add_beside, close_candidate, judge
from decisions.evidence.observation import TriggerState
from decisions.evidence.observe_loop import assess_trigger
from decisions.evidence.triggers import Outcome
from decisions.evidence.version_tests import MOST_KEYS, CandidateTest
from testbed import factories as k

SEED, RUNS = 31, 100
BEGIN = datetime(2026, 12, 1, tzinfo=UTC)
LIMIT = 0.1
TRIGGER = k.trigger(name="errors", metric="error_ratio", threshold=LIMIT, alpha=0.01)
DEADLINE_S = Canary().deadline_s


def outcomes(draw, at, count, share, callers):
    return [
        Outcome(bad=draw.random() < share, at=at, ended_at=at, drill=None, holder=f"key-{draw.randrange(callers)}")
        for _ in range(count)
    ]


def until_verdict(share, seed, *, callers, active=LIMIT / 4):
    """Return the first verdict of a candidate that is looked at after each block, and after how many seconds."""
    draw, state = random.Random(seed), CandidateState()
    for second in range(0, int(DEADLINE_S), BLOCK_S):
        at = BEGIN + timedelta(seconds=second)
        own = outcomes(draw, at, draw.randint(0, 3), share, callers)
        state = add_beside(state, own, outcomes(draw, at, 6, active, callers))
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
        verdict = judge(state, TRIGGER, PASS_BETA)
        if verdict in ("pass", "fail"):
            return verdict, second
    return "undecided", DEADLINE_S


@pytest.mark.parametrize("callers", [1, 5])
def test_twice_the_limit_passes_in_one_of_twenty_and_a_good_candidate_before_its_deadline(callers):
    verdicts = {
        share: [until_verdict(share, f"{SEED}:{run}", callers=callers) for run in range(RUNS)]
        for share in (2 * LIMIT, LIMIT / 4)
    }
    for share, of in verdicts.items():
        counts = {verdict: sum(each == verdict for each, _ in of) for verdict in ("pass", "fail", "undecided")}
        print(
            f"seed {SEED}, {callers} callers, limit {LIMIT:g}: {share:g} bad: {counts}, last {max(s for _, s in of)} s"
        )
    bad, good = ([verdict for verdict, _ in of] for of in verdicts.values())
    assert bad.count("pass") <= PASS_BETA * RUNS
    assert good.count("pass") >= 0.99 * RUNS


def until_failed(seed, good_blocks):
    """Return after how many seconds a candidate fails that becomes bad, four times its limit, after so many blocks."""
    draw, state = random.Random(seed), CandidateState()
    for block in range(good_blocks + 450):
        at = BEGIN + timedelta(seconds=block * BLOCK_S)
        own = outcomes(draw, at, draw.randint(0, 4), LIMIT / 4 if block < good_blocks else 4 * LIMIT, 5)
        state = add_beside(state, own, outcomes(draw, at, 6, LIMIT / 4, 5))
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
        if judge(state, TRIGGER, PASS_BETA) == "fail":
            return (block + 1 - good_blocks) * BLOCK_S
    return math.inf


def test_a_candidate_that_becomes_bad_after_a_good_hour_fails_in_twice_the_time_of_one_that_was_bad_at_once():
    at_once, later = (sorted(until_failed(f"{SEED}:{run}", blocks) for run in range(9)) for blocks in (0, 1800))
    print(f"seed {SEED}: fails after {at_once[4]} s (median of 9), after a good hour after {later[4]} s")
    assert at_once[0] > 0
    assert later[0] > 0, "failed while it was good"
    assert later[4] <= 2.5 * at_once[4]


def with_both_bad(seed, *, alone, after=0.4, lasts_s=120, again_s=10**9):
    """Return the verdict on a candidate, both bad in 40 %, after a minute in which the active version has it alone.

    `after`: the share on both when its traffic is back, for `lasts_s`; from `again_s` on both are bad again.
    """
    draw, state = random.Random(seed), CandidateState()
    for second in range(0, 370 + lasts_s, BLOCK_S):
        at = BEGIN + timedelta(seconds=second)
        is_away, share = 300 <= second < 370, after if 300 <= second < again_s else 0.4
        own = outcomes(draw, at, 0 if is_away else 2, share, 5)
        state = add_beside(state, own, outcomes(draw, at, 6, alone if is_away else share, 5))
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
        if second == 290:
            assert judge(state, TRIGGER, PASS_BETA) == "load"
            until_s = int(BEGIN.timestamp()) + 370
            state = state.model_copy(update={"away_until_s": until_s})
    return judge(state, TRIGGER, PASS_BETA)


@pytest.mark.parametrize(("alone", "expected"), [(0.0, "fail"), (LIMIT / 4, "fail"), (0.4, "load")])
def test_a_candidate_without_which_the_active_version_recovers_fails_and_under_load_it_waits(alone, expected):
    verdicts = [with_both_bad(f"{SEED}:{run}", alone=alone) for run in range(20)]
    print(f"seed {SEED}: both bad in 40 %, {alone:g} alone: {verdicts.count(expected)} of 20 {expected}")
    assert verdicts.count(expected) >= 19


@pytest.mark.parametrize("lasts_s", [2, 20, 120])
def test_a_load_that_ends_while_the_candidate_is_away_fails_no_good_one(lasts_s):
    ended = [with_both_bad(f"{SEED}:{run}", alone=0.0, after=LIMIT / 4, lasts_s=lasts_s) for run in range(3)]
    assert ended == ["undecided"] * 3


def test_a_load_half_an_hour_after_one_that_ended_meanwhile_is_another_one():
    assert with_both_bad(SEED, alone=0.0, after=LIMIT / 4, again_s=1600, lasts_s=1330) == "load"


def test_no_caller_passes_a_candidate_that_fails_the_others():
    """One of six sends 18 of 19 requests, none of which fails; of those of the others one in five does."""
    draw, state = random.Random(SEED), CandidateState()
    for second in range(0, 1200, BLOCK_S):
        at = BEGIN + timedelta(seconds=second)
        own = outcomes(draw, at, 18, 0.0, 1) + outcomes(draw, at, 2, 2 * LIMIT, 6)[1:]
        beside = outcomes(draw, at, 6, 0.0, 6)
        state = add_beside(state, own, beside)
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
        assert judge(state, TRIGGER, PASS_BETA) != "pass"
    assert state.heaviest == "key-0"
    assert state.everyone.test.passing.crossed(PASS_BETA)


def heaviest_is_bad(state, seconds, draw, *, others):
    """Return a candidate whose heaviest caller, of 19 of 20 requests, always fails; of the others' a share does."""
    for second in seconds:
        at = BEGIN + timedelta(seconds=second)
        own = outcomes(draw, at, 19, 1.0, 1) + outcomes(draw, at, 2, others, 6)[1:]
        state = add_beside(state, own, outcomes(draw, at, 6, 0.0, 6))
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
    return state


def test_a_candidate_that_fails_its_main_caller_fails():
    state = heaviest_is_bad(CandidateState(), range(0, 20, BLOCK_S), random.Random(SEED), others=0.0)
    assert judge(state, TRIGGER, PASS_BETA) == "fail"


def test_what_one_caller_alone_fails_with_fails_nothing_once_the_others_pass():
    """One of six is the heaviest, and begins to fail after a quarter of an hour in which all is well."""
    draw, state = random.Random(SEED), CandidateState()
    for second in range(0, 900, BLOCK_S):
        at = BEGIN + timedelta(seconds=second)
        own = outcomes(draw, at, 18, 0.0, 1) + outcomes(draw, at, 2, 0.0, 6)
        state = add_beside(state, own, outcomes(draw, at, 6, 0.0, 6))
        state, _ = close_candidate(state, TRIGGER, at + timedelta(seconds=BLOCK_S + GRACE_S))
    state = heaviest_is_bad(state, range(900, 1800, BLOCK_S), draw, others=0.0)
    assert judge(state, TRIGGER, PASS_BETA) == "undecided"
    assert [is_fired(state, beta) for beta in (PASS_BETA, 1e-300)] == [False, True], "an alert decides as the verdict"


def is_fired(state, beta):
    return assess_trigger(TRIGGER, TriggerState(candidate=state), BEGIN, line=math.inf, beta=beta).fired


def test_of_many_callers_those_with_most_requests_are_counted():
    state = CandidateState()
    for number in range(200):
        own = [Outcome(bad=False, at=BEGIN, ended_at=BEGIN, drill=None, holder=name) for name in ("many", str(number))]
        state = add_beside(state, own, ())
    assert (len(state.callers), state.callers["many"]) == (MOST_KEYS, 200)


def test_with_another_share_only_the_evidence_for_passing_is_kept():
    state = heaviest_is_bad(CandidateState(), range(0, 20, BLOCK_S), random.Random(SEED), others=0.0)
    begun = state.begun_anew()
    assert begun.everyone.test == CandidateTest(passing=state.everyone.test.passing)
    assert begun.others.test == CandidateTest(passing=state.others.test.passing)
    assert (begun.callers, begun.candidate) == (state.callers, state.candidate)
