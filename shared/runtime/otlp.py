"""Sends spans to a collector by OTLP over HTTP, with OpenTelemetry's exporter, if one is configured."""

import os
import socket
from pathlib import Path
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter

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
