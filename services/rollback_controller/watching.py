"""Notices that production is not watched: no telemetry or windows arrive, or triggers are not known."""

from contracts.api_usage import TrafficReport
from contracts.vocabulary import Environment
from services.rollback_controller.domain import blindness
from services.rollback_controller.domain.blindness import Arrived, Limits, Seen, Traffic
from services.rollback_controller.domain.record import Arriving
from services.rollback_controller.ports import Arrivals, Routes
from services.rollback_controller.states import KnownPolicies, RollbackStates
from shared.errors import SlipwayError
from shared.messaging.alert_log import OpenAlerts
from shared.runtime.clock import Clock


class Watching:
    """Raises an alert while a model has traffic but its telemetry, its windows or its triggers are missing.

    Every process hears all reports of gateways. Concurrent equal decisions are stored only once.
    """

    def __init__(
        self,
        states: RollbackStates,
        routes: Routes,
        arrivals: Arrivals,
        policies: KnownPolicies,
        past: OpenAlerts,
        *,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._states = states
        self._routes = routes
        self._arrivals = arrivals
        self._policies = policies
        self._past = past
        self._clock = clock
        self._limits = limits
        self._began_s = clock.monotonic()
        self._traffic: dict[str, Traffic] = {}
        self._arrived: dict[tuple[str, Arriving], Arrived] = {}

    def take_report(self, report: TrafficReport) -> None:
        """Note the traffic by model in a gateway's report."""
        self._traffic = blindness.note_traffic(self._traffic, report.traffic, self._clock.monotonic())

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return the models that have a record or a route of production."""
        recorded = {model for environment, model in await self._states.keys() if environment == "production"}
        return [("production", model) for model in sorted({*recorded, *await self._routes.models("production")})]

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Raise or resolve the alert about one model; if the bus does not answer, forget what was seen of the model."""
        environment, model = key
        try:
            arrived = {kind: await self._look(model, kind) for kind in _KINDS}
            entry = await self._routes.get(environment, model)
            state = await self._states.read(environment, model)
            route = entry.value if entry is not None else None
            unknown = await self._policies.complete(environment, model, state, route)
        except SlipwayError:
            self._forget(model)
            raise
        active = route.active.target if route is not None and route.active is not None else None
        now_s, now = self._clock.monotonic(), self._clock.now()
        traffic = self._traffic.get(model)
        lasts_s = traffic.lasts_s(now_s) if traffic is not None else 0.0
        seen = Seen(now_s, lasts_s, now_s - self._began_s, arrived, unknown)
        if state.blind is not None or blindness.find_unseen(seen, self._limits) is not None:
            await self._states.transact(
                environment, model, lambda state: blindness.assess(state, active, seen, now, self._limits)
            )
        if not state.past_read:
            past = await self._past.read(environment, model)
            await self._states.transact(environment, model, lambda state: blindness.resolve_past(state, past, now))

    async def _look(self, model: str, kind: Arriving) -> Arrived:
        sequence, now_s = await self._arrivals.last(kind, model), self._clock.monotonic()
        before = self._arrived.get((model, kind))
        after = Arrived(sequence, now_s) if before is None else before.note(sequence, now_s)
        self._arrived[model, kind] = after
        return after

    def _forget(self, model: str) -> None:
        """Forget what was seen of a model, so that its silence is measured anew."""
        self._traffic.pop(model, None)
        for kind in _KINDS:
            self._arrived.pop((model, kind), None)


_KINDS: tuple[Arriving, ...] = ("telemetry", "windows")
