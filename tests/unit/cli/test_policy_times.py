"""The requests that a step needs are those of the monitor; a model's rate is that of its windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cli.policies.policy_times import about, blocks_to_pass, explain_times, requests_to_pass
from contracts.facts import CanaryAssessed
from contracts.policy import Canary, Shadow
from decisions.evidence.triggers import triggers_of_shadow
from testbed import factories as f
from tests.unit.monitor.factories import policy, published, record, routed, take, watch


def verdict(the_policy, share, *, canary):
    """Return the verdict on a canary after so many good requests, one in each block, beside four of the active one."""
    state = routed(canary=8, weight=share, of=watch(versions=(7, 8), the_policy=the_policy))
    sides = [record(2.0 * at + part / 8, version=8 if part == 0 else 7) for at in range(canary) for part in range(5)]
    return published(take(state, sides, 2.0 * canary + 5.0), CanaryAssessed)[-1].verdict


@pytest.mark.parametrize(("limit", "beta"), [(0.02, 0.05), (0.1, 0.05), (0.02, 0.5)])
def test_a_canary_passes_with_the_requests_that_are_explained_and_not_with_fewer(limit, beta):
    of_one = f.trigger(name="errors", metric="error_ratio", threshold=limit)
    the_policy = policy(triggers=(of_one,), canary=Canary(steps=(0.2,), min_requests=10, beta=beta))
    needed = round(requests_to_pass(the_policy, (of_one,), 1e-6))
    assert needed == blocks_to_pass((of_one,), beta)
    assert verdict(the_policy, 0.2, canary=needed) == "pass"
    assert verdict(the_policy, 0.2, canary=needed - 1) == "inconclusive"


def test_a_shadow_waits_for_its_own_triggers_too():
    of_one = f.trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.1)
    the_policy = policy(triggers=(of_one,), shadow=Shadow(min_requests=10, share_ratio=1.0))
    blocks = blocks_to_pass(triggers_of_shadow((of_one,)), the_policy.canary.beta)
    assert blocks > blocks_to_pass((of_one,), the_policy.canary.beta)
    own = requests_to_pass(the_policy, triggers_of_shadow((of_one,)), 100.0)
    told = explain_times(the_policy, 100.0)
    assert any(sentence.startswith(f"Shadow: {own:,.0f} of ") for sentence in told)
    assert any(f"in {blocks} blocks" in sentence for sentence in told)


@given(st.floats(0.01, 1000))
def test_a_canary_that_its_deadline_ends_without_a_verdict_is_named_at_any_rate(rps):
    the_policy = policy(canary=Canary(steps=(0.05,), min_requests=200, deadline_s=3600))
    late = any("canary.deadline_s" in sentence for sentence in explain_times(the_policy, rps))
    assert late == (rps * 3600 < 4000)
    assert not any("anary" in sentence for sentence in explain_times(the_policy, rps, first=True))


def test_a_step_for_some_callers_takes_no_time_of_the_models_rate_and_proves_nothing_for_the_next():
    told = [
        [sentence for sentence in explain_times(policy(canary=canary), 100.0) if "Canary of 10%" in sentence]
        for canary in (Canary(steps=(0.5, 0.1), only_for=("team:staff",)), Canary(steps=(0.1,)))
    ]
    assert told[0] == told[1] != []
    staff = explain_times(policy(canary=Canary(steps=(0.5, 0.1), only_for=("team:staff",))), 100.0)
    assert any("Canary of 50% of team:staff: 100 of 200 of their requests" in sentence for sentence in staff)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (80, "80 s"), (1600, "27 min"), (20_000, "5.6 h"), (86_400 * 2, "2 days"), (1e8, "1,157 days")],
)
def test_times_have_two_digits_or_whole_units(seconds, text):
    assert about(seconds) == text
