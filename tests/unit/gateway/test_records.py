"""Records of a backend that lies: whatever it sends is read, or left out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.records import EngineRecord, ReportedFailure, read_failure, read_record
from testbed.factories import inference
from tests.kit.hostile import ANY_JSON

NAMES = (
    "prompt_tokens",
    "output_tokens",
    "texts",
    "finish_reasons",
    "queue_ms",
    "first_token_ms",
    "logprob_mean",
    "nan_logits",
    "error",
)


def test_a_whole_record():
    raw = {
        "prompt_tokens": 5,
        "output_tokens": 2,
        "texts": [["0.0", "Hi"]],
        "finish_reasons": {"0.0": "stop"},
        "queue_ms": 1.5,
        "logprob_mean": -0.5,
        "error": {"class": "KeyError", "source": "parser"},
    }
    failure = ReportedFailure("KeyError", "parser")
    assert read_record(raw) == EngineRecord(5, 2, (("0.0", "Hi"),), {"0.0": "stop"}, 1.5, -0.5, error=failure)


@pytest.mark.parametrize("mean", [math.nan, -math.inf, math.inf])
def test_a_mean_that_is_no_number_is_nan_logits(mean):
    record = read_record({"logprob_mean": mean})
    assert (record.logprob_mean, record.nan_logits) == (None, True)


@pytest.mark.parametrize("reason", ["\ud800", "x" * 100_000, {"a": ["b"] * 9_999}])
def test_a_finish_reason_can_be_published(reason):
    (read,) = read_record({"finish_reasons": {"0.0": reason}}).finish_reasons.values()
    assert len(inference().model_copy(update={"finish_reason": read}).model_dump_json()) < 2_000


@pytest.mark.parametrize(("noted", "read"), [({}, None), ({"nan_logits": "no"}, None), ({"nan_logits": False}, False)])
def test_without_a_check_nothing_is_known_of_nan(noted, read):
    assert read_record({"logprob_mean": -0.5, **noted}).nan_logits is read


@pytest.mark.parametrize("raw", [None, [1], "x", 5])
def test_no_record_at_all_is_a_failure_of_the_target(raw):
    assert read_failure(200, read_record(raw), b"").kind == "engine_failed"


@given(st.dictionaries(st.sampled_from(NAMES), ANY_JSON), st.none() | st.integers() | st.just("200"))
def test_any_json_is_read(raw, status):
    record = read_record(raw)
    assert record.output_tokens >= 0
    assert record.queue_ms is None or record.queue_ms >= 0
    assert record.logprob_mean is None or record.logprob_mean <= 0
    assert all(isinstance(part, str) for text in record.texts for part in text)
    read_failure(status, record, b"")
