"""What each trigger sees in a request."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts.watch import Features
from decisions.evidence import triggers as meaning
from decisions.evidence.block_tests import Block
from decisions.evidence.hard_failures import Failures, note_failures
from services.monitor.domain import sketch
from services.monitor.domain.windows import features_of
from testbed import factories as f
from tests.unit.monitor import factories as m

LATE = f.trigger(metric="ttft_ms", threshold=800)
LONG = f.trigger(metric="e2e_ms", threshold=800)
FORCED = {"forced_metrics": ("cut_off_ratio", "e2e_ms", "empty_ratio"), "finish_reason": "length"}
LIMITED = {"forced_metrics": ("cut_off_ratio",), "finish_reason": "length"}
SHORT = {"forced_metrics": ("cut_off_ratio", "empty_ratio"), "finish_reason": "length"}
STOPPED = {"forced_metrics": ("empty_ratio", "output_tokens"), "finish_reason": "stop"}
ERRORS = f.trigger(metric="error_ratio", threshold=0.02)


@pytest.mark.parametrize(
    ("trigger", "about", "seen"),
    [
        (LATE, {"ttft_ms": 800.0}, False),
        (LATE, {"ttft_ms": 800.1}, True),
        (LATE, {"ttft_ms": None, "error": "engine_dead", "e2e_ms": 900}, True),
        (LATE, {"ttft_ms": None, "error": "engine_dead", "e2e_ms": 700}, None),
        (LATE, {"ttft_ms": None, "finish_reason": "cancelled", "e2e_ms": 900}, True),
        (LATE, {"ttft_ms": None, "e2e_ms": 900}, True),
        (LATE, {"ttft_ms": None, "e2e_ms": 700}, None),
        (LONG, {"e2e_ms": 900}, True),
        (LONG, {"e2e_ms": 700}, False),
        (LONG, {"e2e_ms": 700, "finish_reason": "cancelled"}, None),
        (LONG, {"e2e_ms": 900, "finish_reason": "cancelled", "output_tokens": 9}, None),
        (LONG, {"e2e_ms": 900, "finish_reason": "cancelled", "output_tokens": 0, "ttft_ms": None}, True),
        # Forced to a length: neither good nor bad.
        (LONG, {"e2e_ms": 900, **FORCED}, None),
        (LONG, {"e2e_ms": 700, **FORCED}, None),
        (LONG, {"e2e_ms": 900, **FORCED, "error": "engine_dead"}, None),
        # A limit or a stop sequence can only make it shorter.
        (LONG, {"e2e_ms": 900, **LIMITED}, True),
        (LONG, {"e2e_ms": 700, **LIMITED}, False),
        (LONG, {"e2e_ms": 900, **STOPPED}, True),
        (LONG, {"e2e_ms": 700, **STOPPED}, False),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, **SHORT, "output_tokens": 15}, None),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, **LIMITED, "output_tokens": 16}, True),
        (LATE, {"ttft_ms": 900.0, **LIMITED}, True),
        (LATE, {"ttft_ms": 700.0, **FORCED}, False),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, **FORCED}, None),
        (LATE, {"ttft_ms": None, "e2e_ms": 900, **FORCED, "output_tokens": 0}, True),
        (ERRORS, {}, False),
        (ERRORS, {"error": "engine_dead"}, True),
        (ERRORS, {"finish_reason": "cancelled"}, None),
    ],
)
def test_latency_and_errors(trigger, about, seen):
    assert meaning.observe(trigger, m.record(**about)) is seen


@pytest.mark.parametrize(
    ("metric", "features", "seen"),
    [
        ("refusal_ratio", {"refusal": True}, True),
        ("empty_ratio", {"empty": True}, True),
        ("empty_ratio", {}, False),
        ("repetition_ratio", {"repetition_ratio": 0.6}, True),
        ("repetition_ratio", {"repetition_ratio": 0.4}, False),
        ("other_language_ratio", {"language_ratio": 0.4}, True),
        ("other_language_ratio", {"language_ratio": 0.5}, False),
        ("other_language_ratio", {"language_ratio": None}, None),
        ("invalid_json_ratio", {"valid_json": False}, True),
        ("invalid_json_ratio", {"valid_json": True}, False),
        ("invalid_json_ratio", {"valid_json": None}, None),
    ],
)
def test_text(metric, features, seen):
    trigger = f.trigger(metric=metric, threshold=0.1)
    assert meaning.observe(trigger, m.record(features=Features(prompt_chars=1, output_chars=1, **features))) is seen
    assert meaning.observe(trigger, m.record(features=None)) is None


@pytest.mark.parametrize(
    ("about", "empty", "seen", "of_empty"),
    [
        ({**SHORT, "output_tokens": 1}, True, None, None),
        ({**LIMITED, "output_tokens": 16}, True, True, True),
        ({**LIMITED, "output_tokens": 16}, False, False, False),
        ({**STOPPED, "output_tokens": 40}, True, None, None),
        ({**FORCED, "output_tokens": 40}, True, None, None),
        # Counting the good ones only would hide the bad ones.
        ({**SHORT, "output_tokens": 1}, False, None, False),
        ({**STOPPED, "output_tokens": 40}, False, None, False),
        ({**FORCED, "output_tokens": 40}, False, None, False),
        ({"output_tokens": 1}, True, True, True),
        ({"output_tokens": 1}, False, False, False),
    ],
)
def test_emptiness_is_judged_only_where_the_callers_parameters_allow_text(about, empty, seen, of_empty):
    trigger = f.trigger(metric="empty_ratio", threshold=0.1)
    record = m.record(features=Features(prompt_chars=1, output_chars=0 if empty else 9, empty=empty), **about)
    assert meaning.observe(trigger, record) is seen
    counted = note_failures(Failures(), [record], [record]).empties.open.counts.values()
    assert list(counted) == ([] if of_empty is None else [Block(requests=1, bad=of_empty)])


@pytest.mark.parametrize("metric", ["ttft_ms", "e2e_ms", "error_ratio", "empty_ratio"])
@pytest.mark.parametrize("about", [{}, {"finish_reason": "cancelled", "ttft_ms": None, "output_tokens": 0}])
def test_a_key_that_is_no_evidence_counts_for_nothing_also_if_it_leaves(metric, about):
    features = Features(prompt_chars=1, output_chars=0, empty=True)
    record = m.record(e2e_ms=90_000.0, features=features, is_evidence=False, **about)
    assert meaning.observe(f.trigger(metric=metric, threshold=0.1), record) is None
    assert features_of(record) == {}


@given(
    about=st.sampled_from([{}, LIMITED, SHORT, STOPPED, FORCED]),
    tokens=st.integers(0, 40),
    finish=st.sampled_from(["stop", "length"]),
    metric=st.sampled_from(["e2e_ms", "empty_ratio"]),
)
def test_whether_a_request_is_seen_never_depends_on_whether_it_is_bad(about, tokens, finish, metric):
    """What a caller sets decides only whether a request counts: else good or bad ones alone would be counted."""
    trigger = f.trigger(metric=metric, threshold=800 if metric == "e2e_ms" else 0.1)

    def seen(bad):
        features = Features(prompt_chars=1, output_chars=0 if bad else 9, empty=bad)
        whole = {"finish_reason": finish, **about}
        return meaning.observe(
            trigger, m.record(e2e_ms=900.0 if bad else 700.0, output_tokens=tokens, features=features, **whole)
        )

    assert (seen(True), seen(False)) in {(True, False), (None, None)}


@pytest.mark.parametrize(("waited_s", "ended_s"), [(0.0, 2.0), (1.5, 2.0), (30.0, 30.0)])
def test_a_request_that_waited_at_the_gateway_is_no_late_one(waited_s, ended_s):
    arrived_at = m.record().scheduled_at
    record = m.record(e2e_ms=2000.0, sent_at=arrived_at + timedelta(seconds=waited_s))
    assert meaning.ended_at(record) == arrived_at + timedelta(seconds=ended_s)


def test_what_nothing_can_exceed_and_drift_are_not_sequential():
    assert meaning.sequential([ERRORS, f.trigger(metric="error_ratio", threshold=1.0), f.trigger(metric="drift")]) == (
        ERRORS,
    )


def test_sketches_merge_and_stay_silent_where_the_sample_is_small():
    small = sketch.add("", [float(value) for value in range(1, 51)])
    both = sketch.merge([small, sketch.add("", [float(value) for value in range(51, 101)])])
    assert sketch.count(both) == 100
    assert sketch.percentile_ms(both, 50.0) == pytest.approx(50, rel=0.01)
    assert sketch.percentile_ms(both, 99.0) == pytest.approx(99, rel=0.01)
    assert sketch.percentile_ms(small, 99.0) is None
