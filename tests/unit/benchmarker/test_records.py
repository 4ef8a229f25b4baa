"""The figures of one request, after the definitions of the design."""

import pytest

from services.benchmarker.domain.records import RequestRecord, has_lost_baseline
from tests.unit.benchmarker.factories import record

ONE = RequestRecord(
    side="candidate",
    pair=0,
    prompt=0,
    scheduled_s=1.0,
    sent_s=1.2,
    first_s=1.5,
    last_s=2.5,
    done_s=2.6,
    input_tokens=3,
    output_tokens=11,
)


def test_ttft_counts_from_the_scheduled_arrival():
    assert ONE.ttft_ms == pytest.approx(500)


def test_itl_is_the_span_between_first_and_last_over_tokens_less_one():
    assert ONE.itl_ms == pytest.approx(100)


def test_itl_needs_two_tokens():
    assert record(tokens=1).itl_ms is None
    assert record(tokens=1).ttft_ms is not None


def test_e2e_and_tokens_per_second_include_the_waiting():
    assert ONE.e2e_ms == pytest.approx(1500)
    assert ONE.tps_request == pytest.approx(11 / 1.5)


def test_a_failed_request_has_no_figures_even_when_it_began_to_answer():
    failed = RequestRecord(**{**ONE.__dict__, "error": "engine_dead"})
    assert (failed.ttft_ms, failed.itl_ms, failed.e2e_ms, failed.tps_request) == (None,) * 4


@pytest.mark.parametrize(
    ("candidate", "baseline", "expected"),
    [
        (None, None, False),
        ("engine_dead", None, False),
        ("timeout", "timeout", False),
        (None, "endpoint_unreachable", True),
        ("engine_dead", "engine_dead", True),
        ("engine_dead", "empty", False),
    ],
)
def test_only_a_baseline_whose_engine_went_away_voids_a_measurement(candidate, baseline, expected):
    records = (record(), record(error=candidate), record(side="baseline"), record(side="baseline", error=baseline))
    assert has_lost_baseline(records) is expected
