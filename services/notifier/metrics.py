"""The notifier's Prometheus metrics, and which models wait."""

from collections import Counter

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from services.notifier.domain import notices, silences
from services.notifier.domain.record import ModelNotices
from shared.runtime.clock import Clock
from shared.runtime.metrics import Counts, counter, gauge

OUTCOMES = ("sent", "failed", "given_up")


class NotifierMetrics:
    """What was sent, and what follows from the records."""

    def __init__(self, registry: CollectorRegistry, receivers: tuple[str, ...], clock: Clock) -> None:
        self._clock = clock
        self._sent = counter(m.NOTIFICATIONS, registry)
        self._waiting = Counts(gauge(m.NOTIFICATIONS_WAITING, registry))
        self._silenced = Counts(gauge(m.ALERTS_SILENCED, registry))
        self._silenced.replace("", {(): 0.0})
        self._models: set[str] = set()
        for receiver in receivers:  # rules watch them, and `increase` does not see a series that begins at 1
            for outcome in OUTCOMES:
                self._sent.labels(receiver, outcome)

    def count(self, receiver: str, outcome: str) -> None:
        """Count a try."""
        self._sent.labels(receiver, outcome).inc()

    def note(self, model: str, record: ModelNotices) -> None:
        """Export what waits in a record, and remember whether anything does."""
        if notices.is_waiting(record):
            self._models.add(model)
        else:
            self._models.discard(model)
        waiting = Counter[tuple[str, ...]]()
        for notice in record.notices.values():
            waiting.update((name,) for name, queue in notice.queues.items() if queue and queue[0].attempts > 0)
        self._waiting.replace(model, waiting)
        now = self._clock.now()
        silenced = sum(silences.is_silenced(record, notice, now) for notice in notices.open_notices(record))
        self._silenced.replace(model, {(): float(silenced)} if silenced else {})

    def waiting_models(self) -> list[str]:
        """Return the models of which something is yet to be sent."""
        return sorted(self._models)
