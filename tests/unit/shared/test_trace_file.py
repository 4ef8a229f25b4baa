"""The file of spans: one JSON object per line, of a bounded size."""

import json

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from shared.runtime.telemetry import JsonLinesExporter


def test_a_file_beyond_its_limit_is_put_aside_and_no_span_is_torn(tmp_path):
    path = tmp_path / "logs" / "spans.jsonl"
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(JsonLinesExporter(path, limit_bytes=4000)))
    tracer = provider.get_tracer("tests")
    for number in range(50):
        with tracer.start_as_current_span(f"span {number}"):
            pass
    files = sorted(path.parent.iterdir())
    assert {file.name for file in files} <= {"spans.jsonl", "spans.jsonl.1"}
    assert sum(file.stat().st_size for file in files) < 2 * 6000
    names = [json.loads(line)["name"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert names == [f"span {number}" for number in range(50 - len(names), 50)]
