"""Which telemetry records can be true."""

import pytest

from contracts.facts import Inference
from contracts.facts.watch import InterTokenLatency
from services.monitor.domain.observation import is_plausible
from tests.unit.monitor import factories as k


@pytest.mark.parametrize(
    ("figures", "plausible"),
    [
        ({}, True),
        ({"queue_ms": None, "logprob_mean": None, "ttft_ms": None}, True),
        ({"queue_ms": 0.0, "logprob_mean": 0.0}, True),
        ({"queue_ms": -0.1}, False),
        ({"queue_ms": 1e9}, False),
        ({"logprob_mean": 0.1}, False),
        ({"ttft_ms": -1.0}, False),
        ({"e2e_ms": 86_400_000.0}, False),
        ({"itl_ms": InterTokenLatency(mean=1.0, p95=-1.0, max=2.0)}, False),
        ({"output_tokens": -1}, False),
    ],
)
def test_figures_that_cannot_be_true(figures, plausible):
    assert is_plausible(k.record(**figures)) == plausible


def test_a_record_of_an_older_gateway_has_none_of_the_engines_figures():
    fields = ("queue_ms", "logprob_mean", "nan_logits", "forced_metrics")
    older = Inference.model_validate({n: v for n, v in k.record().model_dump().items() if n not in fields})
    assert (older.queue_ms, older.logprob_mean, older.nan_logits, older.forced_metrics) == (None, None, None, ())
    assert is_plausible(older)
