"""Sends spans and metrics to a collector by OTLP over HTTP, with OpenTelemetry's exporters, if one is configured."""

import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Metric

from contracts.version import VERSION
from shared.runtime.settings import Connection

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

TIMEOUT_S: Final = 5.0
_NS: Final = 1_000_000_000
Labels = tuple[tuple[str, str], ...]


def resource_of(service: str) -> "Resource":
    """Return what all spans and metrics of this process have in common."""
    from opentelemetry.sdk.resources import Resource

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


def span_exporter(connection: Connection) -> "SpanExporter | None":
    """Return what sends spans to the collector; None if the settings name none."""
    if connection.otlp_endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(f"{connection.otlp_endpoint.rstrip('/')}/v1/traces", **_options(connection))


def _options(connection: Connection) -> dict[str, Any]:
    return {
        "headers": read_headers(connection.otlp_headers),
        "timeout": TIMEOUT_S,
        **({"certificate_file": str(connection.otlp_ca)} if connection.otlp_ca is not None else {}),
    }


class MetricsPush:
    """Sends a registry of Prometheus metrics to the collector, with the names that `/metrics` shows."""

    def __init__(self, connection: Connection, service: str, registry: CollectorRegistry, started_s: float) -> None:
        """Send nothing yet.

        Args:
            connection: The collector's address; it must have one.
            service: Whose metrics they are.
            registry: The metrics.
            started_s: When counting began, in Unix time.
        """
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        endpoint = f"{str(connection.otlp_endpoint).rstrip('/')}/v1/metrics"
        self._exporter = OTLPMetricExporter(endpoint, **_options(connection))
        self._registry, self._resource = registry, resource_of(service)
        self._started_ns = int(started_s * _NS)

    def push(self, now_s: float) -> bool:
        """Send the metrics as they are now, within `TIMEOUT_S`; return whether the collector has them."""
        from opentelemetry.sdk.metrics.export import MetricExportResult

        data = metrics_data(self._registry.collect(), self._resource, self._started_ns, int(now_s * _NS))
        return self._exporter.export(data) is MetricExportResult.SUCCESS

    def close(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()


def metrics_data(families: Iterable[Metric], resource: "Resource", started_ns: int, now_ns: int) -> "MetricsData":
    """Return Prometheus metrics as OpenTelemetry's: counters as cumulative sums, histograms with explicit bounds."""
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [_metric(family, started_ns, now_ns) for family in families if family.type in _KINDS]
    scope = export.ScopeMetrics(InstrumentationScope("slipway", VERSION), metrics, "")
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


_KINDS: Final = ("counter", "gauge", "histogram")
_UNITS: Final[Mapping[str, str]] = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}


def _metric(family: Metric, started_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics import export

    cumulative = export.AggregationTemporality.CUMULATIVE
    unit = next((unit for ending, unit in _UNITS.items() if family.name.endswith(ending)), "")
    if family.type == "histogram":
        points = [_histogram_point(*series, started_ns, now_ns) for series in _by_labels(family).items()]
        return export.Metric(family.name, family.documentation, unit, export.Histogram(points, cumulative))
    series_name = f"{family.name}_total" if family.type == "counter" else family.name
    numbers = [
        export.NumberDataPoint(dict(sample.labels), started_ns, now_ns, sample.value)
        for sample in family.samples
        if sample.name == series_name
    ]
    data = export.Sum(numbers, cumulative, is_monotonic=True) if family.type == "counter" else export.Gauge(numbers)
    return export.Metric(series_name, family.documentation, unit, data)


def _by_labels(family: Metric) -> dict[Labels, dict[str, float]]:
    """Return the samples of a histogram by its labels: those of its buckets by their upper limit, `sum`, `count`."""
    series: dict[Labels, dict[str, float]] = defaultdict(dict)
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        ending = sample.name.removeprefix(f"{family.name}_")
        if ending in ("bucket", "sum", "count"):
            series[labels][sample.labels["le"] if ending == "bucket" else ending] = sample.value
    return series


def _histogram_point(labels: Labels, samples: dict[str, float], started_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics import export

    bounds = sorted(float(name) for name in samples if name not in ("sum", "count", "+Inf"))
    limits = {float(name): count for name, count in samples.items() if name not in ("sum", "count")}
    reached = [limits[bound] for bound in (*bounds, float("inf"))]
    counts = [int(upper - lower) for lower, upper in zip([0.0, *reached], reached, strict=False)]
    return export.HistogramDataPoint(
        dict(labels), started_ns, now_ns, int(samples["count"]), samples["sum"], counts, bounds,
        None, None,  # type: ignore[arg-type]  # Prometheus knows neither the least nor the largest value
    )  # fmt: skip
