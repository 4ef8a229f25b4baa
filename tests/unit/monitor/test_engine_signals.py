"""The monitor on what the engine reports of each request: alerts, windows and drift rows."""

import random

import pytest

from contracts import facts as cf
from contracts.facts.watch import Features, InterTokenLatency
from contracts.trigger_metrics import METRICS
from decisions.evidence.triggers import limit_of
from testbed import factories as f
from tests.unit.monitor import factories as m

PACED = {"itl_ms": InterTokenLatency(mean=80.0, p95=90.0, max=99.0)}
SLO = f.trigger(name="pace", metric="itl_ms", threshold=60)
CASES = [
    (f.trigger(name="t", metric="itl_ms", threshold=50), PACED, "latency", "took more than 50 ms per token"),
    (
        f.trigger(name="t", metric="queue_ms", threshold=200),
        {"queue_ms": 900.0},
        "latency",
        "waited more than 200 ms in the engine's queue",
    ),
    (f.trigger(name="t", metric="goodput_ratio", threshold=0.95), PACED, "latency", "failed or missed an SLO"),
    (
        f.trigger(name="t", metric="cut_off_ratio", threshold=0.05),
        {"finish_reason": "length", "output_tokens": 900},
        "quality",
        "were cut off at the token limit",
    ),
    (
        f.trigger(name="t", metric="output_tokens", threshold=100),
        {"output_tokens": 400},
        "quality",
        "had more than 100 tokens",
    ),
    (
        f.trigger(name="t", metric="output_tokens", threshold=8, bound="lower"),
        {"output_tokens": 2},
        "quality",
        "had fewer than 8 tokens",
    ),
    (
        f.trigger(name="t", metric="logprob_mean", threshold=-2),
        {"logprob_mean": -4.0},
        "quality",
        "had a mean log-probability below -2 nats",
    ),
    (f.trigger(name="t", metric="nan_logits", threshold=0.01), {"nan_logits": True}, "quality", "met NaN logits"),
]


def watch(trigger, bad, **about):
    """Return the monitor's state after 30 s of good requests and 30 s with every second one bad."""
    declared = (trigger, SLO) if trigger.metric == "goodput_ratio" else (trigger,)
    state = m.routed(of=m.watch(the_policy=m.policy(triggers=declared)))
    state = m.feed(state, 30.0, 4, lambda at: m.record(at, **about))
    assert m.published(state, cf.AlertRaised) == []
    draw = random.Random(5)
    return m.feed(state, 30.0, 4, lambda at: m.record(at, **about, **(bad if draw.random() < 0.5 else {})), start=30.0)


@pytest.mark.parametrize(("trigger", "bad", "kind", "text"), CASES, ids=lambda part: getattr(part, "metric", ""))
def test_a_regression_raises_an_alert_that_says_what_is_bad(trigger, bad, kind, text):
    (raised, *others) = [
        alert for alert in m.published(watch(trigger, bad), cf.AlertRaised) if alert.trigger == trigger.name
    ]
    assert others == []
    assert (raised.kind, raised.severity) == (kind, "critical")
    assert raised.limit == pytest.approx(limit_of(trigger))
    assert text in raised.message
    assert raised.first_bad_at >= f.after(30)


@pytest.mark.parametrize(("trigger", "bad", "kind", "text"), CASES, ids=lambda part: getattr(part, "metric", ""))
def test_what_callers_force_raises_none(trigger, bad, kind, text):
    assert m.published(watch(trigger, bad, forced_metrics=tuple(METRICS)), cf.AlertRaised) == []


def test_forced_texts_enter_no_drift_rows():
    def make(at):
        shaped = round(at * 4) % 2 == 0
        refusal = Features(prompt_chars=9, output_chars=9, refusal=shaped)
        return m.record(at, features=refusal, forced_metrics=("refusal_ratio",) if shaped else ())

    state = m.feed(m.routed(of=m.watch()), 60.0, 4, make)
    target = state.targets[str(f.target(7))]
    rows = {len(values) for values in target.drift.columns.values()}
    assert rows == {120}
