"""Evaluations of a policy: what no set can show is refused."""

from contracts.evaluations import Evaluations
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


def test_a_language_that_is_not_recognised_is_refused():
    scorers = [{"kind": "equals"}, {"kind": "language", "language": "sv"}]
    (problem,) = list_problems(changed(evaluation={"scorers": scorers}))
    assert problem.field == ("evaluations", "sets", 0, "scorers", 1, "language")


def test_a_limit_that_no_set_can_show_is_refused():
    (problem,) = list_problems(changed(first={"max_drop": 0.001}))
    assert problem.field == ("evaluations", "sets", 0, "bounds", 0)
    assert list_problems(changed(first={"max_drop": 0.001, "undecided": "continue"})) == []
    assert list_problems(changed(evaluation={"max_rows": 10_000}, first={"max_drop": 0.001})) == []
