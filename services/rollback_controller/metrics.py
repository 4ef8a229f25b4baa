"""The rollback-controller's Prometheus metrics: standbys without a proof, open alerts."""

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from services.rollback_controller.domain.record import RollbackState
from shared.runtime.metrics import Counts, gauge


class RollbackMetrics:
    """What follows from the records."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._unproven = Counts(gauge(m.STANDBYS_UNPROVEN, registry))
        self._alerts = Counts(gauge(m.ALERTS_OPEN, registry))
        self._unproven.replace("", {(): 0.0})

    def note(self, key: str, state: RollbackState) -> None:
        """Export what is open in a record."""
        standby = state.standby
        self._unproven.replace(key, {(): 1.0} if standby is not None and standby.code is not None else {})
        alerts: dict[tuple[str, ...], float] = {}
        if standby is not None and standby.raised_at is not None:
            alerts[state.environment, "provenance", "warning"] = 1.0
        if state.blind is not None:
            alerts[state.environment, "blind", "critical"] = 1.0
        self._alerts.replace(key, alerts)
