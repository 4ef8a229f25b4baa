"""Keeps every routed version monitored, even if a record was lost or an event never arrived."""

from dataclasses import dataclass, field
from typing import Final

import structlog

from contracts.policy import ReleasePolicy
from contracts.records import record_key
from contracts.routes import Route
from contracts.vocabulary import ENVIRONMENTS, Environment
from decisions.routes.versions import without_policy
from services.monitor.app import Monitor, Watched
from services.monitor.domain import rebuilding
from services.monitor.domain.monitoring import Cause, follow_route
from services.monitor.domain.record import MonitorState
from services.monitor.ports import OpenAlerts, Policies, Routes
from shared.runtime.sweeper import Sweeper

_EVERY_S: Final = 5.0
_LATE_S: Final = 30.0
"""Seconds for a route's event to arrive before the stored route is applied: events arrive one by one."""


@dataclass(frozen=True)
class RoutedModels:
    """Compares each stored route with the monitor's record, and adds missing changes.

    Attributes:
        behind: The record's epoch, and since when (monotonic) the stored route is ahead of it.
    """

    monitor: Monitor
    routes: Routes
    policies: Policies
    alerts: OpenAlerts
    behind: dict[Watched, tuple[int, float]] = field(default_factory=dict)

    async def keys(self) -> list[Watched]:
        """Return environment and model of every route."""
        return [(environment, model) for environment in ENVIRONMENTS for model in await self.routes.models(environment)]

    async def sweep(self, key: Watched) -> None:
        """Apply a stored route if its event is missing, add missing policies, resolve lost alerts of the log."""
        environment, model = key
        entry = await self.routes.get(environment, model)
        if entry is None:
            return
        route = entry.value
        state = await self.monitor.states.read(record_key(environment, model))
        state = state or MonitorState(model=model, environment=environment)
        now = self.monitor.clock.now()
        cause = Cause(f"{environment}.{model}/route/{now.isoformat()}", now)
        if self._is_due(key, state, route):
            structlog.get_logger().warning("route followed as it is stored", model=model, environment=environment)
            state = await self.monitor.transact(
                environment, model, lambda state: follow_route(state, route, cause, self.monitor.rules)
            )
        missing = without_policy(route, state.policies)
        if missing or state.unknown:
            await self._add_policies(environment, model, route, missing, cause)
        if not state.past_read:
            still_open = await self.alerts.read(environment, model)
            await self.monitor.transact(
                environment, model, lambda state: rebuilding.resolve_past(state, still_open, cause)
            )

    def _is_due(self, key: Watched, state: MonitorState, route: Route) -> bool:
        """Return whether to apply the stored route: the record has none, or lags behind it for `_LATE_S`."""
        if not state.route_known:
            return True
        now_s = self.monitor.clock.monotonic()
        epoch, since_s = self.behind.get(key, (None, now_s))
        if route.epoch <= state.epoch or epoch != state.epoch:
            self.behind[key] = (state.epoch, now_s)
            return False
        return now_s - since_s >= _LATE_S

    async def _add_policies(
        self, environment: Environment, model: str, route: Route, missing: tuple[int, ...], cause: Cause
    ) -> None:
        found: dict[int, tuple[str, ReleasePolicy] | str] = {}
        for version in missing:
            signed = await self.policies.read(model, version)
            found[version] = signed if isinstance(signed, str) else (signed.release_id, signed.policy)
        await self.monitor.transact(environment, model, lambda state: rebuilding.add_signed(state, route, found, cause))


def build_routed_sweeper(routed: RoutedModels) -> Sweeper[Watched]:
    """Return the loop that keeps routed versions monitored."""
    return Sweeper("routed models", routed.keys, routed.sweep, every_s=_EVERY_S)
