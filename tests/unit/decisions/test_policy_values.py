"""Policies: what is refused, and what differs from the stored one."""

import pytest
from pydantic import ValidationError

from contracts.policy import Canary, Deadlines, ReleasePolicy
from decisions.policies.problems import describe_differing, differing
from testbed.factories import policy


def test_an_equal_policy_differs_in_nothing_and_another_one_names_its_fields():
    stored = policy()
    assert differing(ReleasePolicy.model_validate_json(stored.model_dump_json()), stored) == []
    other = policy(canary=Canary(steps=(0.05, 0.25), min_requests=201), no_previous="hold")
    assert differing(other, stored) == ["canary", "no_previous"]
    assert "canary, no_previous" in describe_differing(["canary", "no_previous"])


def test_a_policy_without_a_shadow_is_stored_as_before():
    """The digest of a policy is in certificates of rehearsals: a field of a later version must not change it."""
    assert "shadow" not in policy().model_dump(mode="json")


@pytest.mark.parametrize(
    "changes",
    [
        {"triggers": ()},
        {
            "triggers": (
                {"name": "x", "metric": "ttft_ms", "threshold": 1.0},
                {"name": "x", "metric": "e2e_ms", "threshold": 1},
            )
        },
        {"triggers": ({"name": "Upper Case", "metric": "ttft_ms", "threshold": 1.0},)},
        {"triggers": ({"name": "x", "metric": "mood", "threshold": 1.0},)},
        {"triggers": ({"name": "x", "metric": "ttft_ms", "threshold": float("nan")},)},
        {"triggers": ({"name": "x", "metric": "ttft_ms", "threshold": -1.0},)},
        {"triggers": ({"name": "x", "metric": "itl_ms", "threshold": 300_000},)},
        {"triggers": ({"name": "x", "metric": "queue_ms", "threshold": -1},)},
        {"triggers": ({"name": "x", "metric": "queue_ms", "threshold": 5, "bound": "lower"},)},
        {"triggers": ({"name": "x", "metric": "logprob_mean", "threshold": 0.0},)},
        {"triggers": ({"name": "x", "metric": "logprob_mean", "threshold": -2000},)},
        {"triggers": ({"name": "x", "metric": "logprob_mean", "threshold": -2, "bound": "upper"},)},
        {"triggers": ({"name": "x", "metric": "cut_off_ratio", "threshold": 1.0},)},
        {"triggers": ({"name": "x", "metric": "nan_logits", "threshold": 1.0},)},
        {"triggers": ({"name": "x", "metric": "output_tokens", "threshold": 0.5, "bound": "lower"},)},
        {"triggers": ({"name": "x", "metric": "output_tokens", "threshold": 1e9},)},
        {"triggers": ({"name": "x", "metric": "output_tokens", "threshold": 9, "bound": "both"},)},
        {"triggers": ({"name": "x", "metric": "goodput_ratio", "threshold": 0.9},)},
        {
            "triggers": (
                {"name": "x", "metric": "ttft_ms", "threshold": 1.0},
                {"name": "y", "metric": "goodput_ratio", "threshold": 0.0},
            )
        },
        {"gates": ({"metric": "ttft_ms"},)},
        {"gates": ({"metric": "ttft_ms", "max_vaule": 4},)},
        {"canary": {"steps": (0.5, 0.1)}},
        {"canary": {"steps": (0.1, 0.1)}},
        {"canary": {"steps": (1.0,)}},
        {"quality": {"int3": {}}},
        {"quality": {"int8": {"max_perplexity_ratio": 0.5}}},
        {"load": {"requests": 0}},
        {"deadlines": {"merge_s": 0}},
        {"rollback": "never"},
    ],
)
def test_nonsense_is_refused(changes):
    valid = policy().model_dump(mode="json")
    assert ReleasePolicy.model_validate(valid) == policy()
    with pytest.raises(ValidationError):
        ReleasePolicy.model_validate(valid | changes)


def test_a_policy_without_triggers_does_not_exist():
    with pytest.raises(ValidationError, match="triggers"):
        ReleasePolicy.model_validate({})
    assert Deadlines().merge_s > 0
