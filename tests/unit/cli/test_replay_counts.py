import random

import pytest

from contracts.facts.watch import InterTokenLatency
from contracts.policy import Trigger
from decisions.evidence.triggers import observe
from decisions.replay.counts import Counted, Unknown, UnreadableHistogramError, count_bad, count_over
from services.monitor.domain import sketch
from services.monitor.domain.record import TargetState
from services.monitor.domain.windows import Windowing, add_to_windows, close_windows
from testbed.factories import after, inference, target
from tests.unit.cli.recordings import ERRORS, SLOW, window


def latencies(seed=3, number=400):
    draw = random.Random(seed)
    return [draw.lognormvariate(6.0, 0.6) for _ in range(number)]


@pytest.mark.parametrize("threshold", [0.0, 0.0005, 120.0, 400.0, 403.4288, 800.0, 1999.9, 86_400_000.0, 1e12])
def test_a_histogram_is_counted_again_at_any_threshold(threshold):
    values = latencies()
    total, over = count_over(sketch.add("", values), threshold)
    assert total == len(values)
    certain = sum(value > threshold * 1.0011 for value in values)
    assert certain <= over <= sum(value > threshold for value in values)


def test_merged_histograms_count_like_their_parts():
    first, second = latencies(1, 80), latencies(2, 120)
    merged = sketch.merge([sketch.add("", first), sketch.add("", second)])
    parts = [count_over(sketch.add("", values), 400.0) for values in (first, second)]
    assert count_over(merged, 400.0) == (sum(part[0] for part in parts), sum(part[1] for part in parts))


def test_nothing_recorded_is_nothing_over():
    assert count_over(sketch.empty_sketch(), 0.0) == (0, 0)


@pytest.mark.parametrize(
    "text",
    ["", "x", "HISTFAAA", "é", "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=", sketch.add("", [1.0, 900.0])[:-8]],
)
def test_an_invalid_histogram_is_refused(text):
    with pytest.raises(UnreadableHistogramError):
        count_over(text, 1.0)
    assert isinstance(count_bad(SLOW, window(0, ttft_histogram=text).data, {}), Unknown)


def test_latencies_are_counted_at_the_new_threshold_each_from_its_own_histogram():
    summary = window(0, requests=60, slow=9, failed=3).data
    assert count_bad(SLOW, summary, {}) == Counted(57, 9)
    assert count_bad(SLOW.model_copy(update={"threshold": 100.0}), summary, {}) == Counted(57, 57)
    ends = SLOW.model_copy(update={"metric": "e2e_ms", "threshold": 1000.0})
    assert count_bad(ends, summary, {}) == Counted(57, 9)


def test_errors_are_those_that_the_target_caused():
    errors = {"engine_dead": 2, "engine_failed": 4, "endpoint_unreachable": 3}
    summary = window(0, requests=60, errors=errors).data.model_copy(update={"target_failures": 3, "other_failures": 6})
    assert count_bad(ERRORS, summary, {}) == Counted(54, 3), "three of the engine's failures were a caller's doing"


@pytest.mark.parametrize(("metric", "flag"), [("refusal_ratio", "refusal"), ("empty_ratio", "empty")])
def test_refusals_and_empty_answers_are_features_of_the_window(metric, flag):
    trigger = Trigger(name="t", metric=metric, threshold=0.1)
    summary = window(0, features={flag: {"count": 57, "mean": 4 / 57, "deviation": 0.2}}).data
    assert count_bad(trigger, summary, {}) == Counted(57, 4)


def test_without_answers_there_are_no_refusals():
    trigger = Trigger(name="t", metric="refusal_ratio", threshold=0.1)
    assert count_bad(trigger, window(0, requests=5, failed=5).data, {}) == Counted(0, 0)


@pytest.mark.parametrize("column", [None, {}, 3, {"count": "many", "mean": 1}])
def test_a_window_without_the_flag_falls_back_to_what_was_observed(column):
    trigger = Trigger(name="refusals", metric="refusal_ratio", threshold=0.1)
    recorded = {"old-name": trigger.model_copy(update={"name": "old-name"})}
    features = {} if column is None else {"refusal": column}
    summary = window(0, features=features, observed={"old-name": (60, 7)}).data
    assert count_bad(trigger, summary, recorded) == Counted(60, 7)
    assert isinstance(count_bad(trigger, summary, {}), Unknown)


def test_repetition_was_counted_only_where_a_trigger_of_the_same_metric_was_declared():
    trigger = Trigger(name="circles", metric="repetition_ratio", threshold=0.1)
    summary = window(0, observed={"circles": (60, 6)}).data
    assert count_bad(trigger, summary, {"circles": trigger}) == Counted(60, 6)
    other = trigger.model_copy(update={"metric": "error_ratio"})
    for recorded in ({}, {"circles": other}, {"round": trigger.model_copy(update={"name": "round"})}):
        counted = count_bad(trigger, summary, recorded)
        assert isinstance(counted, Unknown)
        assert "repetition_ratio" in counted.reason


@pytest.mark.parametrize(
    ("metric", "threshold"), [("itl_ms", 50.0), ("queue_ms", 200.0), ("output_tokens", 8.0), ("logprob_mean", -2.0)]
)
def test_a_figure_of_each_request_was_counted_for_its_own_threshold_only(metric, threshold):
    trigger = Trigger(name="t", metric=metric, threshold=threshold)
    summary = window(0, observed={"t": (60, 6)}).data
    assert count_bad(trigger, summary, {"t": trigger}) == Counted(60, 6)
    other = Trigger(name="t", metric=metric, threshold=threshold * 2)
    counted = count_bad(other, summary, {"t": trigger})
    assert isinstance(counted, Unknown)
    assert f"another threshold then ({threshold:g})" in counted.reason


def test_the_other_side_of_a_length_was_not_counted():
    upper = Trigger(name="t", metric="output_tokens", threshold=8)
    lower = Trigger(name="t", metric="output_tokens", threshold=8, bound="lower")
    assert isinstance(count_bad(lower, window(0, observed={"t": (60, 6)}).data, {"t": upper}), Unknown)


@pytest.mark.parametrize("metric", ["cut_off_ratio", "nan_logits", "goodput_ratio"])
def test_a_share_was_counted_whatever_its_limit(metric):
    then, now = (Trigger(name="t", metric=metric, threshold=limit) for limit in (0.1, 0.5))
    assert count_bad(now, window(0, observed={"t": (60, 6)}).data, {"t": then}) == Counted(60, 6)


def test_drift_is_not_in_window_summaries():
    counted = count_bad(Trigger(name="d", metric="drift", threshold=0.2), window(0).data, {})
    assert isinstance(counted, Unknown)
    assert "drift" in counted.reason


@pytest.mark.parametrize(
    "trigger",
    [
        SLOW,
        SLOW.model_copy(update={"metric": "e2e_ms", "threshold": 700.0}),
        SLOW.model_copy(update={"metric": "itl_ms", "threshold": 25.0}),
        SLOW.model_copy(update={"metric": "queue_ms", "threshold": 40.0}),
        ERRORS,
        Trigger(name="r", metric="refusal_ratio", threshold=0.1),
        Trigger(name="e", metric="empty_ratio", threshold=0.1),
    ],
    ids=lambda item: item.metric,
)
def test_the_monitors_own_summary_counts_as_its_triggers_did(trigger):
    """What the monitor writes of a window gives the counts that its trigger saw request by request."""
    draw = random.Random(7)
    records = []
    for index in range(200):
        failed = draw.random() < 0.1
        about = inference().features
        records.append(
            inference(
                request_id=f"r-{index}",
                target=target(7),
                error="engine_dead" if failed else None,
                ttft_ms=None if failed else draw.lognormvariate(6.0, 0.6),
                e2e_ms=10.0 if failed else draw.lognormvariate(6.5, 0.6),
                itl_ms=None if failed else InterTokenLatency(mean=draw.lognormvariate(3.0, 0.5), p95=1.0, max=1.0),
                queue_ms=None if failed else draw.expovariate(1 / 30),
                forced_metrics=("ttft_ms", "e2e_ms") if not failed and draw.random() < 0.2 else (),
                scheduled_at=after(index * 0.25),
                sent_at=after(index * 0.25),
                features=None
                if failed
                else about.model_copy(update={"refusal": draw.random() < 0.2, "empty": draw.random() < 0.3}),
            )
        )
    state = TargetState(target=target(7), role="active", since=after(0), last_at=after(0))
    _, summaries = close_windows(add_to_windows(state, records, Windowing()), (trigger,), after(600), Windowing())
    seen = [outcome for outcome in (observe(trigger, record) for record in records) if outcome is not None]
    counted = [count_bad(trigger, summary, {}) for summary in summaries]
    assert sum(item.trials for item in counted) == len(seen)
    assert sum(item.hits for item in counted) == pytest.approx(sum(seen), abs=1)
