"""Triggers on what the engine reports of a request: pace, queue, length, probability, NaN, and goodput."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import DrillFault, Inference
from contracts.facts.watch import Features, InterTokenLatency
from contracts.policy import Trigger
from contracts.trigger_metrics import CANCELLED, METRICS, REPETITIVE, SLO_METRICS
from decisions.evidence.block_tests import plan_line
from decisions.evidence.observation import close_trigger, fresh_trigger, observe_outcomes
from decisions.evidence.observe_loop import assess_trigger
from decisions.evidence.triggers import limit_of, observe, outcomes_of, sequential
from decisions.rollback.drills import change_record
from services.rollback_controller.domain.rehearsal_plan import plan_fault
from testbed import factories as f
from tests.unit.monitor import factories as m

FORCED = {
    "forced_metrics": ("cut_off_ratio", "e2e_ms", "empty_ratio", "logprob_mean", "output_tokens", "repetition_ratio")
}
SHAPED = {"forced_metrics": (*FORCED["forced_metrics"], "refusal_ratio")}
LIMITED = {"forced_metrics": ("cut_off_ratio",), "finish_reason": "length"}
STOPPED = {"forced_metrics": ("empty_ratio", "output_tokens"), "finish_reason": "stop"}
CUT_OFF = {"finish_reason": "length", "output_tokens": 900, "input_tokens": 61}
DEAD = {"error": "engine_dead", "finish_reason": None, "features": None}

PACE = f.trigger(name="pace", metric="itl_ms", threshold=50)
QUEUE = f.trigger(name="queue", metric="queue_ms", threshold=200)
LATE = f.trigger(name="late", metric="ttft_ms", threshold=800)
LONG = f.trigger(name="long", metric="e2e_ms", threshold=3000)
CUT = f.trigger(name="cut", metric="cut_off_ratio", threshold=0.05)
WORDY = f.trigger(name="wordy", metric="output_tokens", threshold=100)
TERSE = f.trigger(name="terse", metric="output_tokens", threshold=8, bound="lower")
UNSURE = f.trigger(name="unsure", metric="logprob_mean", threshold=-2.0)
NAN = f.trigger(name="nan", metric="nan_logits", threshold=0.01)
ERRORS = f.trigger(name="errors", metric="error_ratio", threshold=0.02)
EMPTY = f.trigger(name="empty", metric="empty_ratio", threshold=0.02)
REFUSALS = f.trigger(name="refusals", metric="refusal_ratio", threshold=0.02)
LANGUAGE = f.trigger(name="language", metric="other_language_ratio", threshold=0.02, action="manual")
INVALID = f.trigger(name="invalid", metric="invalid_json_ratio", threshold=0.02, action="manual")
CIRCLES = f.trigger(name="circles", metric="repetition_ratio", threshold=0.02)
GOODPUT = f.trigger(name="goodput", metric="goodput_ratio", threshold=0.95)
SLOS = (PACE, QUEUE, LATE, LONG)
OF_REQUESTS = sorted(metric for metric, rule in METRICS.items() if rule.limits != "distance")
ALL = (*SLOS, CUT, WORDY, TERSE, UNSURE, NAN, ERRORS, EMPTY, REFUSALS, LANGUAGE, INVALID, CIRCLES, GOODPUT)


def paced(ms):
    return InterTokenLatency(mean=ms, p95=2 * ms, max=3 * ms)


@pytest.mark.parametrize(
    ("trigger", "about", "seen"),
    [
        (PACE, {"itl_ms": paced(50.0)}, False),
        (PACE, {"itl_ms": paced(50.1)}, True),
        (PACE, {"itl_ms": None}, None),
        (PACE, {"itl_ms": paced(60.0), **DEAD}, True),
        (PACE, {"itl_ms": paced(60.0), "finish_reason": CANCELLED}, True),
        (PACE, {"itl_ms": paced(40.0), "finish_reason": CANCELLED}, False),
        (PACE, {"itl_ms": paced(60.0), **LIMITED}, True),
        (PACE, {"itl_ms": paced(60.0), **FORCED}, True),
        (PACE, {"itl_ms": paced(60.0), **SHAPED}, True),
        (PACE, {"itl_ms": paced(60.0), "forced_metrics": ("itl_ms",)}, None),
        (QUEUE, {"queue_ms": 200.0}, False),
        (QUEUE, {"queue_ms": 200.1}, True),
        (QUEUE, {"queue_ms": 0.0}, False),
        (QUEUE, {"queue_ms": None}, None),
        (QUEUE, {"queue_ms": 300.0, "finish_reason": CANCELLED}, True),
        (QUEUE, {"queue_ms": 300.0, **SHAPED}, True),
        (CUT, CUT_OFF, True),
        (CUT, {"finish_reason": "stop"}, False),
        (CUT, {"finish_reason": None}, None),
        (CUT, {"finish_reason": CANCELLED}, None),
        (CUT, DEAD, None),
        (CUT, {**CUT_OFF, **LIMITED}, None),
        (CUT, {"finish_reason": "stop", "forced_metrics": ("cut_off_ratio",)}, None),
        (CUT, STOPPED, False),
        (CUT, {**CUT_OFF, **FORCED}, None),
        (CUT, {"finish_reason": "stop", **FORCED}, None),
        (CUT, {**CUT_OFF, "input_tokens": 900}, True),
        (CUT, {**CUT_OFF, "input_tokens": 901}, None),  # the prompt filled the context
        (CUT, {**CUT_OFF, "input_tokens": 901, "drill": "d"}, True),
        (CUT, {**CUT_OFF, **SHAPED}, None),
        (CUT, {**CUT_OFF, **LIMITED, "drill": "d"}, None),
        (WORDY, {"output_tokens": 100, "finish_reason": "stop"}, False),
        (WORDY, {"output_tokens": 101, "finish_reason": "stop"}, True),
        (WORDY, {"output_tokens": 101, **LIMITED}, True),
        (WORDY, {"output_tokens": 99, **LIMITED}, False),
        (WORDY, {"output_tokens": 101, **STOPPED}, None),
        (WORDY, {"output_tokens": 101, **FORCED}, None),
        (WORDY, {"output_tokens": 101, "finish_reason": CANCELLED}, None),
        (WORDY, {"output_tokens": 101, **DEAD}, None),
        (TERSE, {"output_tokens": 8, "finish_reason": "stop"}, False),
        (TERSE, {"output_tokens": 7, "finish_reason": "stop"}, True),
        (TERSE, {"finish_reason": "length", "output_tokens": 7}, False),  # it would have gone on
        (TERSE, {**LIMITED, "output_tokens": 7}, False),
        (TERSE, {**STOPPED, "output_tokens": 7}, None),
        (TERSE, {**STOPPED, "output_tokens": 90}, None),
        (TERSE, {**FORCED, "output_tokens": 90}, None),
        (TERSE, {"output_tokens": 0, "finish_reason": None}, None),  # an embedding
        (UNSURE, {"logprob_mean": -2.0}, False),
        (UNSURE, {"logprob_mean": -2.1}, True),
        (UNSURE, {"logprob_mean": 0.0}, False),
        (UNSURE, {"logprob_mean": None}, None),
        (UNSURE, {"logprob_mean": -2.1, **LIMITED}, True),
        (UNSURE, {"logprob_mean": -2.1, **FORCED}, None),
        (UNSURE, {"logprob_mean": -2.1, **SHAPED}, None),
        (UNSURE, {"logprob_mean": -2.1, **DEAD}, None),
        (UNSURE, {"logprob_mean": -2.1, "finish_reason": CANCELLED}, None),
        (NAN, {}, False),
        (NAN, {"nan_logits": None}, None),
        (NAN, {"nan_logits": True}, True),
        (NAN, {"nan_logits": True, **DEAD}, True),
        (NAN, {"nan_logits": True, "finish_reason": CANCELLED}, None),
        (NAN, {"nan_logits": True, **SHAPED}, True),
        (ERRORS, {**DEAD, **SHAPED}, True),
        (ERRORS, SHAPED, False),
    ],
)
def test_what_a_trigger_sees(trigger, about, seen):
    assert observe(trigger, m.record(**about)) is seen


@pytest.mark.parametrize(
    ("about", "seen"),
    [
        ({}, False),
        ({"ttft_ms": 900.0}, True),
        ({"itl_ms": paced(60.0)}, True),
        ({"queue_ms": 300.0}, True),
        ({"e2e_ms": 3100.0}, True),
        ({"itl_ms": None, "queue_ms": None}, False),
        ({"ttft_ms": None, **DEAD}, True),
        ({"finish_reason": CANCELLED}, None),  # a caller that leaves has measured less
        ({"finish_reason": CANCELLED, "ttft_ms": 900.0}, True),
        ({"finish_reason": CANCELLED, "ttft_ms": None, "itl_ms": None, "queue_ms": None}, None),
        ({"caused_by": "caller", "error": "bad_request"}, None),
        ({"caused_by": "infrastructure", "error": "engine_dead"}, None),
        ({"ttft_ms": 900.0, "forced_metrics": ("ttft_ms",)}, False),
        ({"ttft_ms": 900.0, "forced_metrics": ("goodput_ratio",)}, None),
        ({**DEAD, **SHAPED}, True),
        ({"e2e_ms": 3100.0, **FORCED}, False),  # its length is the caller's; the rest was in time
        ({"e2e_ms": 3100.0, **LIMITED}, True),
    ],
)
def test_goodput_counts_what_met_every_declared_slo(about, seen):
    assert observe(GOODPUT, m.record(**about), ALL) is seen


@pytest.mark.parametrize(("ratio", "seen"), [(REPETITIVE - 0.01, False), (REPETITIVE, True)])
def test_an_answer_is_repetitive_from_the_ratio_on_that_is_declared(ratio, seen):
    record = m.record()
    features = record.features.model_copy(update={"repetition_ratio": ratio})
    assert observe(CIRCLES, record.model_copy(update={"features": features})) is seen


def test_json_that_ended_at_a_limit_is_not_invalid():
    record = m.record(finish_reason="length")
    features = record.features.model_copy(update={"valid_json": False})
    assert observe(INVALID, record.model_copy(update={"features": features})) is False
    assert observe(INVALID, record.model_copy(update={"features": features, "finish_reason": "stop"})) is True


def test_goodput_heeds_only_the_slos_that_are_declared():
    late = m.record(ttft_ms=900.0)
    assert observe(GOODPUT, late, (PACE, GOODPUT)) is False
    assert observe(GOODPUT, late, (LATE, GOODPUT)) is True
    assert observe(GOODPUT, m.record(**DEAD), (ERRORS, GOODPUT)) is None


def test_the_ratio_that_each_trigger_allows():
    assert [limit_of(trigger) for trigger in (PACE, QUEUE, WORDY, TERSE, UNSURE)] == [0.05] * 5
    assert [limit_of(trigger) for trigger in (CUT, NAN)] == [0.05, 0.01]
    assert limit_of(GOODPUT) == pytest.approx(0.05)
    assert limit_of(ERRORS.model_copy(update={"threshold": 2.0})) == 1.0
    assert sequential(ALL) == ALL
    assert {trigger.metric for trigger in ALL} == set(OF_REQUESTS)


# -- no evidence that a caller causes ---------------------------------------------------------------------------------

records = st.builds(
    m.record,
    ttft_ms=st.none() | st.floats(0, 2000),
    itl_ms=st.none() | st.floats(0, 100).map(paced),
    e2e_ms=st.floats(0, 5000),
    queue_ms=st.none() | st.floats(0, 500),
    input_tokens=st.integers(1, 200),
    output_tokens=st.integers(0, 200),
    finish_reason=st.sampled_from(["stop", "length", None, CANCELLED]),
    logprob_mean=st.none() | st.floats(-5, 0),
    nan_logits=st.none() | st.booleans(),
    features=st.none()
    | st.builds(
        Features,
        prompt_chars=st.just(9),
        output_chars=st.just(9),
        repetition_ratio=st.floats(0, 1),
        refusal=st.booleans(),
        empty=st.booleans(),
        language_ratio=st.none() | st.floats(0, 1),
        valid_json=st.none() | st.booleans(),
    ),
)


@given(records, st.sets(st.sampled_from(OF_REQUESTS)))
def test_a_metric_that_the_caller_forces_and_no_other_is_without_evidence(record, metrics):
    forced = record.model_copy(update={"forced_metrics": tuple(sorted(metrics))})
    for trigger in ALL:
        if trigger.metric in metrics:
            assert observe(trigger, forced, ALL) is None
        elif trigger.metric not in ("goodput_ratio", "ttft_ms"):  # they look at others, too
            assert observe(trigger, forced, ALL) is observe(trigger, record, ALL)


@given(records, st.sampled_from(["caller", "gateway", "infrastructure"]))
def test_what_another_party_caused_is_no_evidence(record, party):
    excused = record.model_copy(update={"error": "engine_failed", "caused_by": party, "finish_reason": None})
    assert all(observe(trigger, excused, ALL) is None for trigger in ALL)


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_callers_limit_makes_up_no_defect(natural, cap):
    """What an answer counts as under the caller's limit is never bad where it would have been good without one."""

    def answer(limit):
        capped = limit is not None and limit < natural
        return m.record(
            input_tokens=1,
            output_tokens=limit if capped else natural,
            finish_reason="length" if capped else "stop",
            forced_metrics=("cut_off_ratio",) if limit is not None else (),
        )

    for trigger in (CUT, WORDY, TERSE):
        assert not (observe(trigger, answer(cap)) and not observe(trigger, answer(None)))


# -- a stream of requests ---------------------------------------------------------------------------------------------


def answer(draw: random.Random, at: float, **changes) -> Inference:
    whole = {
        "ttft_ms": 300.0 * draw.lognormvariate(0, 0.3),
        "itl_ms": paced(20.0 * draw.lognormvariate(0, 0.2)),
        "e2e_ms": 1000.0 * draw.lognormvariate(0, 0.2),
        "queue_ms": draw.expovariate(1 / 20),
        "output_tokens": draw.randint(10, 90),
        "finish_reason": "stop",
        "logprob_mean": -draw.uniform(0.2, 1.2),
    }
    return m.record(at, **(whole | changes))


REGRESSIONS = [
    (PACE, {"itl_ms": paced(80.0)}),
    (QUEUE, {"queue_ms": 900.0}),
    (CUT, CUT_OFF),
    (WORDY, {"output_tokens": 400}),
    (TERSE, {"output_tokens": 2}),
    (UNSURE, {"logprob_mean": -4.0}),
    (NAN, {"nan_logits": True}),
    (GOODPUT, {"itl_ms": paced(80.0)}),
    (GOODPUT, {"ttft_ms": None, **DEAD}),
]


BATCH = 10
LINE = plan_line(168.0, len(ALL))


def first_alarm(trigger: Trigger, records: list[Inference], role: str) -> int | None:
    """Return after how many requests a trigger fires; None if it does not."""
    state = fresh_trigger(role)
    for start in range(0, len(records), BATCH):
        state = observe_outcomes(state, trigger, outcomes_of(trigger, records[start : start + BATCH], ALL))
        state, _ = close_trigger(state, trigger, f.after(start + BATCH))
        if assess_trigger(trigger, state, f.after(start + BATCH), line=LINE).fired:
            return start + BATCH
    return None


@pytest.mark.parametrize("role", ["canary", "active"])
@pytest.mark.parametrize(("trigger", "bad"), REGRESSIONS, ids=lambda part: getattr(part, "name", ""))
def test_a_trigger_fires_on_a_regression(trigger, bad, role):
    """A third of the answers is bad, from the hundredth on."""
    draw = random.Random(7)
    stream = [answer(draw, at, **(bad if at >= 100 and draw.random() < 0.33 else {})) for at in range(400)]
    alarm = first_alarm(trigger, stream, role)
    assert alarm is not None
    assert 100 < alarm < 220


@pytest.mark.parametrize("trigger", ALL, ids=lambda trigger: trigger.name)
def test_callers_alone_fire_nothing(trigger):
    """Callers who force, cap, stop, shape, cancel and send long prompts to a healthy target."""
    draw = random.Random(3)
    ways = (
        {**SHAPED, **CUT_OFF, "logprob_mean": -9.0},
        {**FORCED, **CUT_OFF, "logprob_mean": -9.0, "e2e_ms": 30_000.0},
        {**LIMITED, "output_tokens": 3, "e2e_ms": 300.0},
        {**STOPPED, "output_tokens": 3},
        {"finish_reason": "length", "input_tokens": 500, "output_tokens": 40},
        {"finish_reason": CANCELLED, "output_tokens": 2},
        {"error": "bad_request", "finish_reason": None, "ttft_ms": None, "e2e_ms": 9000.0},
    )
    stream = [answer(draw, at, **draw.choice(ways)) for at in range(1000)]
    assert first_alarm(trigger, stream, "active") is None


# -- drills -----------------------------------------------------------------------------------------------------------


def faulted(fault: DrillFault, record: Inference) -> Inference:
    """Return the record that a gateway publishes of an answer under a fault (`contracts.drills`)."""
    delay_ms = fault.delay_ms + fault.queue_delay_ms
    gap_ms = float(fault.token_delay_ms)
    itl = record.itl_ms or paced(0.0)
    features = record.features or Features(prompt_chars=9, output_chars=9)
    texts = {
        "empty": features.model_copy(update={"output_chars": 0, "empty": True}),
        "refusal": features.model_copy(update={"refusal": True}),
    }
    changes = {
        "drill": "drill-1",
        "ttft_ms": (record.ttft_ms or 0.0) + delay_ms,
        "itl_ms": InterTokenLatency(mean=itl.mean + gap_ms, p95=itl.p95 + gap_ms, max=itl.max + gap_ms),
        "e2e_ms": record.e2e_ms + delay_ms + gap_ms * record.output_tokens,
        "features": texts.get(fault.answer or "", features.model_copy(update={"repetition_ratio": 0.9}))
        if fault.answer in texts or fault.garble
        else features,
    }
    if fault.error_ratio:
        changes |= {"error": "engine_failed", "finish_reason": None, "ttft_ms": None, "features": None}
    return change_record(fault, record.model_copy(update=changes))


thresholds = {
    "logprob_mean": st.floats(-1000, -0.001),
    "output_tokens": st.floats(1, 1e8),
    **dict.fromkeys(SLO_METRICS, st.floats(0, 299_000)),
}


@pytest.mark.parametrize(
    ("metric", "bound"),
    [*((metric, None) for metric, rule in METRICS.items() if rule.fault), ("output_tokens", "lower")],
)
@given(data=st.data(), logprob=st.none() | st.floats(-5, 0), queue=st.none() | st.floats(0, 10))
def test_every_trigger_finds_a_rehearsed_answer_bad(metric, bound, data, logprob, queue):
    """The answers of a rehearsal have a forced length; the fault of the trigger is beyond any threshold."""
    threshold = data.draw(thresholds.get(metric, st.floats(0.001, 0.9)))
    trigger = Trigger(name="t", metric=metric, threshold=threshold, bound=bound)
    fault = plan_fault(trigger)
    assert fault is not None
    assert fault == DrillFault.model_validate(fault.model_dump())
    healthy = m.record(logprob_mean=logprob, queue_ms=queue, finish_reason="length", **FORCED)
    assert observe(trigger, faulted(fault, healthy), (trigger, LATE)) is True


EVERYTHING = DrillFault(answer="cut", queue_delay_ms=800, output_tokens=3, logprob_shift=-2.0, nan_logits=True)


def test_a_fault_changes_what_telemetry_reports_of_a_complete_answer():
    changed = change_record(EVERYTHING, m.record(finish_reason="stop", queue_ms=5.0, logprob_mean=-0.5, **FORCED))
    assert (changed.queue_ms, changed.output_tokens, changed.logprob_mean) == (805.0, 3, -2.5)
    assert (changed.finish_reason, changed.nan_logits) == ("length", True)
    unmeasured = change_record(EVERYTHING, m.record(finish_reason="stop", queue_ms=None, logprob_mean=None))
    assert (unmeasured.queue_ms, unmeasured.logprob_mean) == (800.0, -2.0)


@pytest.mark.parametrize("about", [{"finish_reason": CANCELLED}, {"finish_reason": None}, DEAD])
def test_a_fault_changes_only_the_queue_of_an_answer_that_did_not_end(about):
    record = m.record(queue_ms=None, **about)
    assert change_record(EVERYTHING, record) == record.model_copy(update={"queue_ms": 800.0})


@given(records)
def test_a_fault_that_only_delays_fails_or_alters_text_changes_no_figure_of_a_record(record):
    assert change_record(DrillFault(), record) is record
    delayed = change_record(DrillFault(delay_ms=9, token_delay_ms=9, error_ratio=0.5, garble=True), record)
    assert delayed.model_copy(update={"forced_metrics": record.forced_metrics}) == record
    assert not {"ttft_ms", "e2e_ms", "repetition_ratio"} & {*delayed.forced_metrics}
