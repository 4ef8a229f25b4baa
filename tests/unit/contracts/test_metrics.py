"""Metrics: declared once, named by Prometheus' conventions, and exported by exactly the services that they name."""

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from contracts.metrics import METRICS, NOTIFICATIONS, Metric
from contracts.services import SERVICES
from services.gateway.callers.tables import KeyTable
from services.gateway.routing.tables import RouteTable
from services.gateway.server.worker_state import WorkerState
from services.gateway.telemetry.metrics import GatewayMetrics
from services.mirror.metrics import MirrorMetrics
from services.monitor.metrics import MonitorMetrics
from services.registry.metrics import RegistryMetrics
from services.server_manager.metrics import FleetMetrics, show_agents
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.metrics import counter
from shared.runtime.service_metrics import ServiceMetrics
from shared.runtime.settings import Connection

NOT_BASE = ("_ms", "_milliseconds", "_minutes", "_hours", "_kilobytes", "_megabytes", "_percent")
UNBOUNDED = {"id", "release", "event", "request", "caller", "key", "user", "trace", "reason_text"}


def of_gateway(registry: CollectorRegistry) -> None:
    GatewayMetrics(registry)
    table, keys = RouteTable({}, None), KeyTable(None, None)
    WorkerState(registry, table, lambda: False, clock=SystemClock(), workers=1, started_s=0.0, keys=keys)


def of_server_manager(registry: CollectorRegistry) -> None:
    FleetMetrics(registry)
    show_agents(registry, {}, bool)


OWN = {
    "gateway": of_gateway,
    "mirror": MirrorMetrics,
    "monitor": MonitorMetrics,
    "notifier": lambda registry: counter(NOTIFICATIONS, registry),
    "registry": RegistryMetrics,
    "server-manager": of_server_manager,
}


def exported(service: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    bus = Bus(Connection(), service, SystemClock())
    ServiceMetrics(bus, Connection())
    OWN.get(service, lambda _: None)(bus.metrics)
    created = dict.fromkeys(bus.metrics._collector_to_names)
    kinds = {}
    for metric in created:
        assert isinstance(metric, MetricWrapperBase)
        name = metric._name + ("_total" if metric._type == "counter" else "")
        kinds[name] = (metric._type, tuple(metric._labelnames))
    return kinds


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_exports_what_is_declared_for_it(service):
    declared = [metric for metric in METRICS if not metric.services or service in metric.services]
    assert exported(service) == {metric.name: (metric.kind, metric.labels) for metric in declared}


def test_every_service_that_is_named_exists():
    assert {name for metric in METRICS for name in metric.services} <= set(SERVICES)


def test_each_name_is_declared_once():
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 50


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_names_follow_the_conventions(metric: Metric):
    assert re.fullmatch(r"slipway(_[a-z0-9]+)+", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not metric.name.removesuffix("_total").endswith(NOT_BASE), "base units: seconds, bytes, ratios"
    assert metric.kind != "histogram" or metric.name.endswith(("_seconds", "_bytes"))
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not metric.text.endswith("."), "a phrase"
    assert all(re.fullmatch(r"[a-z]+", label) for label in metric.labels)
    assert not UNBOUNDED & set(metric.labels), "a label of these has a value for each request or release"
