"""The gateway's application with its fakes in reach."""

import httpx
from prometheus_client import CollectorRegistry, generate_latest

from services.gateway.app import build
from services.gateway.completions import Parts
from services.gateway.cross_checks import Proofs
from services.gateway.drill_table import DrillTable
from services.gateway.http import Bodies
from services.gateway.metrics import GatewayMetrics
from services.gateway.route_table import RouteTable
from tests.kit.factories import MODEL, route, served
from tests.unit.gateway.fakes import FakeEngine, InProcessTemplates, StepClock

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 3}
STAGING = {"x-slipway-environment": "staging"}


class World:
    """Routes of production, and of staging where given; time passes when the application pauses."""

    def __init__(self, *routes, staging=(), engine=None, max_in_flight=8, pause=None, bodies=None, **limits) -> None:
        self.engine = engine or FakeEngine()
        self.records = []
        self.bus = True
        self.registry = CollectorRegistry()
        self.clock = StepClock()
        self.table = RouteTable({one.model: one for one in routes}, None)
        self.staging = RouteTable({one.model: one for one in staging}, None, "staging")
        self.drills = DrillTable(self.clock)
        ids = iter(range(1000))
        self.parts = Parts(
            tables={"production": self.table, "staging": self.staging},
            drills=self.drills,
            engine=self.engine,
            templates=InProcessTemplates(),
            record=self.records.append,
            metrics=GatewayMetrics(self.registry),
            clock=self.clock,
            new_id=lambda: f"id{next(ids)}",
            max_in_flight=max_in_flight,
            bodies=bodies or Bodies(max_bytes=10_000),
            proofs=Proofs(self.engine, self.clock),
            pause=pause or self.clock.pause,
            **limits,
        )
        app = build(self.parts, registry=self.registry, bus_connected=lambda: self.bus, telemetry_trouble=lambda: None)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")

    async def chat(self, headers=None, **changes):
        return await self.http.post("/v1/chat/completions", json={**HELLO, **changes}, headers=headers)

    async def complete(self, headers=None, **changes):
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 3, **changes}
        return await self.http.post("/v1/completions", json=body, headers=headers)

    def metric(self, name):
        return [line for line in generate_latest(self.registry).decode().splitlines() if line.startswith(name)]


def only_active(**changes):
    return route(canary=None, active=served(7, **changes))
