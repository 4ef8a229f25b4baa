"""The state of this worker and of the others: metrics, their page, and the answer of `/readyz`."""

import asyncio
import gzip
import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts import metrics as m
from services.gateway.callers.tables import KeyTable
from services.gateway.ports import Pause
from services.gateway.routing.tables import RouteTable
from shared.runtime.clock import Clock
from shared.runtime.metrics import BoundedLabel, counter, gauge
from shared.runtime.process_metrics import sum_live_gauges

START_S = 10.0
"""Time after the start of the gateway, in seconds, in which it is ready only with all workers."""
_REFRESH_S = 0.5
_READY, _RUNNING = m.WORKERS_READY.name, m.WORKERS.name


class WorkerState:
    """The state of one worker, merged with the others'.

    Several workers show one state: ready workers are counted, the bus is connected if every worker has a connection,
    and the routes are those of the worst worker.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        table: RouteTable,
        is_connected: Callable[[], bool],
        *,
        clock: Clock,
        workers: int,
        started_s: float,
        keys: KeyTable,
    ) -> None:
        """Export nothing before the first `refresh`.

        Args:
            registry: takes the metrics.
            table: the routes of production.
            is_connected: whether the bus is connected.
            clock: measures the time since the start.
            workers: how many there should be.
            started_s: when the gateway was started, on the monotonic clock, which all processes share.
            keys: the keys that callers need.
        """
        self._keys = keys
        self._table, self.is_connected = table, is_connected
        self._clock, self._declared, self._complete_s = clock, workers, started_s + START_S
        self._ready = gauge(m.WORKERS_READY, registry)
        self._running = gauge(m.WORKERS, registry)
        self._bus_connected = gauge(m.BUS_CONNECTED, registry)
        self._routes_lost = gauge(m.ROUTES_LOST, registry)
        self._routes_older = gauge(m.ROUTES_OLDER, registry)
        self._route_share = gauge(m.ROUTE_SHARE, registry)
        self._api_key_expiry = gauge(m.API_KEY_EXPIRY, registry)
        self._target, self._shares = BoundedLabel(), dict[str, float]()
        counter(m.WORKER_STARTS, registry).inc()

    def refresh(self) -> bool:
        """Export the state of this process; return whether it can serve.

        Saved routes are enough: a gateway must serve without the bus. Without either it cannot serve. It
        must know the keys of callers: clients do not repeat a request that was answered with 401.
        """
        connected = self.is_connected()
        ready = (connected or bool(self._table.all())) and self._keys.is_complete
        self._ready.set(ready)
        self._running.set(1)
        self._bus_connected.set(connected)
        self._routes_lost.set(len(self._table.lost))
        self._routes_older.set(len(self._table.older))
        self._export_shares()
        expires_at = self._keys.next_expiry(self._clock.now())
        self._api_key_expiry.set(math.inf if expires_at is None else expires_at.timestamp())
        return ready

    def _export_shares(self) -> None:
        """Export the share of each target, 0 after it left its route: several processes cannot remove a series."""
        shares = dict.fromkeys(self._shares, 0.0)
        for route in self._table.all():
            canary = route.canary.weight_ratio if route.canary is not None else 0.0
            if route.active is not None:
                shares[self._target(route.active.target)] = 1.0 - canary
            if route.canary is not None:
                shares[self._target(route.canary.served.target)] = canary
        for target, share in shares.items():
            if self._shares.get(target) != share:
                self._route_share.labels(target).set(share)
        self._shares = shares

    async def keep_current(self, pause: Pause) -> None:
        """Export the state of this process again and again, for the other workers."""
        while True:
            self.refresh()
            await pause(_REFRESH_S)

    def describe_keys(self) -> str:
        """Return how many keys are known."""
        return str(len(self._keys)) if self._keys.is_complete else "not known yet"

    def check(self) -> tuple[bool, str]:
        """Return whether the gateway is ready, and the number of ready workers as text."""
        own = self.refresh()
        sums = sum_live_gauges() or {_READY: own, _RUNNING: 1}
        ready, running = round(sums.get(_READY, 0)), round(sums.get(_RUNNING, 0))
        starting = self._clock.monotonic() < self._complete_s
        is_ready = own and decide_ready(ready, running, self._declared, starting=starting)
        return is_ready, f"{ready} of {self._declared} ready"


def decide_ready(ready: int, running: int, declared: int, *, starting: bool) -> bool:
    """Return whether a gateway is ready as a whole.

    A worker that runs takes connections, so all that run must be able to serve. One that is missing takes none: the
    gateway is ready without it, but not before all workers had the time to start.
    """
    return 0 < running <= ready and (ready >= declared or not starting)


class MetricsPage:
    """An ASGI application that shows a registry.

    With the metrics of several processes, their files are read and added up: 100 ms for 8 workers and 40 targets.
    """

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], object]) -> None:
        """Show a registry, after `refresh` has brought it up to date."""
        self._registry, self._refresh = registry, refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the current metrics."""
        self._refresh()
        page = await asyncio.to_thread(self._render, Headers(scope=scope))
        await page(scope, receive, send)

    def _render(self, headers: Headers) -> Response:
        encode, media_type = choose_encoder(headers.get("accept", ""))
        body = encode(self._registry)
        if gzip_accepted(headers.get("accept-encoding", "")):
            return Response(gzip.compress(body), headers={"content-encoding": "gzip"}, media_type=media_type)
        return Response(body, media_type=media_type)
