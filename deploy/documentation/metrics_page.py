"""The table of Prometheus metrics, from the registries of the programs."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from deploy.documentation.markdown import code, escape, table
from services.gateway.key_table import KeyTable
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from services.gateway.worker_state import WorkerState
from services.monitor.app import Meter
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection


def registries() -> Iterator[tuple[str, CollectorRegistry]]:
    """Return the registries of metrics, each with the heading of its section."""
    yield "Every service", Bus(Connection(), "merger", SystemClock()).metrics
    yield "Gateway", _of_gateway()
    registry = CollectorRegistry()
    Meter(registry)
    yield "Monitor", registry


def _of_gateway() -> CollectorRegistry:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    table, keys = RouteTable({}, None), KeyTable(None, None)
    WorkerState(registry, table, lambda: False, clock=SystemClock(), workers=1, started_s=0.0, keys=keys)
    return registry


def render() -> str:
    """Return a section for each registry."""
    return "\n".join(f"## {heading}\n\n{_table(registry)}" for heading, registry in registries())


def _table(registry: CollectorRegistry) -> str:
    metrics = dict.fromkeys(registry._collector_to_names)  # noqa: SLF001 - the library lists no collectors otherwise
    rows = [_row(metric) for metric in metrics if isinstance(metric, MetricWrapperBase)]
    return table(("metric", "kind", "labels", "meaning"), rows)


def _row(metric: MetricWrapperBase) -> tuple[str, str, str, str]:
    name = metric._name + ("_total" if metric._type == "counter" else "")  # noqa: SLF001 - as it is exported
    labels = ", ".join(code(label) for label in metric._labelnames)  # noqa: SLF001
    return code(name), str(metric._type), labels, escape(metric._documentation)  # noqa: SLF001
