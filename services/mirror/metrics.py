"""The mirror's Prometheus metrics: writes, failures, backlog."""

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from shared.runtime.metrics import counter, gauge


class MirrorMetrics:
    """Counters of writes and failures, and a gauge of models behind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = counter(m.MIRROR_WRITES, registry)
        self.failed = counter(m.MIRROR_FAILURES, registry)
        self.behind = gauge(m.MIRROR_BEHIND, registry)
