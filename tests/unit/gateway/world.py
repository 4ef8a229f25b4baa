"""The gateway's application with its fakes in reach."""

import asyncio
from datetime import timedelta

import httpx
from prometheus_client import generate_latest

from contracts.api_keys import ApiKey
from decisions.access.api_keys import digest_of_secret, format_key
from services.gateway.api.body_bans import BodyBans
from services.gateway.app import SERVICE, build
from services.gateway.callers.budgets import Budgets
from services.gateway.callers.callers import Callers
from services.gateway.callers.tables import KeyTable, TeamTable
from services.gateway.dependencies import Dependencies
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import EndpointChecks, Stalls
from services.gateway.routing.tables import DrillTable, RouteTable
from services.gateway.server.worker_state import WorkerState
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry.metrics import GatewayMetrics
from shared.messaging.bus import Bus
from shared.runtime.settings import Connection
from testbed.factories import MODEL, route, served
from tests.unit.gateway.fakes import FakeEngine, FakeTelemetry, InlineFeatures, StepClock

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 3}
STAGING = {"x-slipway-environment": "staging"}
SECRET = "ab" * 32
ID = "0123456789ab"
BEARER = {"authorization": f"Bearer {format_key(ID, SECRET)}"}
RAW_BEARER = [(b"authorization", BEARER["authorization"].encode())]
ISSUED = StepClock().now() - timedelta(days=1)


def key(**changes) -> ApiKey:
    """Return the record of the key that `BEARER` presents."""
    fields = {"key_id": ID, "name": "shop", "secret_digest": digest_of_secret(SECRET), "issued_at": ISSUED}
    return ApiKey(**({**fields, "issued_by": "ada"} | changes))


OWN_KEYS = (key(environments=("production", "staging")),)
OTHER_ID, OTHER_SECRET = "fedcba987654", "cd" * 32
OTHER = {"authorization": f"Bearer {format_key(OTHER_ID, OTHER_SECRET)}"}
OTHER_KEY = key(key_id=OTHER_ID, name="lab", secret_digest=digest_of_secret(OTHER_SECRET))
LIMITS = {"max_in_flight": 8, "max_body_bytes": 10_000}


class World:
    """Routes of production, and of staging and keys where given, else one that all requests present; time passes when the application pauses."""

    def __init__(
        self, *routes, staging=(), engine=None, pause=None, clock=None, keys=None, teams=None, **limits
    ) -> None:
        self.clock = clock or StepClock()
        self.engine = engine or FakeEngine()
        self.telemetry = FakeTelemetry()
        self.connected = True
        self.table = RouteTable({route.model: route for route in routes}, None)
        self.staging = RouteTable({route.model: route for route in staging}, None, "staging")
        known = OWN_KEYS if keys is None else keys
        self.keys = KeyTable({key.key_id: key for key in known} or None, None)
        self.budgets = Budgets(self.clock, "0123456789abcdef")
        self.callers = Callers(self.keys, self.clock, self.budgets, teams=teams or TeamTable(None, b"", self.clock))
        self.drills = DrillTable(self.clock)
        self.checks = EndpointChecks(self.engine, self.clock)
        bus = Bus(Connection(), SERVICE, self.clock)
        self.registry = bus.metrics
        self.state = WorkerState(
            bus.metrics,
            self.table,
            lambda: self.connected,
            clock=self.clock,
            workers=limits.get("workers", 1),
            started_s=self.clock.monotonic(),
            keys=self.keys,
        )
        self.settings = GatewaySettings(**{**LIMITS, **limits})
        ids = iter(range(1000))
        metrics = GatewayMetrics(bus.metrics)
        self.bans = BodyBans(self.clock, "0123456789abcdef", lambda change: metrics.body_bans.labels(change).inc())
        stalls = Stalls(
            self.engine.is_live,
            self.settings.stall_s,
            monotonic=self.clock.monotonic,
            count=metrics.count_ejection,
        )
        dependencies = Dependencies(
            tables={"production": self.table, "staging": self.staging},
            callers=self.callers,
            drills=self.drills,
            engine=self.engine,
            checks=self.checks,
            telemetry=self.telemetry,
            features=InlineFeatures(self.telemetry),
            metrics=metrics,
            tracer=None,
            clock=self.clock,
            new_id=lambda: f"id{next(ids)}",
            pause=pause or self.clock.pause,
            settings=self.settings,
            bans=self.bans,
            balancer=Balancer(self.clock, self.checks.serves, metrics.count_ejection, stalls),
        )
        apps = build(dependencies, bus, self.state)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(apps.api), base_url="http://gateway", headers=BEARER if keys is None else None
        )
        self.balancer = dependencies.balancer
        self.endpoints = self.balancer.report
        self.admin = httpx.AsyncClient(transport=httpx.ASGITransport(apps.admin), base_url="http://gateway")

    @property
    def records(self):
        return self.telemetry.records

    async def chat(self, headers=None, **changes):
        return await self.http.post("/v1/chat/completions", json={**HELLO, **changes}, headers=headers)

    async def ask(self, count, **changes):
        """Ask so often, one after the other, then let what goes on after the answers come to its end."""
        answers = [await self.chat(**changes) for _ in range(count)]
        for _ in range(50):
            await asyncio.sleep(0)
        return answers

    def sent_to(self, name):
        """Return how many requests the engine of a target got."""
        return sum(called == name for _, called, _ in self.engine.calls)

    async def complete(self, headers=None, **changes):
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 3, **changes}
        return await self.http.post("/v1/completions", json=body, headers=headers)

    def metric(self, name):
        return [line for line in generate_latest(self.registry).decode().splitlines() if line.startswith(name)]


def only_active(**changes):
    return route(canary=None, active=served(7, **{"pair_ratio": 0.0} | changes))
