"""OpenTelemetry spans of requests (semantic conventions for generative AI), without texts and callers."""

import re
from datetime import datetime, timedelta
from typing import Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from contracts.facts import Inference
from contracts.vocabulary import Target

_OPERATION: Final = {"chat": "chat", "responses": "chat", "completion": "text_completion", "embeddings": "embeddings"}
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class RequestTrace:
    """The trace of one request: a gateway span with a child span for each attempt at a target.

    Without a tracer, the caller's trace context is passed to the target unchanged.
    """

    def __init__(self, tracer: Tracer | None, kind: str, target: Target, at: datetime, traceparent: str) -> None:
        self._tracer, self._kind, self._target = tracer, kind, target
        self._given = traceparent if _TRACEPARENT.fullmatch(traceparent) else None
        self._begin_ns = _ns(at)
        self._attempt: Span | None = None
        self._own: Span | None = None
        if tracer is not None:
            parent = _PROPAGATOR.extract({"traceparent": traceparent})
            name = f"{_OPERATION.get(kind, 'generate_content')} {target.model}"
            self._own = tracer.start_span(name, parent, SpanKind.SERVER, start_time=self._begin_ns)

    def begin_attempt(self, endpoint: str, at: datetime) -> str | None:
        """Begin an attempt's span; return the `traceparent` for the target, None without a trace."""
        if self._tracer is None or self._own is None:
            return self._given
        begin_ns = max(self._begin_ns, _ns(at))
        if self._attempt is not None:
            self._attempt.set_status(Status(StatusCode.ERROR, "the attempt failed; another one follows"))
            self._attempt.end(begin_ns)
        below = set_span_in_context(self._own)
        name = f"engine {self._target}"
        attempt = self._attempt = self._tracer.start_span(name, below, SpanKind.CLIENT, start_time=begin_ns)
        attempt.set_attribute("server.address", endpoint)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(attempt))
        return carrier.get("traceparent")

    def end(self, request: Inference) -> None:
        """End the spans of a request, with the measurements of its record."""
        own, attempt = self._own, self._attempt
        if own is None or not own.is_recording():
            return
        end_ns = _ns(request.scheduled_at + timedelta(milliseconds=request.e2e_ms))
        attributes = _attributes(request, self._kind)
        if attempt is not None:
            sent_ns = max(self._begin_ns, _ns(request.sent_at))
            attempt.set_attributes(attributes)
            if request.ttft_ms is not None:
                first_ns = self._begin_ns + int(request.ttft_ms * 1e6)
                attempt.add_event("gen_ai.first_token", timestamp=max(sent_ns, first_ns))
            _close(attempt, request, max(sent_ns, end_ns))
        own.set_attributes(attributes)
        _close(own, request, end_ns)


def _close(span: Span, request: Inference, end_ns: int) -> None:
    if request.error is not None:
        span.set_status(Status(StatusCode.ERROR, request.error))
    span.end(end_ns)


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
