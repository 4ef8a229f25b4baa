"""The gateway's Prometheus metrics, by target; staging is never counted as production."""

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.facts import Inference
from contracts.vocabulary import Environment
from services.gateway.ports import Pause
from services.gateway.route_table import RouteTable

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30, 60)
_REFRESH_S = 0.5
_READY = "slipway_gateway_workers_ready"
_ITL_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5, 20)


class GatewayMetrics:
    """Counters and histograms, fed with one record per request.

    Several workers show their metrics as one: counters, histograms and requests in flight are added up, the bus is
    connected if it is in every worker, and of routes the worst worker counts.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "slipway_gateway_"
        by = ["environment", "target"]
        self._requests = Counter(
            name + "requests", "Requests by target and outcome", [*by, "outcome"], registry=registry
        )
        self._errors = Counter(name + "errors", "Failed requests by code", [*by, "code"], registry=registry)
        self._drilled = Counter(name + "drilled", "Requests that a drill affected", by, registry=registry)
        self._rejected = Counter(
            name + "rejected",
            "Requests that were rejected before they reached a target, by HTTP status",
            ["environment", "status"],
            registry=registry,
        )
        self._ttft = Histogram(
            name + "ttft_seconds", "First text minus arrival", by, registry=registry, buckets=_TTFT_S
        )
        self._itl = Histogram(
            name + "itl_seconds", "Mean time between tokens of a request", by, registry=registry, buckets=_ITL_S
        )
        self._tokens = Counter(name + "output_tokens", "Generated tokens", by, registry=registry)
        self.in_flight = Gauge(
            name + "in_flight",
            "Requests being answered",
            ["environment"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.retries = Counter(
            name + "retries", "Second attempts before the first token", ["environment"], registry=registry
        )
        for environment in get_args(Environment):
            self.in_flight.labels(environment)
            self.retries.labels(environment)
        self.dropped = Counter(
            name + "telemetry_dropped", "Telemetry records dropped while the bus was unavailable", registry=registry
        )
        self.undescribed = Counter(
            name + "undescribed", "Answers of the sample without features of their text", ["reason"], registry=registry
        )
        self.slow_readers = Counter(
            name + "slow_readers", "Callers dropped because they did not read their answer", registry=registry
        )
        self.unattributed = Counter(
            name + "unattributed",
            "Failed requests whose cause could not be determined",
            ["target"],
            registry=registry,
        )
        self._ready = Gauge(_READY, "Workers that can serve", registry=registry, multiprocess_mode="livesum")
        self._bus_connected = Gauge(
            name + "bus_connected",
            "1 while the bus is connected",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._routes_lost = Gauge(
            name + "routes_lost",
            "Models that are served although the bucket has no route of them",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._routes_older = Gauge(
            name + "routes_older",
            "Models whose route in the bucket is older than the served one",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def refresh(self, table: RouteTable, *, connected: bool) -> bool:
        """Export the state of this process; return whether it can serve.

        Saved routes are enough: a gateway must serve without the bus. Without either it cannot serve.
        """
        ready = connected or bool(table.all())
        self._ready.set(ready)
        self._bus_connected.set(connected)
        self._routes_lost.set(len(table.lost))
        self._routes_older.set(len(table.older))
        return ready

    async def keep_current(self, is_connected: Callable[[], bool], table: RouteTable, pause: Pause) -> None:
        """Export the state of this process again and again, for the other workers."""
        while True:
            self.refresh(table, connected=is_connected())
            await pause(_REFRESH_S)

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


def count_ready(exposed: CollectorRegistry) -> int:
    """Return the number of workers that can serve; `exposed` holds the metrics of all of them."""
    return round(exposed.get_sample_value(_READY) or 0)
