"""Sets up logs as JSON lines, and traces across services, once per process."""

import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from contracts.version import VERSION
from shared.runtime.settings import Connection

TIMEOUT_S: Final = 5.0


def resource_of(service: str) -> Resource:
    """Return the attributes that all spans of this process share."""
    return Resource.create(
        {
            "service.name": f"slipway-{service}",
            "service.namespace": "slipway",
            "service.version": VERSION,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )


def read_headers(path: Path | None) -> dict[str, str]:
    """Return the headers in a file, one `name: value` a line; none without a file.

    Raises:
        ValueError: A line has another form.
    """
    headers = {}
    for line in path.read_text().splitlines() if path is not None else ():
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip() and value.strip()):
            msg = f"{path} has a line that is not `name: value`"
            raise ValueError(msg)
        if line.strip():
            headers[name.strip().lower()] = value.strip()
    return headers


def span_exporter(connection: Connection) -> SpanExporter | None:
    """Return the exporter of spans to the collector; None if the settings name no collector."""
    if connection.otlp_endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(
        f"{connection.otlp_endpoint.rstrip('/')}/v1/traces",
        headers=read_headers(connection.otlp_headers),
        timeout=TIMEOUT_S,
        certificate_file=str(connection.otlp_ca) if connection.otlp_ca is not None else None,
    )


def configure_logging(service: str, level: str = "INFO") -> None:
    """Configure logging: every log line, also of libraries, is one JSON object on standard error."""
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


def tracer_provider(service: str, connection: Connection) -> TracerProvider:
    """Return the process's tracer provider; it sends spans to the collector that the settings name."""
    sampler = ParentBased(TraceIdRatioBased(connection.trace_sample_ratio))
    provider = TracerProvider(resource=resource_of(service), sampler=sampler)
    exporter = span_exporter(connection)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
