"""Policies: what is refused, and `weaknesses`: a policy may only tighten the stored one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.evaluations import Evaluations
from contracts.policy import (
    Approvals,
    Canary,
    Deadlines,
    LoadProfile,
    MetricGate,
    Pairs,
    Promotion,
    QualityGate,
    ReleasePolicy,
    Shadow,
    Trigger,
)
from decisions.policies.comparison import weaknesses
from testbed.factories import policy, trigger

FIRST = {"metric": "ttft_ms", "statistic": "p95"}


def with_gate(**bounds):
    return policy(gates=(MetricGate(**FIRST, **bounds),))


INT4 = {"gptq-int4": QualityGate(max_perplexity_ratio=1.35), "awq-int4": QualityGate(max_perplexity_ratio=1.25)}


def with_quality(**bounds):
    return policy(quality={"int8": QualityGate(**bounds)})


def with_trigger(**changes):
    return policy(triggers=(trigger(**changes),))


SHORT = {"metric": "output_tokens", "threshold": 8}


def with_goodput(threshold):
    return policy(triggers=(trigger(), trigger(name="goodput", metric="goodput_ratio", threshold=threshold)))


def with_canary(**changes):
    return policy(canary=Canary(**({"steps": (0.05, 0.25), "min_requests": 200} | changes)))


def with_approvals(**changes):
    return policy(promotion=Promotion(mode="manual"), approvals=Approvals(**changes))


def with_schedule(**changes):
    return policy(evaluations=Evaluations(sets=({"name": "basics", "rows": "default"},), schedule=changes))


def with_load(**changes):
    return policy(load=LoadProfile(**changes))


# (name, the tighter policy, the looser policy): tightening is silent, loosening is named.
PAIRS = [
    ("copies is 3, above the stored 2", policy(copies=2), policy(copies=3)),
    ("copies is 64, above the stored 1", policy(), policy(copies=64)),
    ("pairs.share_ratio", policy(pairs=Pairs(share_ratio=0.1)), policy()),
    ("evaluations.schedule", with_schedule(every_hours=6), with_schedule(every_hours=24)),
    ("evaluations.schedule", with_schedule(rows=100), with_schedule(rows=60)),
    ("approvals.count", with_approvals(count=3), with_approvals(count=2)),
    ("approvals.count", with_approvals(count=2), with_approvals()),
    ("approvals.not_by_publisher", with_approvals(not_by_publisher=True), with_approvals()),
    (
        "quality.int8.max_perplexity_ratio",
        with_quality(max_perplexity_ratio=1.02),
        with_quality(max_perplexity_ratio=1.1),
    ),
    ("quality.int8.max_mean_kl", with_quality(max_mean_kl=0.01), with_quality(max_mean_kl=0.1)),
    ("quality.int8.max_mean_kl", with_quality(max_mean_kl=0.01), with_quality()),
    ("quality.int8.max_mean_kl", with_quality(max_mean_kl=0.01), policy(quality={})),
    ("quality.awq-int4.max_perplexity_ratio", policy(quality=INT4), policy(quality={"gptq-int4": INT4["gptq-int4"]})),
    (
        "quality.gptq-int4.max_perplexity_ratio",
        policy(quality=INT4),
        policy(quality={**INT4, "gptq-int4": QualityGate(max_perplexity_ratio=1.4)}),
    ),
    ("gate ttft_ms.p95: max_value", with_gate(max_value=500.0), with_gate(max_value=700.0)),
    ("gate ttft_ms.p95: max_ratio", with_gate(max_ratio=1.1), with_gate(max_ratio=1.3)),
    ("gate ttft_ms.p95: min_value", with_gate(min_value=50.0), with_gate(min_value=40.0)),
    ("gate ttft_ms.p95: min_ratio", with_gate(min_ratio=0.9), with_gate(min_ratio=0.8)),
    ("gate ttft_ms.p95: max_value", with_gate(max_value=5.0, max_ratio=1.1), with_gate(max_ratio=1.1)),
    ("gate ttft_ms.p95 of", with_gate(max_value=500.0), policy(gates=())),
    ("threshold", with_trigger(threshold=700.0), with_trigger(threshold=900.0)),
    ("allowed_ratio", with_trigger(allowed_ratio=0.01), with_trigger(allowed_ratio=0.1)),
    ("own_factor", with_trigger(own_factor=1.2), with_trigger()),
    ("own_factor", with_trigger(own_factor=1.2), with_trigger(own_factor=1.3)),
    (
        "slow-first-token: threshold is below",
        with_trigger(metric="logprob_mean", threshold=-2.0),
        with_trigger(metric="logprob_mean", threshold=-3.0),
    ),
    ("threshold is above", with_trigger(**SHORT, bound="upper"), with_trigger(**{**SHORT, "threshold": 9})),
    (
        "threshold is below",
        with_trigger(**SHORT, bound="lower"),
        with_trigger(**{**SHORT, "threshold": 7}, bound="lower"),
    ),
    ("missing", with_trigger(**SHORT, bound="lower"), with_trigger(**SHORT)),
    ("threshold is below", with_goodput(0.99), with_goodput(0.9)),
    ("missing", with_goodput(0.99), with_trigger()),
    ("action is manual", with_trigger(action="automatic"), with_trigger(action="manual")),
    ("more evidence", with_trigger(min_requests=10), with_trigger(min_requests=30)),
    ("more evidence", with_trigger(alpha=0.01), with_trigger(alpha=0.0001)),
    ("slow-first-token (ttft_ms) of", with_trigger(), with_trigger(name="other")),
    ("promotion.mode", policy(promotion=Promotion(mode="manual")), policy(promotion=Promotion(mode="automatic"))),
    ("rehearsal", policy(rehearsal="required"), policy(rehearsal="not_required")),
    ("no_previous", policy(no_previous="base"), policy(no_previous="hold")),
    ("canary.steps", with_canary(steps=(0.05, 0.25)), with_canary(steps=())),
    ("canary.steps", with_canary(steps=(0.05, 0.25)), with_canary(steps=(0.05,))),
    ("canary.steps", with_canary(steps=(0.05, 0.25)), with_canary(steps=(0.1, 0.25))),
    ("canary.steps", with_canary(steps=(0.05, 0.25)), with_canary(steps=(0.05, 0.5))),
    ("canary.min_requests", with_canary(min_requests=200), with_canary(min_requests=100)),
    ("canary.beta", with_canary(beta=0.05), with_canary(beta=0.5)),
    ("canary.on_deadline", with_canary(on_deadline="ask"), with_canary(on_deadline="promote")),
    (
        "canary.deadline_s",
        with_canary(on_deadline="promote", deadline_s=900),
        with_canary(on_deadline="promote", deadline_s=60),
    ),
    ("load.requests", with_load(requests=80), with_load(requests=40)),
    ("load.rate_rps", with_load(rate_rps=4.0), with_load(rate_rps=2.0)),
    ("load.output_tokens", with_load(output_tokens=48), with_load(output_tokens=24)),
]


@pytest.mark.parametrize(("name", "tight", "loose"), PAIRS)
def test_loosening_is_named_and_tightening_is_not(name, tight, loose):
    named = weaknesses(loose, stored=tight)
    assert len(named) == 1, named
    assert name in named[0]
    if "missing" not in named[0]:
        assert weaknesses(tight, stored=loose) == []


def test_what_cannot_be_compared_must_be_equal():
    """A longer window notices later, a shorter one may never hold the evidence: neither only tightens."""
    for window in (1.0, 3600.0):
        assert "window_s" in weaknesses(with_trigger(window_s=window), with_trigger(window_s=60.0))[0]
    assert "missing" in weaknesses(with_trigger(metric="e2e_ms"), with_trigger(metric="ttft_ms"))[0]


def test_more_gates_triggers_variants_and_steps_only_tighten():
    stored = policy(quality={}, gates=(), canary=Canary(steps=(0.25,)), triggers=(trigger(),))
    more = policy(canary=Canary(steps=(0.05, 0.25), min_requests=200))
    assert weaknesses(more, stored) == []


def test_two_gates_of_one_name_count_together():
    both = (MetricGate(**FIRST, max_value=500.0), MetricGate(**FIRST, max_ratio=1.2))
    merged = (MetricGate(**FIRST, max_value=500.0, max_ratio=1.2),)
    assert weaknesses(policy(gates=both), policy(gates=merged)) == []
    assert weaknesses(policy(gates=merged), policy(gates=both)) == []
    tighter_first = (MetricGate(**FIRST, max_value=400.0), MetricGate(**FIRST, max_value=900.0))
    assert weaknesses(policy(gates=tighter_first), with_gate(max_value=500.0)) == []


def test_a_shadow_may_only_be_tightened():
    stored = policy(shadow=Shadow(share_ratio=0.2, duration_s=60.0, min_requests=50))
    assert weaknesses(policy(shadow=Shadow(share_ratio=0.3, duration_s=90.0, min_requests=80)), stored) == []
    assert weaknesses(stored, policy()) == []
    assert "shadow of the stored policy is missing" in weaknesses(policy(), stored)
    looser = Shadow(share_ratio=0.1, duration_s=30.0, min_requests=10, on_deadline="continue")
    assert weaknesses(policy(shadow=looser), stored) == [
        "shadow.share_ratio is 0.1, below the stored 0.2",
        "shadow.duration_s is 30, below the stored 60",
        "shadow.min_requests is 10, below the stored 50",
        "shadow.on_deadline is continue where the stored policy says ask",
    ]
    goes_on = policy(shadow=Shadow(deadline_s=4000.0, on_deadline="continue"))
    sooner = policy(shadow=Shadow(deadline_s=700.0, on_deadline="continue"))
    (weaker,) = weaknesses(sooner, goes_on)
    assert weaker == "shadow.deadline_s goes on after 700 s, before the stored 4000 s"
    with pytest.raises(ValidationError, match="it could never pass; raise deadline_s"):
        Shadow(duration_s=600.0, deadline_s=600.0)


def test_a_policy_without_a_shadow_is_stored_as_before():
    """The digest of a policy is in certificates of rehearsals: a field of a later version must not change it."""
    assert "shadow" not in policy().model_dump(mode="json")


def test_a_person_may_be_asked_earlier_about_a_suspended_version_not_later():
    stored = policy(judgement_s=3_600.0)
    assert weaknesses(policy(judgement_s=600.0), stored) == []
    assert weaknesses(policy(), stored) == ["judgement_s is 21600, above the stored 3600"]


def test_a_version_that_returns_by_itself_is_weaker_than_one_that_waits_for_a_person():
    stored = policy(after_move="stay")
    assert weaknesses(policy(), stored) == ["after_move is canary where the stored policy says stay"]
    assert weaknesses(stored, policy()) == []


def test_attesters_are_a_part_of_the_stored_ones():
    """A key of a service that is named is another entry: nothing here knows whose key it is."""
    key = "ab" * 32
    stored = policy(attesters={"benchmark": ("benchmarker", key)})
    assert weaknesses(policy(attesters={"benchmark": (key,), "merge": ("merger",)}), stored) == []
    assert weaknesses(stored, policy()) == []
    assert "attesters.benchmark of the stored policy is missing" in weaknesses(policy(), stored)
    (weaker,) = weaknesses(policy(attesters={"benchmark": ("benchmarker", "cd" * 32)}), stored)
    assert weaker == f"attesters.benchmark has {'cd' * 32}, which the stored policy does not have"
    with pytest.raises(ValidationError, match="at least 1 item"):
        policy(attesters={"benchmark": ()})
    with pytest.raises(ValidationError, match="should match pattern"):
        policy(attesters={"benchmark": ("Benchmarker",)})


def test_every_field_of_a_policy_is_compared_or_declared_incomparable():
    """A new field must be thought about: is less of it weaker?"""
    assert set(ReleasePolicy.model_fields) == {
        "attesters",
        "quality",
        "gates",
        "evaluations",
        "load",
        "promotion",
        "approvals",
        "sources",  # both policies must allow a folder, so that none can loosen the other
        "canary",
        "shadow",
        "rehearsal",
        "rehearsal_valid_s",
        "judgement_s",
        "after_move",
        "no_previous",
        "triggers",
        "false_alarm_every",
        "pairs",
        "objective",
        "on_newer",
        "copies",
        "deadlines",  # say what a release prefers and how long it waits, not what it proves
    }
    assert set(Trigger.model_fields) == {
        "own_factor",
        "name",
        "metric",
        "threshold",
        "bound",
        "allowed_ratio",
        "window_s",
        "alpha",
        "min_requests",
        "action",
    }
    assert set(Canary.model_fields) == {"steps", "only_for", "min_requests", "beta", "deadline_s", "on_deadline"}
    assert set(Shadow.model_fields) == {"share_ratio", "duration_s", "min_requests", "deadline_s", "on_deadline"}
    assert set(LoadProfile.model_fields) == {
        "requests",
        "rate_rps",
        "output_tokens",
        "warmup_requests",
        "timeout_s",
    }
    assert set(Promotion.model_fields) == {"mode", "approval_deadline_s"}
    assert set(MetricGate.model_fields) == {"metric", "statistic", "max_value", "min_value", "max_ratio", "min_ratio"}
    assert set(QualityGate.model_fields) == {"max_perplexity_ratio", "max_mean_kl"}


# -- over arbitrary policies ---------------------------------------------------------------------------------------

bounds = st.none() | st.floats(0.1, 10.0)
gates = st.builds(
    MetricGate,
    metric=st.sampled_from(["ttft_ms", "e2e_ms", "tps_system"]),
    statistic=st.sampled_from(["p50", "p95"]),
    max_value=st.floats(1, 10),
    min_value=bounds,
    max_ratio=bounds,
    min_ratio=bounds,
)
triggers = st.builds(
    Trigger,
    name=st.sampled_from(["one", "two", "three"]),
    metric=st.sampled_from(["ttft_ms", "error_ratio", "itl_ms", "cut_off_ratio"]),
    threshold=st.floats(0, 0.99),
    allowed_ratio=st.floats(0.01, 0.5),
    window_s=st.sampled_from([30.0, 60.0]),
    alpha=st.floats(0.0001, 0.1),
    min_requests=st.integers(1, 50),
    action=st.sampled_from(["automatic", "manual"]),
)
policies = st.builds(
    ReleasePolicy,
    quality=st.dictionaries(
        st.sampled_from(["bf16", "int8"]),
        st.builds(
            QualityGate, max_perplexity_ratio=st.none() | st.floats(1, 2), max_mean_kl=st.none() | st.floats(0, 1)
        ),
    ),
    gates=st.lists(gates, max_size=4).map(tuple),
    load=st.builds(
        LoadProfile, requests=st.integers(1, 99), rate_rps=st.floats(0.5, 9), output_tokens=st.integers(1, 99)
    ),
    promotion=st.builds(Promotion, mode=st.sampled_from(["automatic", "manual"])),
    canary=st.builds(
        Canary,
        steps=st.sets(st.sampled_from([0.01, 0.05, 0.25, 0.5]), max_size=3).map(sorted).map(tuple),
        min_requests=st.integers(1, 99),
        beta=st.floats(0.01, 0.9),
        deadline_s=st.floats(1, 99),
        on_deadline=st.sampled_from(["ask", "promote"]),
    ),
    shadow=st.none()
    | st.builds(
        Shadow,
        share_ratio=st.floats(0.01, 1.0),
        duration_s=st.floats(1, 99),
        min_requests=st.integers(1, 99),
        deadline_s=st.floats(100, 999),
        on_deadline=st.sampled_from(["ask", "continue"]),
    ),
    rehearsal=st.sampled_from(["required", "not_required"]),
    no_previous=st.sampled_from(["base", "hold"]),
    triggers=st.lists(triggers, min_size=1, max_size=3, unique_by=lambda item: item.name).map(tuple),
)


@given(policies)
def test_a_policy_is_never_weaker_than_itself(same):
    assert weaknesses(same, same) == []


@given(policies, policies, policies)
def test_tightening_twice_is_tightening(a, b, c):
    if not weaknesses(b, a) and not weaknesses(c, b):
        assert weaknesses(c, a) == []


@given(policies, st.floats(0.01, 0.99))
def test_scaling_every_upper_bound_of_a_policy_down_is_silent_and_up_is_named(stored, factor):
    def scaled(by):
        return tuple(trigger.model_copy(update={"threshold": trigger.threshold * by}) for trigger in stored.triggers)

    tighter = stored.model_copy(update={"triggers": scaled(factor)})
    assert weaknesses(tighter, stored) == []
    looser = stored.model_copy(update={"triggers": scaled(1 / factor)})
    raised = [trigger.name for trigger in stored.triggers if trigger.threshold / factor > trigger.threshold]
    assert len(weaknesses(looser, stored)) == len(raised)


# -- what is no policy ---------------------------------------------------------------------------------------------


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


def test_an_event_changes_for_whom_a_canary_is_drawn_in_neither_direction():
    staff, everyone = with_canary(only_for=("team:staff",)), with_canary()
    for asked, stored in ((staff, everyone), (everyone, staff)):
        assert any("canary.only_for" in weakness for weakness in weaknesses(asked, stored))
    assert weaknesses(staff, staff) == []
