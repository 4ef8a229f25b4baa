"""Spans by OTLP: what a real exporter sends, as a collector reads it."""

import pytest

from services.gateway.telemetry.request_traces import RequestTrace
from shared.runtime.settings import Connection
from shared.runtime.telemetry import read_headers, tracer_provider
from testbed import factories as k
from tests.kit.collector import Collector, plain

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def collector():
    with Collector() as server:
        yield server


def spans_of(collector, request, traceparent="", kind="chat", **settings):
    provider = tracer_provider("gateway", Connection(otlp_endpoint=collector.url, **settings))
    trace = RequestTrace(
        provider.get_tracer("slipway.gateway"), kind, request.target, request.scheduled_at, traceparent
    )
    trace.begin_attempt(request.endpoint, request.sent_at)
    trace.end(request)
    provider.shutdown()
    return collector.spans


def test_a_request_is_a_span_of_its_callers_trace_with_the_engine_below(collector, tmp_path):
    (tmp_path / "headers").write_text("Authorization: Bearer s3cret\n")
    request = k.inference(finish_reason="stop", error=None)
    gateway, engine = sorted(
        spans_of(collector, request, PARENT, otlp_headers=tmp_path / "headers"),
        key=lambda span: span.name != f"chat {k.MODEL}",
    )
    assert {span.trace_id.hex() for span in (gateway, engine)} == {TRACE}
    assert gateway.parent_span_id.hex() == "00f067aa0ba902b7"
    assert engine.parent_span_id == gateway.span_id
    assert gateway.start_time_unix_nano <= engine.start_time_unix_nano <= engine.end_time_unix_nano
    attributes = plain(gateway.attributes)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == k.MODEL
    assert attributes["gen_ai.response.model"] == str(request.target)
    assert attributes["gen_ai.usage.output_tokens"] == request.output_tokens
    assert attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert [event.name for event in engine.events] == ["gen_ai.first_token"]
    assert collector.headers[0]["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 10_000])
def test_a_header_that_is_no_trace_begins_a_new_one(collector, header):
    spans = spans_of(collector, k.inference(), header)
    assert len({span.trace_id for span in spans}) == 1
    assert any(not span.parent_span_id for span in spans)


def test_a_failed_request_says_so(collector):
    spans = spans_of(collector, k.inference(error="engine_failed"), kind="completion")
    gateway = next(span for span in spans if span.name.startswith("text_completion"))
    assert gateway.status.code == 2
    assert plain(gateway.attributes)["error.type"] == "engine_failed"


def test_none_of_a_share_of_zero_is_sent_but_what_a_caller_decided(collector):
    assert spans_of(collector, k.inference(), trace_sample_ratio=0.0) == []
    assert len(spans_of(collector, k.inference(), PARENT, trace_sample_ratio=0.0)) == 2


def test_a_collector_that_is_down_costs_nothing_but_the_data(collector):
    collector.down = True
    assert spans_of(collector, k.inference()) == []


@pytest.mark.parametrize("text", ["authorization", ": x", "a:"])
def test_headers_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "headers").write_text(text)
    with pytest.raises(ValueError, match="not `name: value`"):
        read_headers(tmp_path / "headers")
