"""A caller's trace through the gateway to an engine: real Triton, a gateway's process, the spans of a collector."""

import httpx
import pytest

from contracts.routes import Route
from shared.storage.kv import Bucket
from testbed.factories import route
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from tests.kit.collector import plain

pytestmark = pytest.mark.real
CALLER = "00f067aa0ba902b7"
HELLO = {"model": "toy", "messages": [{"role": "user", "content": "zebra"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def served(triton):
    return load_toy(triton, "toy", 1, token_delay_ms="20", fail_text="FAILTEXT")


@pytest.fixture
async def gateway(nats_server, js, served, collector, tmp_path):
    """A gateway that sends its spans to the collector."""
    process = Gateway(tmp_path, connection(nats_server, None, tmp_path))
    process.variables |= collector.variables
    await Bucket(js, "routes", Route).create("toy", route(model="toy", canary=None, active=served, previous=None))
    with running(process):
        wait_until(lambda: process.get("/v1/models/toy"), what="the route in the gateway")
        yield process


def ask(gateway, traceparent, **changes):
    """Send a request with a trace's header; return the status of the answer."""
    headers = {**gateway.headers, "traceparent": traceparent}
    address = f"{gateway.base_url}/v1/chat/completions"
    return httpx.post(address, json={**HELLO, **changes}, headers=headers, timeout=30).status_code


def seconds(span):
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


async def test_a_trace_goes_from_the_callers_header_to_each_attempt(collector, gateway, served):
    attempted = f"engine {served.target}"
    for number, stream in enumerate((False, True), start=1):
        trace_id = str(number) * 32
        assert ask(gateway, f"00-{trace_id}-{CALLER}-01", stream=stream) == 200
        spans = {span.name: span for span in collector.await_spans(trace_id, 2)}
        assert set(spans) == {"chat toy", attempted}
        assert spans["chat toy"].parent_span_id.hex() == CALLER
        assert spans[attempted].parent_span_id == spans["chat toy"].span_id
        assert spans["chat toy"].start_time_unix_nano <= spans[attempted].start_time_unix_nano
        assert seconds(spans[attempted]) > 0.06  # four steps of 20 ms
        attributes = plain(spans[attempted].attributes)
        assert attributes["gen_ai.operation.name"] == "chat"
        assert attributes["gen_ai.usage.output_tokens"] == 5
        assert attributes["gen_ai.response.finish_reasons"] == ["length"]
        assert 0 <= attributes["slipway.queue_s"] <= attributes["gen_ai.response.time_to_first_chunk"]
    assert "zebra" not in str(collector.requests), "no text leaves"

    failed = "3" * 32
    assert ask(gateway, f"00-{failed}-{CALLER}-01", messages=[{"role": "user", "content": "FAILTEXT"}]) == 502
    spans = collector.await_spans(failed, 3)
    assert {span.status.code for span in spans} == {2}
    attempts = {span.span_id for span in spans if span.name == attempted}
    assert len(attempts) == 2, "it is tried again"

    dropped, kept = "4" * 32, "5" * 32
    assert ask(gateway, f"00-{dropped}-{CALLER}-00") == 200
    for hostile in ("nonsense", f"00-{'0' * 32}-{CALLER}-01", "x" * 5_000, '00-"}-01'):
        assert ask(gateway, hostile) == 200
    assert ask(gateway, f"00-{kept}-{CALLER}-01") == 200
    collector.await_spans(kept, 2)
    assert not [span for span in collector.spans if span.trace_id.hex() == dropped]
