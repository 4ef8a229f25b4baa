"""Golden prompts: what a set may be, and the sentence about one that may not."""

import pytest
from pydantic import ValidationError

from contracts.golden import PROMPTS, SET_BYTES, Expectation, GoldenPrompt, GoldenPrompts
from contracts.policy import ReleasePolicy
from testbed import factories as f

PARIS = {"name": "capital", "prompt": "Capital of France?", "expect": {"contains": ["Paris"]}}


def refused(kind, **values):
    with pytest.raises(ValidationError) as error:
        kind(**values)
    return str(error.value)


@pytest.mark.parametrize(
    ("expect", "sentence"),
    [
        ({}, "expect is empty; declare equals, contains"),
        ({"ignore_case": True}, "expect is empty"),
        ({"min_chars": 9, "max_chars": 3}, "min_chars is 9, above max_chars, 3"),
        ({"equals": "4", "min_chars": 1}, "equals is the whole answer"),
        ({"equals": " \n"}, "equals is white space"),
        ({"contains": ["Paris, France"], "excludes": ["France"]}, "'France' is excluded"),
        ({"contains": ["Paris"], "excludes": ["paris"], "ignore_case": True}, "'paris' is excluded"),
        ({"contains": ["Paris"], "max_chars": 4}, "a text of 5 characters, above max_chars, 4"),
        ({"contains": [""]}, "at least 1 character"),
        ({"contains": ["a"] * 9}, "at most 8 items"),
        ({"regex": "(a+)+$"}, "Extra inputs are not permitted"),
    ],
)
def test_an_expectation_that_nothing_or_everything_meets_is_refused(expect, sentence):
    assert sentence in refused(Expectation, **expect)


def golden(*names, **changes):
    return {"prompts": [PARIS | {"name": name} for name in names]} | changes


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"prompts": [PARIS | {"name": name, "max_tokens": 256} for name in "abc"], "every_s": 10.0},
            "up to 77 tokens per second",
        ),
        (golden("a", "a"), "'a' is declared more than once"),
        (golden(*(f"p{number}" for number in range(PROMPTS + 1))), f"at most {PROMPTS} items"),
        (golden("a", allowed_falls=1), "allowed_falls is 1; with 1 prompts it must be lower"),
        ({"allowed_falls": 1}, "with 0 prompts it must be lower"),
        (golden("a", every_s=9), "greater than or equal to 10"),
        ({"prompts": [PARIS | {"name": f"p{n}", "prompt": "\u00e9" * 4000} for n in range(3)]}, f"{SET_BYTES:,}"),
        ({"prompts": [PARIS | {"prompt": "x" * 4001}]}, "at most 4000 characters"),
        ({"prompts": [PARIS | {"prompt": "\ud800"}]}, "unicode"),
        ({"prompts": [PARIS | {"max_tokens": 257}]}, "less than or equal to 256"),
        ({"prompts": [PARIS | {"name": "Capital!"}]}, "pattern"),
        ({"prompts": [PARIS | {"expected": {}}]}, "Extra inputs are not permitted"),
    ],
)
def test_a_set_that_cannot_be_checked_is_refused(values, sentence):
    assert sentence in refused(GoldenPrompts, **values)


def test_a_set_of_the_most_prompts_is_accepted():
    assert len(GoldenPrompts(**golden(*(f"p{number}" for number in range(PROMPTS)), allowed_falls=15)).prompts) == 16


def test_a_policy_without_golden_prompts_is_written_as_before():
    """Its digest, and so the key of its release, stays."""
    assert "golden" not in f.policy().model_dump(mode="json")
    declared = f.policy(golden=GoldenPrompts(prompts=(GoldenPrompt(**PARIS),)))
    assert ReleasePolicy.model_validate_json(declared.model_dump_json()) == declared
