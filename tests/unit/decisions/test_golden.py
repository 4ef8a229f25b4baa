"""Golden prompts: what an answer lacks, and when falls of the version are shown."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import GoldenOutcome
from contracts.golden import Expectation, GoldenPrompt, GoldenPrompts
from decisions.evidence import golden as g
from testbed import factories as f

NOW = f.START
NAMES = ("a", "b", "c")


def declared(*, names=NAMES, **changes):
    prompts = tuple(GoldenPrompt(name=name, prompt="?", expect=Expectation(contains=("ok",))) for name in names)
    return GoldenPrompts(prompts=prompts, **changes)


@pytest.mark.parametrize(
    ("expect", "good", "bad", "fault"),
    [
        ({"equals": "4"}, " 4\n", "4.", "it is not '4'"),
        ({"equals": "Yes", "ignore_case": True}, "yes", "no", "it is not 'Yes'"),
        ({"contains": ["Paris", "France"]}, "Paris is in France", "Paris", "it does not contain 'France'"),
        ({"contains": ["PARIS"], "ignore_case": True}, "Paris", "London", "it does not contain 'PARIS'"),
        ({"contains": ["Paris"]}, "Paris", "paris", "it does not contain 'Paris'"),
        ({"excludes": ["I cannot"]}, "Of course", "I cannot do that", "it contains 'I cannot'"),
        ({"min_chars": 3}, "abc", " ab ", "it has 2 characters, fewer than 3"),
        ({"max_chars": 3}, "abc", "abcd", "it has 4 characters, more than 3"),
        ({"max_chars": 3}, "abc", " \n", "it is empty"),
        ({"excludes": ["I cannot"]}, "Of course", "", "it is empty"),
        ({"equals": "Straße", "ignore_case": True}, "STRASSE", "", "it is not 'Straße'"),
    ],
)
def test_what_an_answer_lacks(expect, good, bad, fault):
    expected = Expectation(**expect)
    assert g.find_fault(expected, good) is None
    assert g.find_fault(expected, bad) == fault


def test_an_answer_that_did_not_come_shows_nothing():
    prompt = declared().prompts[0]
    outcome = g.judge_answers(prompt, None, g.GoldenReply("ok"))
    assert (outcome.target, outcome.other, outcome.has_fallen) == (None, True, False)
    assert not g.judge_answers(prompt, g.GoldenReply("no"), None).has_fallen
    assert g.judge_answers(prompt, g.GoldenReply("no"), g.GoldenReply("ok")).has_fallen
    assert not g.judge_answers(prompt, g.GoldenReply("no"), g.GoldenReply("no")).has_fallen


FELL, PASS, BOTH, WORSE, SILENT, NO_OTHER = (
    (False, True),
    (True, True),
    (False, False),
    (True, False),
    (None, True),
    (
        False,
        None,
    ),
)


def checked(*rounds, golden=None, other=6, every_s=60.0):
    """Return what checks show, each of (target, other) for each prompt, one every minute; and when the last ended."""
    golden = golden or declared()
    behind = f.target(other) if other is not None else None
    checks, now = None, NOW
    for outcomes in rounds:
        checks = g.begin(checks, f.target(7), behind, now)
        named = zip(golden.prompts, outcomes, strict=False)
        results = [GoldenOutcome(name=prompt.name, target=t, other=o) for prompt, (t, o) in named]
        checks = g.note_check(checks, golden, results, now)
        now += timedelta(seconds=every_s)
    return checks, now


def shown(*rounds, golden=None):
    checks, _ = checked(*rounds, golden=golden)
    return checks is not None and checks.agreeing >= g.AGREEING


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([], False),
        ([[FELL, PASS, PASS]], False),
        ([[FELL, PASS, PASS]] * 2, True),
        ([[FELL, PASS, PASS], [PASS, FELL, PASS]], False),
        ([[FELL, FELL, PASS], [PASS, FELL, PASS]], True),
        ([[FELL, PASS, PASS], [PASS, PASS, PASS], [FELL, PASS, PASS]], False),
        ([[FELL, PASS, PASS]] * 2 + [[PASS] * 3], False),
        ([[BOTH, BOTH, PASS]] * 3, False),
        ([[BOTH, FELL, PASS]] * 2, True),
        ([[WORSE] * 3] * 3, False),
        ([[PASS] * 3] * 3, False),
        ([[SILENT] * 3] * 3, False),
        ([[NO_OTHER] * 3] * 3, False),
        ([[FELL, PASS, PASS], [SILENT] * 3, [FELL, PASS, PASS]], True),
        ([[FELL, PASS, PASS], [NO_OTHER, PASS, PASS], [PASS] * 3], False),
    ],
)
def test_two_checks_in_a_row_must_show_the_same_fall(rounds, expected):
    assert shown(*rounds) == expected


def test_a_number_of_falls_may_be_allowed():
    golden = declared(allowed_falls=1)
    assert shown(*[[FELL, PASS, PASS]] * 5, golden=golden) is False
    assert shown(*[[FELL, FELL, PASS]] * 2, golden=golden) is True
    assert shown([FELL, FELL, PASS], [PASS, FELL, FELL], golden=golden) is False, "one prompt fell twice"


def test_checks_of_another_pair_of_versions_begin_anew():
    checks, now = checked(*[[FELL, PASS, PASS]] * 2)
    other = g.begin(checks, f.target(7), f.target(5), now)
    assert (other.agreeing, other.fallen, other.outcomes) == (0, (), ())
    assert g.begin(checks, f.target(7), f.target(6), now).agreeing == 2


def test_when_a_check_is_due():
    pair = (f.target(7), f.target(6))
    golden, later = declared(), lambda seconds: NOW + timedelta(seconds=seconds)
    assert g.is_due(None, *pair, golden, NOW)
    assert not g.is_due(None, *pair, GoldenPrompts(), NOW)
    begun = g.begin(None, *pair, NOW)
    assert not g.is_due(begun, *pair, golden, later(g.CHECK_S - 1)), "another process asks"
    assert g.is_due(begun, *pair, golden, later(g.CHECK_S)), "it has died"
    ended = g.note_check(begun, golden, (), later(5))
    assert not g.is_due(ended, *pair, golden, later(59))
    assert g.is_due(ended, *pair, golden, later(60))
    assert not g.is_due(ended, *pair, golden, later(-10)), "the clock of another process is behind"
    assert g.is_due(ended, *pair, golden, later(-g.CHECK_S - 1)), "a clock that was set back"
    assert g.is_due(ended, f.target(8), f.target(7), golden, later(5))


def test_only_some_checks_in_a_row_are_left_out():
    checks, _ = checked([PASS] * 3)
    for _ in range(g.DEFERRED):
        assert g.may_defer(checks)
        checks = g.defer(checks)
    assert not g.may_defer(checks)
    assert g.may_defer(g.note_check(checks, declared(), (), NOW))


outcome = st.tuples(st.sampled_from([True, False, None]), st.sampled_from([True, False, None]))


@given(rounds=st.lists(st.tuples(outcome, outcome, outcome), max_size=8), allowed=st.integers(0, 2))
def test_whatever_comes_only_falls_that_were_seen_twice_confirm(rounds, allowed):
    golden = declared(allowed_falls=allowed)
    if shown(*rounds, golden=golden) is not True:
        return
    twice = [
        name
        for number, name in enumerate(NAMES)
        if sum((target, other) == FELL for target, other in (each[number] for each in rounds)) >= 2
    ]
    assert len(twice) > allowed


@given(rounds=st.lists(st.tuples(outcome, outcome, outcome), max_size=8))
def test_a_version_that_passes_its_last_check_is_never_confirmed(rounds):
    assert shown(*rounds, [PASS] * 3) is False


@given(rounds=st.lists(st.tuples(outcome, outcome, outcome), min_size=1, max_size=8))
def test_silence_of_a_check_neither_confirms_nor_ends_what_was_shown(rounds):
    """A caller that keeps engines busy can delay checks, and change nothing that they showed."""
    before, _ = checked(*rounds)
    after, _ = checked(*rounds, [(None, None)] * 3)
    assert (after.fallen, after.agreeing) == (before.fallen, before.agreeing)


def test_a_check_in_a_sentence():
    checks, _ = checked([FELL, PASS, SILENT])
    assert g.describe(checks, declared()) == (
        "support-bot.v7.int8 passes 1 of 3 golden prompts; support-bot.v6.int8, the previous one, passes 3; 1 had no answer in "
        "time. Only support-bot.v7.int8 fails a."
    )
    alone, _ = checked([NO_OTHER, PASS, PASS], other=None)
    assert "behind" not in g.describe(alone, declared())
