"""The gateway's Prometheus metrics, by target; staging is never counted as production."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.facts import Inference
from contracts.vocabulary import Environment

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30, 60)
_ITL_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5, 20)
_BY_TARGET = ("environment", "target")


class GatewayMetrics:
    """Counters and histograms, fed with one record per request.

    Several workers show their metrics as one: counters, histograms and requests in flight are added up.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slipway_gateway_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"slipway_gateway_{name}", text, _BY_TARGET, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests by target and outcome", *_BY_TARGET, "outcome")
        self._errors = counter("errors", "Failed requests by code", *_BY_TARGET, "code")
        self._drilled = counter("drilled", "Requests that a drill affected", *_BY_TARGET)
        text = "Requests that were rejected before they reached a target, by HTTP status"
        self._rejected = counter("rejected", text, "environment", "status")
        self._ttft = histogram("ttft_seconds", "First text minus arrival", _TTFT_S)
        self._itl = histogram("itl_seconds", "Mean time between tokens of a request", _ITL_S)
        self._tokens = counter("output_tokens", "Generated tokens", *_BY_TARGET)
        self.in_flight = Gauge(
            "slipway_gateway_in_flight",
            "Requests being answered",
            ["environment"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.retries = counter("retries", "Second attempts before the first token", "environment")
        for environment in get_args(Environment):
            self.in_flight.labels(environment)
            self.retries.labels(environment)
        self.dropped = counter(
            "telemetry_dropped", "Telemetry records dropped: the queue is full, or a batch cannot be published"
        )
        self.undescribed = counter("undescribed", "Answers of the sample without features of their text", "reason")
        self.slow_readers = counter("slow_readers", "Callers dropped because they did not read their answer")
        self.unattributed = counter("unattributed", "Failed requests whose cause could not be determined", "target")

    def observe(self, record: Inference) -> None:
        """Count one request."""
        by = (record.environment, str(record.target))
        answered = "rejected" if record.caused_by is not None else "ok"
        outcome = "error" if record.error else "cancelled" if record.finish_reason == "cancelled" else answered
        self._requests.labels(*by, outcome).inc()
        if record.error:
            self._errors.labels(*by, record.error).inc()
        if record.drill is not None:
            self._drilled.labels(*by).inc()
        if record.ttft_ms is not None:
            self._ttft.labels(*by).observe(record.ttft_ms / 1000.0)
        if record.itl_ms is not None:
            self._itl.labels(*by).observe(record.itl_ms.mean / 1000.0)
        self._tokens.labels(*by).inc(record.output_tokens)

    def count_rejected(self, status: int, environment: Environment | None) -> None:
        """Count a request that was rejected before it reached a target; None if its environment is not valid."""
        self._rejected.labels(environment or "unknown", str(status)).inc()
