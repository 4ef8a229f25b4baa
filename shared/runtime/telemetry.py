"""Logs as JSON lines, spans that cross hops, and metrics; set up once per process."""

import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


def configure_logging(service: str, level: str = "INFO") -> None:
    """Write every log line, ours and the libraries', as one JSON object on standard error."""
    shared_steps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    structlog.configure(
        processors=[*shared_steps, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared_steps,
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _add_trace(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event


class JsonLinesExporter(SpanExporter):
    """Appends spans to a file, one JSON object a line: enough to follow a release where no collector runs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append spans to the file."""
        with self._path.open("a") as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json(indent=None))) + "\n")
        return SpanExportResult.SUCCESS


def tracer_provider(service: str, trace_file: Path | None) -> TracerProvider:
    """Make the process's tracer provider; spans go to `trace_file` when one is set."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"slipway-{service}"}))
    if trace_file is not None:
        provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(trace_file)))
    return provider


def traceparent_for(correlation_id: str) -> str:
    """Return the W3C traceparent of what is said about a release: its trace id follows from the release's id.

    So one trace holds a release whole, also where a fact was said on a timer or after a restart and no span was
    there to hand on. The parent is the current span, if there is one.
    """
    digest = hashlib.sha256(correlation_id.encode()).hexdigest()
    current = trace.get_current_span().get_span_context()
    parent = f"{current.span_id:016x}" if current.is_valid else digest[32:48]
    return f"00-{digest[:32]}-{parent}-01"
