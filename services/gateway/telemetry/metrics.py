"""Prometheus metrics of requests, by environment and target."""

from typing import get_args

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from contracts.facts import Inference
from contracts.vocabulary import Environment
from services.gateway.api import body_bans
from services.gateway.telemetry import recorder
from shared.runtime.metrics import BoundedLabel, counter, gauge, histogram


class GatewayMetrics:
    """Counters and histograms, updated with one record per request.

    Counters, histograms and requests in flight of all workers are added up. Each worker labels at most
    `LABEL_VALUES` targets separately.
    """

    def __init__(self, registry: CollectorRegistry, targets: BoundedLabel | None = None) -> None:
        self._target = targets or BoundedLabel()
        self._requests = counter(m.REQUESTS, registry)
        self._errors = counter(m.ERRORS, registry)
        self._drilled = counter(m.DRILLED, registry)
        self._rejected = counter(m.REJECTED, registry)
        self._ttft = histogram(m.TTFT, registry)
        self._itl = histogram(m.ITL, registry)
        self._e2e = histogram(m.E2E, registry)
        self._input_tokens = counter(m.INPUT_TOKENS, registry)
        self._output_tokens = counter(m.OUTPUT_TOKENS, registry)
        self.in_flight = gauge(m.IN_FLIGHT, registry)
        self.body_wait = histogram(m.BODY_WAIT, registry)
        self.retries = counter(m.RETRIES, registry)
        self._endpoint = BoundedLabel()
        self._ejections = counter(m.EJECTIONS, registry)
        for environment in get_args(Environment):
            self.in_flight.labels(environment)
            for reason in ("endpoint_unreachable", "engine_dead", "engine_failed"):
                self.retries.labels(environment, reason)
        self.dropped = counter(m.TELEMETRY_DROPPED, registry)
        self.undescribed = counter(m.UNDESCRIBED, registry)
        for skipped in get_args(recorder.Skipped):
            self.undescribed.labels(skipped)
        self.mirrored = counter(m.MIRRORED, registry)
        self.shadowed = counter(m.SHADOWED, registry)
        self.rescued = counter(m.RESCUED, registry)
        self.body_bans = counter(m.BODY_BANS, registry)
        for change in get_args(body_bans.Change):
            self.body_bans.labels(change)  # an alert rule needs its start at 0 for `increase`
        self.slow_readers = counter(m.SLOW_READERS, registry)

    def observe(self, record: Inference) -> None:
        """Count one request."""
        by = (record.environment, self._target(record.target))
        answered = "rejected" if record.caused_by is not None else "ok"
        outcome = "error" if record.error else "cancelled" if record.finish_reason == "cancelled" else answered
        self._requests.labels(*by, outcome).inc()
        if record.error:
            self._errors.labels(*by, record.error).inc()
        elif outcome == "ok":
            self._e2e.labels(*by).observe(record.e2e_ms / 1000.0)
        if record.drill is not None:
            self._drilled.labels(*by).inc()
        if record.ttft_ms is not None:
            self._ttft.labels(*by).observe(record.ttft_ms / 1000.0)
        if record.itl_ms is not None:
            self._itl.labels(*by).observe(record.itl_ms.mean / 1000.0)
        self._input_tokens.labels(*by).inc(record.input_tokens)
        self._output_tokens.labels(*by).inc(record.output_tokens)

    def count_ejection(self, endpoint: str, change: str) -> None:
        """Count an endpoint's ejection or return."""
        self._ejections.labels(self._endpoint(endpoint), change).inc()

    def count_rejected(self, status: int, environment: Environment | None) -> None:
        """Count a request rejected before it reached a target; `environment` is None if invalid."""
        self._rejected.labels(environment or "unknown", str(status)).inc()
