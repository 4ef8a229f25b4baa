"""Sets up logs as JSON lines, and traces across services, once per process."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from shared.runtime import otlp
from shared.runtime.settings import Connection


def configure_logging(service: str, level: str = "INFO") -> None:
    """Write every log line, ours and those of libraries, as one JSON object on standard error."""
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
    """Appends spans to a file, one JSON object per line, so that a release can be traced without a collector.

    A file of more than `limit_bytes` gets the suffix `.1`, in place of an earlier one, and a new one is begun. Several
    processes may write to it.
    """

    def __init__(self, path: Path, limit_bytes: int = 32 * 1024 * 1024) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limit_bytes = limit_bytes

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append spans to the file."""
        with self._path.open("a") as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json(indent=None))) + "\n")
            file.flush()
            written = os.fstat(file.fileno())
            with contextlib.suppress(FileNotFoundError):  # another process has just begun a new one
                if written.st_size > self._limit_bytes and os.path.samestat(written, self._path.stat()):
                    self._path.replace(f"{self._path}.1")
        return SpanExportResult.SUCCESS


def tracer_provider(service: str, connection: Connection) -> TracerProvider:
    """Return the process's tracer provider; it sends spans to the file and the collector that the settings name."""
    sampler = ParentBased(TraceIdRatioBased(connection.trace_sample_ratio))
    provider = TracerProvider(resource=otlp.resource_of(service), sampler=sampler)
    if connection.trace_file is not None:
        provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(connection.trace_file)))
    exporter = otlp.span_exporter(connection)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def is_traced(connection: Connection) -> bool:
    """Return whether spans go anywhere."""
    return connection.trace_file is not None or connection.otlp_endpoint is not None
