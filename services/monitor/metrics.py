"""Prometheus metrics of the monitor: telemetry by gateway, open alerts, drift."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from contracts.facts import Inference
from contracts.vocabulary import Environment, Target
from services.monitor.domain.drift import DriftVerdict
from services.monitor.domain.monitoring import Sender
from services.monitor.domain.record import MonitorState
from shared.runtime.metrics import BoundedLabel, Counts, counter, gauge


class MonitorMetrics:
    """Metrics of telemetry, sweeps, alerts and drift."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._offset = gauge(m.CLOCK_OFFSET, registry)
        self._arrived = counter(m.RECORDS_ARRIVED, registry)
        self._swept = gauge(m.MONITOR_SWEPT, registry)
        self._implausible = counter(m.RECORDS_IMPLAUSIBLE, registry)
        self._open = Counts(gauge(m.ALERTS_OPEN, registry))
        self._drift = gauge(m.DRIFT, registry)
        self._gateway, self._target = BoundedLabel(), BoundedLabel()

    def count(self, sender: Sender, implausible: int) -> None:
        """Export a gateway's clock offset, and count its implausible records."""
        gateway = self._gateway(sender.gateway)
        self._offset.labels(gateway).set(sender.offset_s)
        self._implausible.labels(gateway).inc(implausible)

    def count_arrived(self, records: Iterable[Inference]) -> None:
        """Count the records that arrived, including ignored ones, by environment and target."""
        for (environment, target), number in Counter((record.environment, record.target) for record in records).items():
            self._arrived.labels(environment, self._target(target)).inc(number)

    def note_sweep(self, at: datetime) -> None:
        """Export the time of the last sweep."""
        self._swept.set(at.timestamp())

    def note(self, key: str, state: MonitorState) -> None:
        """Export the open alerts of a record."""
        alerts = [alert for alert in state.alerts.values() if alert.open]
        self._open.replace(key, Counter((state.environment, alert.kind, alert.severity) for alert in alerts))

    def note_comparison(self, environment: Environment, target: Target, verdict: DriftVerdict) -> None:
        """Export each feature's Kolmogorov-Smirnov distance from a target's reference."""
        for column in verdict.columns:
            self._drift.labels(environment, self._target(target), column.column).set(column.statistic)
