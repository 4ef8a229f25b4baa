"""Whatever a policy declares that admission takes: the monitor counts, assesses and decides, and so does what follows."""

from typing import get_args

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clients.cli.policies.policy_times import explain_times
from contracts.policy import Canary, Shadow, Trigger
from contracts.trigger_metrics import SLO_METRICS, TriggerMetric
from decisions.policies.limits import find_endless
from services.monitor.domain import monitoring
from services.rollback_controller.domain.rehearsal_plan import Load, advise_time, assess_fault, plan_fault
from testbed import factories as f
from tests.kit.soak import often
from tests.unit.monitor.factories import RULES, cause, failed, feed, policy, record, routed, watch

RATIOS = st.sampled_from([5e-324, 1e-300, 1e-100, 1e-15, 1e-6, 0.001, 0.05, 0.5, 0.999, 1.0 - 1e-16])
NUMBERS = st.sampled_from([0.0, 5e-324, 1e-6, 0.001, 0.05, 1.0 - 1e-16, 1.0, 20.0, 800.0, 1e9, 3e9, 1e15, 1e100, 1e308])
REQUESTS = st.sampled_from([1, 2, 20, 100, 10**6, 10**9])

NO_ERROR = f.trigger(name="a", metric="error_ratio", threshold=0.0, min_requests=20)


@st.composite
def triggers(draw, name):
    about = {"name": name, "metric": draw(st.sampled_from(get_args(TriggerMetric))), "min_requests": draw(REQUESTS)}
    about |= {"allowed_ratio": draw(RATIOS), "alpha": draw(RATIOS)}
    about["threshold"] = draw(NUMBERS) * draw(st.sampled_from([1.0, -1.0]))
    about["window_s"] = max(5e-324, draw(NUMBERS))
    try:
        return Trigger(**about)
    except ValidationError:
        return f.trigger(name=name, metric="error_ratio", threshold=draw(st.sampled_from([0.0, 5e-324, 0.02, 1e308])))


def feed_both(state, start, fails_each):
    """Feed the active version and the canary for some seconds: good, slow, empty and failed requests, one in so many."""

    def make(at):
        number = round(at * 20)
        about = {"version": 7 + number % 2, "output_tokens": (0, 5, 200)[number % 3]}
        return (
            failed(at, **about)
            if number % fails_each == 0
            else record(at, ttft_ms=9000.0 if number % 5 else 50.0, **about)
        )

    return feed(state, 4, 20, make, start=start)


@settings(max_examples=often(25))
@given(triggers("a"), triggers("b"), REQUESTS, st.sampled_from([4, 41]))
@example(NO_ERROR, f.trigger(name="b"), 1, 41)
def test_no_declared_number_ends_an_assessment_with_an_error(one_trigger, other, requests, fails_each):
    declared = (one_trigger, other)
    metrics = {trigger.metric for trigger in declared}
    assume("goodput_ratio" not in metrics or metrics.intersection(SLO_METRICS))  # else it is no policy
    shadow = Shadow(duration_s=1.0, deadline_s=3e9, min_requests=requests)
    whole = policy(triggers=declared, canary=Canary(steps=(0.4,), min_requests=requests), shadow=shadow)
    assume(find_endless(whole) is None)
    assert explain_times(whole, 1.0)
    state = routed(of=watch(the_policy=whole, versions=(6, 7, 8)), canary=8, weight=0.4)
    state = feed_both(state, 1, fails_each)
    for seconds in (30, 900, 90_000):
        state = monitoring.assess(state, cause(seconds), RULES)
    assert feed_both(state, 90_010, fails_each).targets
    for trigger in declared:
        fault = plan_fault(trigger)
        assess_fault(trigger, fault, Load(), 60.0)
        if fault is not None:
            assert advise_time(trigger, fault, Load(), 60.0)
