"""Durations that end: what a policy may declare, and what becomes of older policies that declare more."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.policy import Canary, Deadlines, LoadProfile, Promotion, Shadow
from decisions.evidence.observation import recent
from decisions.policies.limits import LONGEST_S, PolicyProblem, find_endless
from decisions.releases.calendar import later
from testbed.factories import policy, trigger

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
BEYOND = st.floats(min_value=LONGEST_S, exclude_min=True, allow_infinity=False, allow_nan=False)
DURATIONS = {
    **{("deadlines", name): lambda s, name=name: {"deadlines": Deadlines(**{name: s})} for name in Deadlines.model_fields},
    ("promotion", "approval_deadline_s"): lambda s: {"promotion": Promotion(approval_deadline_s=s)},
    ("canary", "deadline_s"): lambda s: {"canary": Canary(deadline_s=s)},
    ("shadow", "duration_s"): lambda s: {"shadow": Shadow(duration_s=s, deadline_s=1.01 * s)},
    ("shadow", "deadline_s"): lambda s: {"shadow": Shadow(deadline_s=s)},
    ("rehearsal_valid_s",): lambda s: {"rehearsal_valid_s": s},
    ("triggers", 0, "window_s"): lambda s: {"triggers": (trigger(window_s=s),)},
}  # fmt: skip


@pytest.mark.parametrize("field", DURATIONS)
def test_a_duration_of_more_than_a_hundred_years_is_refused_wherever_it_is(field):
    assert find_endless(policy(**DURATIONS[field](3e9))) is None
    endless = find_endless(policy(**DURATIONS[field](1e13)))
    name = ".".join(map(str, field))
    assert endless == PolicyProblem(field, f"{name} is 1e+13 s; the limit is 3,153,600,000 s (100 years): lower it.")


def test_a_benchmark_that_cannot_end_in_its_time_is_refused():
    slow = policy(load=LoadProfile(requests=100, rate_rps=0.01))
    assert find_endless(slow) == PolicyProblem(
        ("load", "rate_rps"),
        "load.rate_rps is 0.01, so that 100 requests and the longest answer take 10060 s; deadlines.benchmark_s is "
        "3600 s: raise one of them, or lower load.requests or load.timeout_s.",
    )
    assert find_endless(slow.model_copy(update={"deadlines": Deadlines(benchmark_s=10_061)})) is None
    years = policy(load=LoadProfile(requests=100_000, rate_rps=1e-3), deadlines=Deadlines(benchmark_s=3e9))
    assert "take 1e+08 s; the limit is 14,400 s, because others wait for it: raise it" in find_endless(years).reason
    silent = policy(load=LoadProfile(timeout_s=3_600.0))
    assert "take 3620 s; deadlines.benchmark_s is 3600 s" in find_endless(silent).reason
    endless = find_endless(policy(load=LoadProfile(warmup_requests=1_001)))
    assert endless.reason == "load.warmup_requests is 1001; the limit is 1,000: lower it."
    assert len(find_endless(policy(load=LoadProfile(warmup_requests=10**4000))).reason) < 100


@pytest.mark.parametrize(
    ("field", "changes", "reason"),
    [
        (
            ("canary", "min_requests"),
            {"canary": Canary(min_requests=10**400)},
            "is 1e+400; the limit is 1,000,000,000",
        ),
        (
            ("shadow", "min_requests"),
            {"shadow": Shadow(min_requests=10**10)},
            "is 1e+10; the limit is 1,000,000,000",
        ),
        (("triggers", 0, "min_requests"), {"triggers": (trigger(min_requests=10**400),)}, "is 1e+400; the limit is"),
        (
            ("triggers", 0, "alpha"),
            {"triggers": (trigger(alpha=5e-324),)},
            "is 4.94066e-324; the least is 1e-100: raise it.",
        ),
    ],
)
def test_evidence_that_never_comes_is_refused(field, changes, reason):
    """The monitor failed at each request of such a model."""
    endless = find_endless(policy(**changes))
    assert endless.field == field
    assert f"{'.'.join(map(str, field))} {reason}" in endless.reason


@given(st.floats(min_value=0.0, max_value=LONGEST_S), st.floats(min_value=0.0, allow_infinity=False, allow_nan=False))
def test_every_time_is_in_the_calendar_and_what_may_be_declared_is_exact(declared, seconds):
    assert later(NOW, declared) == NOW + timedelta(seconds=declared)
    assert NOW <= later(NOW, seconds) <= datetime(9000, 1, 1, tzinfo=UTC)


@given(BEYOND)
def test_a_trigger_of_an_older_policy_is_counted_however_long_its_window_is(seconds):
    assert recent((), seconds, NOW).window.to == NOW
