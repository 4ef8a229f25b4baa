"""The rollback-controller's Prometheus metrics: open alerts."""

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from services.rollback_controller.domain.record import RollbackState
from shared.runtime.metrics import Counts, gauge


class RollbackMetrics:
    """Metrics of the records."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._alerts = Counts(gauge(m.ALERTS_OPEN, registry))

    def note(self, key: str, state: RollbackState) -> None:
        """Export what is open in a record."""
        alerts: dict[tuple[str, ...], float] = {}
        if state.blind is not None:
            alerts[state.environment, "blind", "critical"] = 1.0
        self._alerts.replace(key, alerts)
