"""The endpoint that was chosen for each target, from pass to pass."""

from collections.abc import Mapping
from dataclasses import replace

from contracts.routes import Route
from contracts.vocabulary import Deployable
from services.server_manager.domain.drains import names_drained
from services.server_manager.domain.placement import Known, find_all_named, find_counterparts, find_lost, plan_all_homes
from services.server_manager.domain.reconcile import Limits, home_of, plan_desired
from services.server_manager.domain.records import Servers
from services.server_manager.executor import Executor
from services.server_manager.ports import Engines


class Homes:
    """Chooses the endpoint of each target; what was chosen stays chosen while it is desired."""

    def __init__(self, engines: Engines, executor: Executor, limits: Limits) -> None:
        self._engines = engines
        self._executor = executor
        self._limits = limits
        self.chosen: dict[str, str] = {}
        """The endpoint of each target, by name, as it was chosen last."""
        self.intact: dict[str, str] = {}
        """The same if no endpoint were lost: what would fit then waits until one is back."""
        self._earlier: dict[str, str] = {}
        """What stays chosen: not where something waits only because another endpoint is lost."""

    def place(self, record: Servers, routes: Mapping[str, Route], down: Mapping[str, float]) -> dict[str, str]:
        """Choose the endpoint of everything that is desired or waits; `down` says how long endpoints are silent."""
        lost, named = find_lost(down, self._limits), self.named(routes)
        known = Known(
            named={
                name: next((endpoint for endpoint in homes if endpoint not in lost), homes[0])
                for name, homes in named.items()
            },
            copied=named,
            apart=find_counterparts(record, routes),
            lost=lost,
            earlier=self._earlier,
            drained=names_drained(record),
            unlisted=frozenset(self._engines.keys() - self._executor.known),
        )
        desired, held = plan_desired(routes, record), self._executor.held()
        self.chosen = self.intact = plan_all_homes(record, desired, held, self._limits, known)
        if known.lost:
            undisturbed = replace(known, lost=frozenset(), earlier={})
            self.intact = plan_all_homes(record, desired, held, self._limits, undisturbed)
        self._earlier = {
            name: home for name, home in self.chosen.items() if name in held or self.intact.get(name) == home
        }
        return self.chosen

    def named(self, routes: Mapping[str, Route]) -> dict[str, tuple[str, ...]]:
        """Return the endpoints that a route names, by the target's name."""
        return find_all_named(routes, {engine.endpoint: name for name, engine in self._engines.items()})

    def endpoint_of(self, deployable: Deployable) -> str:
        """Return the endpoint that holds a target, else the one that it belongs on."""
        held = self._executor.held().get(str(deployable.target))
        return held.endpoint if held is not None else home_of(deployable, self.chosen)

    def forget(self) -> None:
        """Forget what was chosen: another process leads."""
        self.chosen, self.intact, self._earlier = {}, {}, {}
