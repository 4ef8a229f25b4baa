"""Spans of requests, by OpenTelemetry's conventions for generative AI; no text, and nothing of who asked."""

from datetime import datetime, timedelta
from typing import Final

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from contracts.facts import Inference

_OPERATION: Final = {"chat": "chat", "responses": "chat", "completion": "text_completion", "embeddings": "embeddings"}
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class RequestTraces:
    """Makes two spans of a request that ended: the gateway's, and below it the engine's, as the gateway measured it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("slipway.gateway")

    def record(self, request: Inference, kind: str, traceparent: str) -> None:
        """Make the spans of a request; its caller's trace goes on if the header is valid, else a new one begins."""
        parent = _PROPAGATOR.extract({"traceparent": traceparent})
        attributes = _attributes(request, kind)
        name = f"{_OPERATION.get(kind, 'generate_content')} {request.target.model}"
        begin, end = _ns(request.scheduled_at), _ns(request.scheduled_at + timedelta(milliseconds=request.e2e_ms))
        own = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=begin)
        if not own.is_recording():
            return
        if request.error is not None:
            own.set_status(Status(StatusCode.ERROR, request.error))
        context = set_span_in_context(own)
        sent = max(begin, _ns(request.sent_at))
        name = f"engine {request.target}"
        engine = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes, start_time=sent)
        if request.ttft_ms is not None:
            first = begin + int(request.ttft_ms * 1e6)
            engine.add_event("gen_ai.first_token", timestamp=max(sent, first))
        engine.end(max(sent, end))
        own.end(end)


def _attributes(request: Inference, kind: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": _OPERATION.get(kind, "generate_content"),
        "gen_ai.provider.name": "slipway",
        "gen_ai.request.model": request.target.model,
        "gen_ai.response.model": str(request.target),
        "gen_ai.response.id": request.request_id,
        "gen_ai.response.finish_reasons": [request.finish_reason] if request.finish_reason else None,
        "gen_ai.usage.input_tokens": request.input_tokens,
        "gen_ai.usage.output_tokens": request.output_tokens,
        "gen_ai.response.time_to_first_chunk": request.ttft_ms / 1000.0 if request.ttft_ms is not None else None,
        "error.type": request.error,
        "slipway.environment": request.environment,
        "slipway.canary": request.canary,
        "slipway.queue_s": request.queue_ms / 1000.0 if request.queue_ms is not None else None,
        "slipway.drill": request.drill,
        "slipway.caused_by": request.caused_by,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1e6) * 1000
