"""Everything that the endpoints of the gateway work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from contracts.facts import Inference, MirroredPair
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment, Target
from decisions.openai_limits import CostLimits
from services.gateway.body_bans import BodyBans
from services.gateway.callers import Callers
from services.gateway.cross_checks import CrossChecks
from services.gateway.domain import routing
from services.gateway.drill_table import DrillTable
from services.gateway.http import BodyReader
from services.gateway.metrics import GatewayMetrics
from services.gateway.ports import Engine, NewId, Pause, TextFeatures
from services.gateway.request_traces import RequestTraces
from services.gateway.rescues import RescueBudgets
from services.gateway.route_table import RouteTable
from shared.runtime.clock import Clock


@dataclass(frozen=True)
class Dependencies:
    """Ports, tables and limits of the endpoints.

    Attributes:
        tables: the routes of each environment.
        record: takes the telemetry record of a request without a complete answer.
        record_pair: takes the pair of a request that two versions answered, not both completely.
        features: takes records and pairs of complete answers, with their texts.
        traces: makes the spans of each request.
        max_in_flight: most requests that are answered at the same time, per endpoint and environment.
        rescues: budgets of requests that the version behind answers after a failure.
        bans: the requests that are refused because an engine died under them.
        max_mirrors: most mirrored requests at the same time.
        write_s: time limit of a caller that reads nothing of its answer.
        lag_bytes: most bytes of an answer that wait for their caller.
        answer_s: time limit of a whole answer.
        limits: what one request may cost.
    """

    tables: Mapping[Environment, RouteTable]
    callers: Callers
    drills: DrillTable
    engine: Engine
    cross_checks: CrossChecks
    bodies: BodyReader
    record: Callable[[Inference], None]
    record_pair: Callable[[MirroredPair], None]
    features: TextFeatures
    metrics: GatewayMetrics
    traces: RequestTraces
    clock: Clock
    new_id: NewId
    pause: Pause
    max_in_flight: int
    rescues: RescueBudgets
    bans: BodyBans
    max_mirrors: int
    write_s: float
    lag_bytes: int
    answer_s: float
    limits: CostLimits

    def find_fallback(self, environment: Environment, target: Target) -> ServedTarget | None:
        """Return the fallback of a target in its route; None if there is none."""
        route = self.tables[environment].get(target.model)
        return None if route is None else routing.choose_fallback(route, target)
