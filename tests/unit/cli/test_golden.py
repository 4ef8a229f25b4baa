"""What `slipway golden` prints."""

import pytest

from clients.cli.commands.golden import conclusion, rows_of
from contracts import facts as cf
from testbed import factories as f


def checked(**changes):
    return f.fact(cf.GoldenChecked, **changes)


def test_falls_come_first_with_what_the_answer_lacks():
    silent = cf.GoldenOutcome(name="silent")
    outcomes = (silent, cf.GoldenOutcome(name="fine", target=True, other=True), *checked().outcomes[:1])
    assert rows_of(checked(outcomes=outcomes)) == [
        ("capital", "fail", "pass", "it does not contain 'Paris'"),
        ("silent", "-", "-", "-"),
        ("fine", "pass", "pass", "-"),
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "There is an alert about support-bot.v7.int8."),
        ({"agreeing": 1}, "A second check in a row"),
        ({"agreeing": 0}, "There is no alert."),
    ],
)
def test_what_follows_is_a_sentence(changes, sentence):
    fact = checked(**changes)
    assert conclusion(fact, fact.target).startswith(sentence)


def test_what_does_not_serve_any_more_has_no_alert():
    for active in (f.target(1), None):
        assert conclusion(checked(), active).endswith("does not serve any more.")
