"""The spans of the engine's work for a request that belongs to a trace, sent by OTLP with OpenTelemetry's exporter.

A request that is traced carries a `traceparent`: below that span comes one of the engine, by the conventions for
generative AI, with its phases below it: `queue`, `prefill` and `decode`. Their durations are the engine's own, from the
records of the answer; they are placed by the time at which its first token was reported. No text is in any of them.

Set by the environment of tritonserver, as for all services: SLIPWAY_OTLP_ENDPOINT, SLIPWAY_OTLP_HEADERS (a file with a
line `name: value` for each header) and SLIPWAY_OTLP_CA. Without an endpoint nothing is made, and nothing imported.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from engine_tensors import HttpAsk, HttpPiece

EXPORT_S = 5.0
CLOSE_S = 2.0
"""Time for the last spans to be sent while the model is unloaded, in seconds."""
MS = 1_000_000
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
Send = Callable[[HttpPiece], None]


class EngineSpans:
    """Makes the spans of requests; one for each model."""

    def __init__(self, provider: Any, system: str) -> None:
        """Take a tracer provider, or None to make no spans, and what kind of engine answers."""
        self._provider = provider
        self._tracer = provider.get_tracer("slipway.engine") if provider is not None else None
        self._system = system

    @classmethod
    def from_environment(cls, system: str) -> "EngineSpans":
        """Return what sends spans to the collector of the environment; it makes none if the environment names none."""
        endpoint = os.environ.get("SLIPWAY_OTLP_ENDPOINT")
        try:
            return cls(_provider(endpoint) if endpoint else None, system)
        except (ImportError, OSError, ValueError) as error:
            pb_utils.Logger.log_error(f"the engine sends no spans to SLIPWAY_OTLP_ENDPOINT: {error!r}")
            return cls(None, system)

    def follow(self, ask: HttpAsk, send: Send) -> "RequestSpans":
        """Return what passes the parts of an answer on to `send`, and makes the spans at its end."""
        return RequestSpans(ask, send, self._tracer if ask.traceparent else None, self._system)

    def close(self) -> None:
        """Send what is left, within a time limit: a collector that does not answer must not delay the unloading."""
        if self._provider is not None:
            closing = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
            closing.start()
            closing.join(CLOSE_S)


def _provider(endpoint: str) -> Any:
    """Return a tracer provider that keeps what the sender of a request decided to keep."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    resource = Resource.create({"service.name": "slipway-engine", "service.namespace": "slipway"})
    provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    ca = os.environ.get("SLIPWAY_OTLP_CA")
    exporter = OTLPSpanExporter(
        f"{endpoint.rstrip('/')}/v1/traces",
        headers=_headers(os.environ.get("SLIPWAY_OTLP_HEADERS")),
        timeout=EXPORT_S,
        **({"certificate_file": ca} if ca else {}),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _headers(path: str | None) -> dict[str, str]:
    """Return the headers in a file; raise ValueError if a line is not `name: value`."""
    headers = {}
    for line in Path(path).read_text().splitlines() if path else ():
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip() and value.strip()):
            message = f"{path} has a line that is not `name: value`"
            raise ValueError(message)
        if line.strip():
            headers[name.strip().lower()] = value.strip()
    return headers


class RequestSpans:
    """Passes on the parts of one answer, and notes what their records say."""

    def __init__(self, ask: HttpAsk, send: Send, tracer: Any, system: str) -> None:
        """Begin now; `tracer` is None if no spans are made."""
        self._ask, self._pass_on, self._tracer, self._system = ask, send, tracer, system
        self._began_ns = time.time_ns()
        self._record: dict[str, Any] = {}
        self._first_ns: int | None = None
        self._last_ns = self._began_ns
        self._finish_reasons: dict[str, str] = {}

    def send(self, piece: HttpPiece) -> None:
        """Send a part of the answer; make the spans after the last one."""
        self._pass_on(piece)
        if self._tracer is None:
            return
        self._last_ns = time.time_ns()
        self._record.update(piece.record)
        self._finish_reasons.update(piece.record.get("finish_reasons", {}))
        if self._first_ns is None and piece.record.get("first_token_ms") is not None:
            self._first_ns = self._last_ns
        if piece.last:
            self.close()

    def close(self) -> None:
        """Make the spans, unless they were made: an answer that its caller aborted has no last part."""
        if self._tracer is None:
            return
        tracer, self._tracer = self._tracer, None
        try:
            self._make(tracer)
        except Exception as error:  # noqa: BLE001 - a span that cannot be made must not fail the answer
            pb_utils.Logger.log_error(f"the spans of {self._ask.request_id} could not be made: {error!r}")

    def _make(self, tracer: Any) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": self._ask.traceparent or ""})
        attributes = self._attributes()
        name = f"{attributes['gen_ai.operation.name']} {self._ask.model} (engine)"
        own = tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=self._began_ns)
        error = self._record.get("error")
        if isinstance(error, Mapping):
            own.set_status(Status(StatusCode.ERROR, str(error.get("source"))))
            own.set_attribute("error.type", str(error.get("class")))
        below = set_span_in_context(own)
        for phase, start_ns, end_ns in self._phases():
            tracer.start_span(phase, below, SpanKind.INTERNAL, start_time=start_ns).end(end_ns)
        own.end(self._last_ns)

    def _phases(self) -> list[tuple[str, int, int]]:
        """Return name, start and end of each phase; none without a token."""
        if self._first_ns is None:
            return []
        queued_ns = max(self._began_ns, self._first_ns - int(self._record["first_token_ms"] * MS))
        scheduled_ns = min(self._first_ns, queued_ns + int(self._record.get("queue_ms", 0.0) * MS))
        ends = (queued_ns, scheduled_ns, self._first_ns, self._last_ns)
        return [(name, *ends[at : at + 2]) for at, name in enumerate(("queue", "prefill", "decode"))]

    def _attributes(self) -> dict[str, Any]:
        record, seconds = self._record, {name: (end - start) / 1e9 for name, start, end in self._phases()}
        attributes = {
            "gen_ai.operation.name": OPERATIONS.get(self._ask.path, "generate_content"),
            "gen_ai.provider.name": self._system,
            "gen_ai.request.model": self._ask.model,
            "gen_ai.response.id": self._ask.request_id,
            "gen_ai.response.finish_reasons": sorted(set(self._finish_reasons.values())) or None,
            "gen_ai.usage.input_tokens": record.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": record.get("output_tokens"),
            "gen_ai.usage.cache_read.input_tokens": record.get("cached_tokens"),
            "gen_ai.latency.time_in_queue": seconds.get("queue"),
            "gen_ai.latency.time_in_model_prefill": seconds.get("prefill"),
            "gen_ai.latency.time_in_model_decode": seconds.get("decode"),
        }
        return {name: value for name, value in attributes.items() if value is not None}
