"""Evaluations of a policy: an event may only tighten them, and what no set can show is refused."""

import pytest

from contracts.evaluations import Evaluations
from decisions.policies.comparison import weaknesses
from decisions.policies.problems import list_problems
from testbed.factories import policy

STORED = {
    "sets": [
        {
            "name": "orders",
            "scorers": [{"kind": "equals"}, {"kind": "language", "language": "de"}],
            "bounds": [
                {"scorer": "equals", "max_drop": 0.05},
                {"scorer": "language", "slice": "*", "min_value": 0.9},
            ],
        }
    ],
}


def with_evaluations(declared):
    return policy(evaluations=Evaluations.model_validate(declared))


def changed(**about):
    bounds = [dict(bound) for bound in STORED["sets"][0]["bounds"]]
    bounds[0] |= about.pop("first", {})
    bounds[1] |= about.pop("second", {})
    evaluation = {**STORED["sets"][0], "bounds": bounds, **about.pop("evaluation", {})}
    return with_evaluations({**STORED, "sets": [evaluation, *about.pop("more", [])], **about})


@pytest.mark.parametrize(
    "tighter",
    [
        {},
        {"first": {"max_drop": 0.02}},
        {"first": {"max_drop_from_anchor": 0.1}, "alpha": 0.03},
        {"second": {"min_value": 0.95}},
        {"first": {"min_value": 0.5}, "alpha": 0.03},
        {"evaluation": {"rows_digest": "sha256:" + "0" * 64}},
        {"beta": 0.01, "alpha": 0.05},
        {"evaluation": {"max_rows": 5_000}},
        {"more": [{"name": "tools", "scorers": [{"kind": "tool_call"}]}]},
    ],
)
def test_a_tighter_one_is_not_weaker(tighter):
    assert weaknesses(changed(**tighter), with_evaluations(STORED)) == []
    assert weaknesses(changed(**tighter), policy()) == []


@pytest.mark.parametrize(
    "weaker",
    [
        {"first": {"max_drop": 0.06}},
        {"first": {"max_drop_from_anchor": 0.1}},
        {"first": {"undecided": "continue"}},
        {"second": {"min_value": 0.8}},
        {"second": {"slice": "refunds"}},
        {"alpha": 0.01},
        {"beta": 0.1},
        {"first": {"min_value": 0.5}},
        {"more": [{"name": "all", "rows": "default"}]},
        {"evaluation": {"max_rows": 500}},
        {"evaluation": {"rows": "default"}},
        {"evaluation": {"max_tokens": 8}},
        {"evaluation": {"scorers": [{"kind": "equals", "ignore_case": True}, {"kind": "language", "language": "de"}]}},
        {"evaluation": {"name": "other"}},
    ],
)
def test_a_weaker_one_is_named(weaker):
    assert len(weaknesses(changed(**weaker), with_evaluations(STORED))) == 1


FIGURE = {"name": "mmlu", "metric": "accuracy", "limit": 0.6, "max_drop": 0.02}


@pytest.mark.parametrize(
    ("change", "is_weaker"),
    [
        ({}, False),
        ({"limit": 0.7, "max_drop": 0.01}, False),
        ({"limit": 0.5}, True),
        ({"limit": None}, True),
        ({"max_drop": 0.03}, True),
        ({"max_drop": None}, True),
        ({"higher_is_better": False}, True),
        ({"metric": "f1"}, True),
    ],
)
def test_a_bound_of_a_stated_figure_may_only_be_tightened(change, is_weaker):
    stored, proposed = (with_evaluations({"stated": [{**FIGURE, **more}]}) for more in ({}, change))
    assert bool(weaknesses(proposed, stored)) == is_weaker
    assert weaknesses(policy(), stored)


ANCHORED = {"scorer": "equals", "max_drop_from_anchor": 0.1}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"max_rows": 5_000}, "max_rows"),
        ({"scorers": [{"kind": "equals"}, {"kind": "length"}]}, "scorers"),
        ({"bounds": [ANCHORED, {"scorer": "equals", "slice": "refunds", "max_drop": 0.1}]}, "slices of bounds"),
    ],
)
def test_an_event_does_not_begin_with_another_anchor_than_the_stored_policys(change, what):
    stored = {"name": "orders", "scorers": [{"kind": "equals"}], "bounds": [ANCHORED]}
    proposed = {"sets": [{**stored, **change}], "alpha": 0.1}
    (weakness,) = weaknesses(with_evaluations(proposed), with_evaluations({"sets": [stored]}))
    assert f"orders: {what} is not as" in weakness
    tighter = {**stored, "bounds": [{**ANCHORED, "max_drop_from_anchor": 0.05}]}
    assert weaknesses(with_evaluations({"sets": [tighter]}), with_evaluations({"sets": [stored]})) == []


def test_a_set_that_is_pinned_stays():
    pinned = changed(evaluation={"rows_digest": "sha256:" + "0" * 64})
    assert weaknesses(pinned, pinned) == []
    for other in ({}, {"evaluation": {"rows_digest": "sha256:" + "1" * 64}}):
        (weakness,) = weaknesses(changed(**other), pinned)
        assert "rows_digest" in weakness


def test_no_evaluations_are_weaker_than_some():
    assert any("orders" in line for line in weaknesses(policy(), with_evaluations(STORED)))


def test_a_language_that_is_not_recognised_is_refused():
    scorers = [{"kind": "equals"}, {"kind": "language", "language": "sv"}]
    (problem,) = list_problems(changed(evaluation={"scorers": scorers}))
    assert problem.field == ("evaluations", "sets", 0, "scorers", 1, "language")


def test_a_limit_that_no_set_can_show_is_refused():
    (problem,) = list_problems(changed(first={"max_drop": 0.001}))
    assert problem.field == ("evaluations", "sets", 0, "bounds", 0)
    assert list_problems(changed(first={"max_drop": 0.001, "undecided": "continue"})) == []
    assert list_problems(changed(evaluation={"max_rows": 10_000}, first={"max_drop": 0.001})) == []
