"""The plan of a release, and which of its steps is next."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.evaluations import Evaluations
from contracts.facts import FACTS
from contracts.policy import Canary, Promotion, Shadow
from decisions.releases.plan import (
    ROWS,
    Step,
    needs_rehearsal,
    next_step,
    plan_release,
    required_attestations,
    traffic_shares,
)
from testbed import factories as f

EVALUATIONS = Evaluations.model_validate({"sets": [{"name": "basics", "rows": "default"}]})
ALWAYS = ["merge", "quantise", "register", "queue", "stage", "benchmark"]


def steps(policy, **about):
    return [
        step.step if step.share is None else f"{step.step} {step.share:g}" for step in plan_release(policy, **about)
    ]


def test_the_policy_decides_about_rehearsal_approval_and_canary():
    policy = f.policy(promotion=Promotion(mode="manual"), canary=Canary(steps=(0.05, 0.25)))
    assert steps(policy) == [
        *ALWAYS,
        "rehearsal",
        "approval",
        "traffic 0.05",
        "canary 0.05",
        "traffic 0.25",
        "canary 0.25",
        "traffic 1",
    ]
    bare = f.policy(promotion=Promotion(mode="automatic"), canary=Canary(), rehearsal="not_required")
    assert steps(bare) == [*ALWAYS, "traffic 1"]


def test_the_policy_decides_about_evaluations():
    assert steps(f.policy(evaluations=EVALUATIONS))[:8] == [*ALWAYS, "evaluate", "rehearsal"]
    assert required_attestations(f.policy(evaluations=EVALUATIONS)).steps[2:4] == ("benchmark", "evaluate")


def test_a_first_release_has_no_canary():
    assert traffic_shares(f.policy(), first=True) == (1.0,)
    assert steps(f.policy(), first=True)[-1] == "traffic 1"
    assert not [name for name in steps(f.policy(), first=True) if name.startswith("canary")]


def test_a_shadow_comes_before_the_first_share_also_without_a_canary_and_never_at_first():
    bare = f.policy(promotion=Promotion(mode="automatic"), canary=Canary(), rehearsal="not_required", shadow=Shadow())
    assert steps(bare) == [*ALWAYS, "traffic 0", "shadow", "traffic 1"]
    both = f.policy(canary=Canary(steps=(0.05,)), shadow=Shadow(), promotion=Promotion(mode="manual"))
    assert steps(both)[-6:] == ["approval", "traffic 0", "shadow", "traffic 0.05", "canary 0.05", "traffic 1"]
    assert "shadow" not in steps(both, first=True)


@pytest.mark.parametrize("action", ["automatic", "manual"])
def test_only_automatic_triggers_need_a_rehearsal(action):
    policy = f.policy(triggers=(f.trigger(action=action),))
    assert needs_rehearsal(policy) == (action == "automatic")


@given(done=st.sets(st.sampled_from(plan_release(f.policy()))))
def test_the_next_step_is_the_first_that_is_not_done(done):
    plan = plan_release(f.policy())
    following = next_step(plan, done)
    before = plan if following is None else plan[: plan.index(following)]
    assert set(before) <= done
    assert following not in done


def test_a_policy_limits_every_step_and_events_of_the_table_exist():
    policy = f.policy(
        shadow=Shadow(),
        canary=Canary(steps=(0.05,)),
        promotion=Promotion(mode="manual"),
        evaluations=EVALUATIONS,
    )
    assert all(row.limit_s(policy) > 0.0 for row in ROWS.values())
    assert {row.name for row in ROWS.values()} == set(get_args(Step)) == {step.step for step in plan_release(policy)}
    named = {f"slipway.{name}.v1" for row in ROWS.values() if (name := row.begins)}
    assert named <= set(FACTS)
