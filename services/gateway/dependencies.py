"""The dependencies of the gateway's API endpoints, in one object."""

from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.trace import Tracer

from contracts.vocabulary import Environment
from services.gateway.api.body_bans import BodyBans
from services.gateway.callers.callers import Callers
from services.gateway.ports import Engine, NewId, Pause, Telemetry, TextFeatures
from services.gateway.routing.balancer import Balancer
from services.gateway.routing.endpoints import EndpointChecks
from services.gateway.routing.tables import DrillTable, RouteTable
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry.metrics import GatewayMetrics
from shared.runtime.clock import Clock


@dataclass(frozen=True)
class Dependencies:
    """Ports, tables and limits of the endpoints.

    Attributes:
        tables: the routes of each environment.
        telemetry: takes records and pairs of incomplete answers.
        features: takes records and pairs of complete answers, with their texts.
        tracer: creates the spans of requests; None passes the caller's trace on unchanged.
        settings: limits of sizes, times and numbers.
        bans: the request bodies refused because an engine died while processing them.
        checks: results of health checks of endpoints.
        balancer: chooses the endpoint of a target for a request.
    """

    tables: Mapping[Environment, RouteTable]
    callers: Callers
    drills: DrillTable
    engine: Engine
    checks: EndpointChecks
    telemetry: Telemetry
    features: TextFeatures
    metrics: GatewayMetrics
    tracer: Tracer | None
    clock: Clock
    new_id: NewId
    pause: Pause
    settings: GatewaySettings
    bans: BodyBans
    balancer: Balancer
