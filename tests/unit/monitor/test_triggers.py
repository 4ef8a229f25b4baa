"""What each trigger sees in a request."""

import pytest

from contracts import triggers as meaning
from contracts.facts.watch import Features
from services.monitor.domain import sketch
from services.monitor.domain.triggers import count_runs
from tests.kit import factories as f
from tests.unit.monitor import factories as m

LATE = f.trigger(metric="ttft_ms", threshold=800)
LONG = f.trigger(metric="e2e_ms", threshold=800)
ERRORS = f.trigger(metric="error_ratio", threshold=0.02)


@pytest.mark.parametrize(
    ("trigger", "about", "seen"),
    [
        (LATE, {"ttft_ms": 800.0}, False), (LATE, {"ttft_ms": 800.1}, True),
        (LATE, {"ttft_ms": None, "error": "engine_dead", "e2e_ms": 900}, True),
        (LATE, {"ttft_ms": None, "error": "engine_dead", "e2e_ms": 700}, None),
        (LATE, {"ttft_ms": None, "finish_reason": "cancelled", "e2e_ms": 900}, True),
        (LATE, {"ttft_ms": None, "e2e_ms": 900}, True), (LATE, {"ttft_ms": None, "e2e_ms": 700}, None),
        (LONG, {"e2e_ms": 900}, True), (LONG, {"e2e_ms": 700}, False),
        (LONG, {"e2e_ms": 700, "finish_reason": "cancelled"}, None),
        (LONG, {"e2e_ms": 900, "finish_reason": "cancelled", "output_tokens": 9}, None),
        (LONG, {"e2e_ms": 900, "finish_reason": "cancelled", "output_tokens": 0, "ttft_ms": None}, True),
        (LONG, {"e2e_ms": 900, "bound_by_caller": True}, None), (LONG, {"e2e_ms": 700, "bound_by_caller": True}, False),
        (LONG, {"e2e_ms": 900, "bound_by_caller": True, "drill": "d"}, True),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, "bound_by_caller": True}, None),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, "bound_by_caller": True, "output_tokens": 0}, True),
        (ERRORS, {}, False), (ERRORS, {"error": "engine_dead"}, True), (ERRORS, {"finish_reason": "cancelled"}, None),
    ],
)  # fmt: skip
def test_latency_and_errors(trigger, about, seen):
    assert meaning.observe(trigger, m.record(**about)) is seen


@pytest.mark.parametrize(
    ("metric", "features", "seen"),
    [("refusal_ratio", {"refusal": True}, True), ("empty_ratio", {"empty": True}, True), ("empty_ratio", {}, False),
     ("repetition_ratio", {"repetition_ratio": 0.6}, True), ("repetition_ratio", {"repetition_ratio": 0.4}, False)],
)  # fmt: skip
def test_text(metric, features, seen):
    trigger = f.trigger(metric=metric, threshold=0.1)
    assert meaning.observe(trigger, m.record(features=Features(prompt_chars=1, output_chars=1, **features))) is seen
    assert meaning.observe(trigger, m.record(features=None)) is None


@pytest.mark.parametrize(("about", "seen"), [({}, False), ({"drill": "d"}, True)])
def test_no_answer_is_empty_under_a_stop_or_limit_of_the_callers(about, seen):
    trigger = f.trigger(metric="empty_ratio", threshold=0.1)
    record = m.record(features=Features(prompt_chars=1, output_chars=0, empty=True), bound_by_caller=True, **about)
    assert meaning.observe(trigger, record) is seen
    assert count_runs((0, 3), record) == (0, 4 if seen else 0)


def test_what_nothing_can_exceed_and_drift_are_not_sequential():
    assert meaning.sequential([ERRORS, f.trigger(metric="error_ratio", threshold=1.0), f.trigger(metric="drift")]) == (ERRORS,)


def test_sketches_merge_and_stay_silent_where_the_sample_is_small():
    one = sketch.add("", [float(value) for value in range(1, 51)])
    both = sketch.merge([one, sketch.add("", [float(value) for value in range(51, 101)])])
    assert sketch.count(both) == 100
    assert sketch.percentile_ms(both, 50.0) == pytest.approx(50, rel=0.01)
    assert sketch.percentile_ms(both, 99.0) == pytest.approx(99, rel=0.01)
    assert sketch.percentile_ms(one, 99.0) is None
