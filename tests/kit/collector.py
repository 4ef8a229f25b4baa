"""A collector that takes OTLP over HTTP and reads it as the protocol's own messages."""

import gzip
import http.server
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from testbed.servers import wait_until
from tests.kit.local_http import LocalHttp


def plain(attributes: Any) -> dict[str, Any]:
    """Return OTLP attributes as a dictionary."""
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@dataclass
class Collector(LocalHttp):
    """Notes what it is sent; answers 503 while `down`."""

    down: bool = False
    requests: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The variables that let a process send its spans here, soon after they end."""
        return {"SLIPWAY_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def await_spans(self, trace_id: str, count: int) -> list[Any]:
        """Wait for the spans of a trace and return them."""

        def found() -> list[Any] | None:
            spans = [span for span in self.spans if span.trace_id.hex() == trace_id]
            return spans if len(spans) >= count else None

        return wait_until(found, timeout_s=20, what=f"{count} spans of {trace_id}")

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if not collector.down:
                    message = ExportTraceServiceRequest()
                    message.ParseFromString(body)
                    collector.requests.append(message)
                    collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(503 if collector.down else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write no log."""

        return Handler
