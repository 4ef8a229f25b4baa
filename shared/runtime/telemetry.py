"""Sets up logs as JSON lines, and traces across services, once per process."""

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from contracts.version import VERSION
from shared.runtime.settings import Connection

TIMEOUT_S: Final = 5.0


def read_headers(path: Path | None) -> dict[str, str]:
    """Return the headers in a file, one `name: value` a line; none without a file.

    Raises:
        ValueError: A line has another form.
    """
    headers = {}
    for line in path.read_text().splitlines() if path is not None else ():
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip() and value.strip()):
            raise ValueError(f"{path} has a line that is not `name: value`")
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


class JsonLinesExporter(SpanExporter):
    """Appends spans to a file, one JSON object per line, for traces without a collector.

    A file above `limit_bytes` is renamed with the suffix `.1`, replacing an earlier one. Several processes may write.
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
    """Return the process's tracer provider, which exports to the file and the collector in the settings."""
    sampler = ParentBased(TraceIdRatioBased(connection.trace_sample_ratio))
    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.name": f"slipway-{service}",
                "service.namespace": "slipway",
                "service.version": VERSION,
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        ),
        sampler=sampler,
    )
    if connection.trace_file is not None:
        provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(connection.trace_file)))
    exporter = span_exporter(connection)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
