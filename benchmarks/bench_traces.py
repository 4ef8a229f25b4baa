"""What the spans of a request cost a gateway: `python -m benchmarks.bench_traces`.

A gateway makes two spans of each request: its own, and one for its attempt at a target. A thread of the exporter
encodes and sends them.
Measured is the processor time of both per request, against a collector on this machine that reads nothing.
"""

import http.server
import threading
import time

from services.gateway.telemetry.request_traces import RequestTrace
from shared.runtime.settings import Connection
from shared.runtime.telemetry import tracer_provider
from testbed import factories as k

REQUESTS = 20_000
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class _Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write no log."""


def measure(sample_ratio: float, traceparent: str) -> float:
    """Return the processor time of a request's spans, in microseconds."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    provider = tracer_provider("gateway", Connection(otlp_endpoint=endpoint, trace_sample_ratio=sample_ratio))
    tracer, request = provider.get_tracer("slipway.gateway"), k.inference()
    began = time.process_time()
    for number in range(REQUESTS):
        trace = RequestTrace(tracer, "chat", request.target, request.scheduled_at, traceparent)
        trace.begin_attempt(request.endpoint, request.sent_at)
        trace.end(request)
        if number % 500 == 499:
            provider.force_flush()
    provider.shutdown()
    spent = time.process_time() - began
    server.shutdown()
    return spent / REQUESTS * 1e6


def main() -> None:
    print(f"all requests kept: {measure(1.0, PARENT):.0f} µs of processor time each")
    print(f"one of a hundred kept: {measure(0.01, ''):.0f} µs")


if __name__ == "__main__":
    main()
