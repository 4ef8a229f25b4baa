"""Readiness and metrics of all workers together: the metrics page, and the result of `/readyz`."""

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
"""Seconds after startup in which the gateway is ready only with all workers."""
_REFRESH_S = 0.5
_READY, _RUNNING = m.WORKERS_READY.name, m.WORKERS.name


class WorkerState:
    """The state of one worker, merged with the others' by the metrics.

    Ready workers are counted; the bus is connected if every worker is; lost and older routes are the worst worker's.
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
            registry: receives the metrics.
            table: the routes of production.
            is_connected: whether the bus is connected.
            clock: measures the time since startup.
            workers: the configured number of workers.
            started_s: startup of the gateway on the monotonic clock, shared by all processes.
            keys: the API keys.
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

        Serving needs the bus or saved routes, and all keys: clients do not retry after a 401.
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
        """Export each target's traffic share, 0 after it left its route: workers cannot remove a series."""
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
        """Export the state of this process every `_REFRESH_S`, for the other workers."""
        while True:
            self.refresh()
            await pause(_REFRESH_S)

    def describe_keys(self) -> str:
        """Return the number of known keys as text."""
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
    """Return whether the whole gateway is ready.

    Every running worker accepts connections, so all of them must be ready. A missing worker accepts none: it is
    waited for only while the gateway is `starting`.
    """
    return 0 < running <= ready and (ready >= declared or not starting)


class MetricsPage:
    """ASGI application for the metrics page.

    With several workers it reads and adds up their metrics files: 100 ms for 8 workers and 40 targets.
    """

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], object]) -> None:
        """Show `registry`; each request calls `refresh` first."""
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
